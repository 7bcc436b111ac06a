"""A step of training."""

import ctypes
import sys
from collections.abc import Callable

import torch
from torch import Tensor

from capsnet.model import CapsNet, head
from capsnet.training.forms import encode
from capsnet.training.loss import margin_loss, reconstruction_loss

__all__ = ["reuse_freed_memory", "training_step"]


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
        encoder: gives what the last layer gives; another form of it, for comparisons.

    Returns:
        The loss before the step, and the number of images that were classified correctly.
    """
    with torch.autocast(images.device.type, torch.bfloat16, enabled=images.device.type == "cuda"):
        lengths, capsules = head(encoder(model, images), model.activated)
        loss = margin_loss(lengths, labels)
        if model.decoder is not None:
            loss = loss + reconstruction_loss(model.reconstruct(capsules, labels), images)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach(), (lengths.argmax(-1) == labels).sum()


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
