"""A capsule network that reads like the paper (arXiv:1710.09829), composed of layers.

This is the model that is trained, and the reference that every exported artifact is compared with.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from capsnet.about import About
from capsnet.artifact import INPUT_NAME
from capsnet.config import CapsNetConfig
from capsnet.documents import to_values
from capsnet.layers.base import Shape

__all__ = ["CapsNet", "head"]


def head(capsules: Tensor, activated: bool) -> tuple[Tensor, Tensor]:
    """Lengths and class capsules from what the last capsule layer gives.

    Args:
        capsules: ``[batch, classes, dim]``.
        activated: whether their last value is an activation, see ``LayerConfig``.

    Returns:
        Lengths ``[batch, classes]``, the activations where there are some, and the capsules'
        poses.
    """
    if activated:
        return capsules[..., -1], capsules[..., :-1]
    return torch.linalg.vector_norm(capsules, dim=-1), capsules


class CapsNet(nn.Module):
    """Stem, primary capsules, a stack of capsule layers, and (if configured) a decoder.

    Everything follows the dtype of the parameters: float64, float32, bfloat16, float16.

    Args:
        config: what it is composed of.

    Attributes:
        decision: the output that decides the class.
        about: what is known of its classes and training images, for those who will run it.
    """

    decision: str | None = "lengths"
    __jit_unused_properties__: ClassVar = ["classes", "identity", "input_shapes"]

    def __init__(self, config: CapsNetConfig) -> None:
        super().__init__()
        self.config = config
        self.about = About()
        self.activated = config.activated  # torch.jit.script sees no configuration
        layers = config.layers().values()
        stem, primary, *routed = (
            layer.build(shape) for layer, shape in zip(layers, config.shapes, strict=False)
        )
        self.stem = stem
        self.primary = primary
        self.capsule_layers = nn.ModuleList(routed)
        self.decoder = None
        if config.decoder is not None:
            capsules = config.classes, config.class_dim
            self.decoder = config.decoder.build(capsules, config.image_shape)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Classify images.

        Args:
            images: ``[batch, channels, height, width]``, values 0..1.

        Returns:
            Lengths ``[batch, classes]`` (the probability that the class is present) and the
            class capsules ``[batch, classes, dim]``.
        """
        capsules = self.primary(self.stem(images))
        for layer in self.capsule_layers:
            capsules = layer(capsules)
        return head(capsules, self.activated)

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
            raise ValueError("this network has no decoder: config.decoder is None")
        mask = nn.functional.one_hot(classes, capsules.shape[1]).to(capsules.dtype)
        images: Tensor = self.decoder(capsules * mask.unsqueeze(-1))
        return images

    def parts(self) -> Mapping[str, nn.Module]:
        """The layers by the name of their stage, in the order of computation."""
        return dict(
            zip(self.config.layers(), (self.stem, self.primary, *self.capsule_layers), strict=True)
        )

    @property
    def input_shapes(self) -> Mapping[str, Shape]:
        """The shape of one image, by the name of the input."""
        return {INPUT_NAME: self.config.image_shape}

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.config.classes

    @property
    def identity(self) -> dict[str, Any]:
        """What artifacts say of it: the configuration, as JSON values."""
        values: dict[str, Any] = to_values(self.config)
        return values

    def outputs_by_name(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Lengths, capsules and, where there is a decoder, the reconstruction of the longest."""
        lengths, capsules = self(*inputs)
        outputs = {"lengths": lengths, "capsules": capsules}
        if self.decoder is not None:
            outputs["reconstruction"] = self.reconstruct(capsules, lengths.argmax(dim=-1))
        return outputs
