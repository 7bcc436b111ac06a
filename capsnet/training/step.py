"""A step of training, with the encoder in the form that trains fastest: the same function."""

import ctypes
import math
import sys
from collections.abc import Callable

import torch
from torch import Tensor

from capsnet.layers.dense import pack_weight, projected_routing
from capsnet.layers.routing import squash
from capsnet.model import PRIMARY_SCALE, CapsNet, CapsuleLayer
from capsnet.training.frequency import frequency_conv2d
from capsnet.training.loss import margin_loss, reconstruction_loss

__all__ = ["encode", "reuse_freed_memory", "training_step"]

_ROUTED_IMAGES = 32  # at a time: what lies between the products then stays in a CPU's caches
_LARGEST_FREQUENCY_GRID = 256  # positions; beyond it the dense Fourier transform costs too much


def encode(model: CapsNet, images: Tensor) -> Tensor:
    """Class capsules of ``model``, equal to its own forward pass up to rounding.

    Args:
        model: the network; gradients flow to its parameters.
        images: ``[batch, channels, height, width]``, values 0..1.

    Returns:
        Class capsules ``[batch, classes, dim]``.
    """
    hidden = model.stem(images).relu_()  # in place: no gradient needs what was there before
    capsules: Tensor = model.to_capsules(_primary(model, hidden))
    capsules = squash(capsules) if model.squash_primary else capsules * PRIMARY_SCALE
    for layer in model.capsule_layers:
        assert isinstance(layer, CapsuleLayer)
        weight = pack_weight(layer.weight)
        parts = capsules.split(_ROUTED_IMAGES) if images.device.type == "cpu" else [capsules]
        routed = [
            projected_routing(part.mT.contiguous(), weight, layer.routing_iterations)
            for part in parts
        ]
        capsules = torch.cat(routed)
    return capsules


def training_step(
    model: CapsNet,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    encoder: Callable[[CapsNet, Tensor], Tensor] = encode,
) -> tuple[Tensor, Tensor]:
    """One optimizer step on margin and reconstruction loss.

    Args:
        model: the network.
        optimizer: of its parameters.
        images: ``[batch, channels, height, width]``, values 0..1.
        labels: int64 ``[batch]``.
        encoder: gives the class capsules; another form of the same function, for comparisons.

    Returns:
        The loss before the step, and the number of images that were classified correctly.
    """
    with torch.autocast(images.device.type, torch.bfloat16, enabled=images.device.type == "cuda"):
        capsules = encoder(model, images)
        lengths = torch.linalg.vector_norm(capsules, dim=-1)
        loss = margin_loss(lengths, labels)
        if model.decoder is not None:
            loss = loss + reconstruction_loss(model.reconstruct(capsules, labels), images)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach(), (lengths.argmax(-1) == labels).sum()


def _primary(model: CapsNet, hidden: Tensor) -> Tensor:
    convolution = model.primary
    stride = convolution.stride[0]
    grid = math.prod(-(-size // stride) for size in hidden.shape[-2:])
    poses: Tensor
    if hidden.device.type == "cpu" and grid <= _LARGEST_FREQUENCY_GRID:
        assert convolution.bias is not None
        poses = frequency_conv2d(hidden, convolution.weight, stride)
        poses = poses + convolution.bias[:, None, None]
    else:
        poses = convolution(hidden)
    return poses


def reuse_freed_memory() -> None:
    """Let this process keep freed memory instead of handing it back to the system.

    A training step allocates and frees gigabytes of temporaries; faulting their pages in anew costs
    up to half of its time on a CPU. Does nothing where the C library is not glibc.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        trim_threshold, top_pad, mmap_max = -1, -2, -4  # malloc.h
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(top_pad, 2**28)
