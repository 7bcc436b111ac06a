"""A capsule network that reads like the paper (arXiv:1710.09829), built as readable_capsnet is.

This is the model that is trained, and the reference that every exported artifact is compared with.
"""

from itertools import pairwise

import torch
from einops.layers.torch import Rearrange
from torch import Tensor, nn

from capsnet.config import CapsNetConfig, CapsuleLayerConfig
from capsnet.layers.routing import dynamic_routing, squash

__all__ = ["PRIMARY_SCALE", "CapsNet", "CapsuleLayer"]

PRIMARY_SCALE = 0.01
"""Factor of the ``scale`` primary activation: keeps capsule lengths away from 1."""


class CapsuleLayer(nn.Module):
    """Capsules that vote for capsules of the next layer, routed by agreement. Stackable.

    Args:
        in_capsules: number of input capsules.
        in_dim: length of an input capsule.
        config: sizes and routing iterations of the layer.
    """

    def __init__(self, in_capsules: int, in_dim: int, config: CapsuleLayerConfig) -> None:
        super().__init__()
        self.routing_iterations = config.routing_iterations
        self.weight = nn.Parameter(torch.empty(in_capsules, in_dim, config.capsules, config.dim))
        bound = (3 / in_dim) ** 0.5  # votes keep the variance of the capsules that cast them
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, capsules: Tensor) -> Tensor:
        """Capsules ``[batch, in_capsules, in_dim]`` to ``[batch, capsules, dim]``."""
        votes = torch.einsum("bid,idoh->bioh", capsules, self.weight)
        return dynamic_routing(votes, self.routing_iterations)


class Decoder(nn.Sequential):
    """Reconstructs the image from the class capsules, all but one of which are masked to zero."""

    def __init__(self, config: CapsNetConfig, hidden_sizes: tuple[int, ...]) -> None:
        channels, height, width = config.image_shape
        sizes = (config.classes * config.class_dim, *hidden_sizes)
        super().__init__(
            Rearrange("batch classes dim -> batch (classes dim)"),
            *(m for pair in pairwise(sizes) for m in (nn.Linear(*pair), nn.ReLU())),
            nn.Linear(sizes[-1], channels * height * width),
            nn.Sigmoid(),
            Rearrange("batch (c h w) -> batch c h w", c=channels, h=height, w=width),
        )


class CapsNet(nn.Module):
    """Stem, primary capsules, a stack of capsule layers, and (if configured) a decoder.

    Everything follows the dtype of the parameters: float64, float32, bfloat16, float16.

    Args:
        config: the network's sizes.
    """

    def __init__(self, config: CapsNetConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.image_shape[0]
        primary_channels = config.primary_groups * config.primary_dim
        self.stem = nn.Conv2d(channels, config.stem_channels, config.stem_kernel)
        self.primary = nn.Conv2d(
            config.stem_channels, primary_channels, config.primary_kernel, config.primary_stride
        )
        self.to_capsules = Rearrange("b (g d) h w -> b (h w g) d", d=config.primary_dim)
        self.squash_primary = config.primary_activation == "squash"
        self.primary_scale = PRIMARY_SCALE  # torch.jit.script sees attributes, not module globals
        self.capsule_layers = nn.ModuleList()
        capsules, dim = config.primary_capsules, config.primary_dim
        for layer in config.capsule_layers:
            self.capsule_layers.append(CapsuleLayer(capsules, dim, layer))
            capsules, dim = layer.capsules, layer.dim
        self.decoder = Decoder(config, config.decoder_sizes) if config.decoder_sizes else None

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Classify images.

        Args:
            images: ``[batch, channels, height, width]``, values 0..1.

        Returns:
            Lengths ``[batch, classes]`` (the probability that the class is present) and the
            class capsules ``[batch, classes, dim]``.
        """
        primary = self.to_capsules(self.primary(torch.relu(self.stem(images))))
        capsules = squash(primary) if self.squash_primary else primary * self.primary_scale
        for layer in self.capsule_layers:
            capsules = layer(capsules)
        return torch.linalg.vector_norm(capsules, dim=-1), capsules

    def reconstruct(self, capsules: Tensor, classes: Tensor) -> Tensor:
        """Decode images from one class capsule each.

        Args:
            capsules: ``[batch, classes, dim]``.
            classes: the capsule to decode, int64 ``[batch]``: the label in training, the longest
                capsule in inference.

        Returns:
            Images ``[batch, channels, height, width]``, values 0..1.

        Raises:
            ValueError: if the network was configured without a decoder.
        """
        if self.decoder is None:
            raise ValueError("this network has no decoder: config.decoder_sizes is None")
        mask = nn.functional.one_hot(classes, self.config.classes).to(capsules.dtype)
        images: Tensor = self.decoder(capsules * mask.unsqueeze(-1))
        return images
