"""Tensors that another project named and laid out, taken one by one, each checked."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

__all__ = ["Conv", "Given", "Weights"]

Conv = tuple[int, int]
"""Kernel and stride of a convolution without padding."""


@dataclass(frozen=True)
class Given:
    """What a file of weights does not say, and its owner does.

    Attributes:
        routing_iterations: as the other project counts them; None for what it does by default.
        image_shape: channels, height and width; None for square images.
        mapping: a file that describes the layout ``mapping``; the others take none.
    """

    routing_iterations: int | None = None
    image_shape: tuple[int, int, int] | None = None
    mapping: Path | None = None


@dataclass
class Weights:
    """The tensors of a file; a layout takes all of them, and names the sizes of their axes.

    Attributes:
        tensors: those that are not taken yet, by name, in the file's order.
        given: what the file's owner said.
        sizes: of the axes that were named.
        assumed: what the file does not say, in words; for its owner to check.
    """

    tensors: dict[str, Tensor]
    given: Given = Given()
    sizes: dict[str, int] = field(default_factory=dict)
    assumed: list[str] = field(default_factory=list)
    _answered: set[str] = field(default_factory=set)

    def drop_prefixes(self, *prefixes: str) -> None:
        """Take prefixes off the names that have them.

        Raises:
            ValueError: if two tensors would then have the same name.
        """
        for prefix in prefixes:
            for name in self.tensors:
                if name.startswith(prefix) and name.removeprefix(prefix) in self.tensors:
                    raise ValueError(f"{name} is there with and without {prefix}")
            self.tensors = {n.removeprefix(prefix): t for n, t in self.tensors.items()}

    def take(self, name: str, axes: str) -> Tensor:
        """A tensor whose axes are named, such as ``"stem channels kernel kernel"``.

        Args:
            name: of the tensor.
            axes: names and numbers. The first tensor with a name says its size; all others must
                have the same.

        Raises:
            ValueError: if it is missing, or has another shape.
        """
        words = axes.split()
        known = [int(w) if w.isdecimal() else self.sizes.get(w) for w in words]
        sizes = zip(words, known, strict=True)
        expected = ", ".join(word if size is None else str(size) for word, size in sizes)
        tensor = self.tensors.pop(name, None)
        if tensor is None:
            raise ValueError(f"{name} is missing, expected of shape [{expected}]")
        shape = tensor.shape
        found = dict(zip(words, shape, strict=False))
        fits = len(words) == len(shape) and all(
            size > 0 and size == (found[word] if wanted is None else wanted)
            for word, wanted, size in zip(words, known, shape, strict=True)
        )
        if not fits:
            raise ValueError(f"{name} has shape {list(shape)}, expected [{expected}]")
        self.sizes |= {word: size for word, size in found.items() if not word.isdecimal()}
        return tensor

    def finish(self) -> None:
        """Raise ValueError where a tensor or what was given is of another network."""
        for name, tensor in self.tensors.items():
            raise ValueError(f"{name}, of shape {list(tensor.shape)}, is not expected")
        for question in ("routing_iterations", "image_shape"):
            if getattr(self.given, question) is not None and question not in self._answered:
                option = question.replace("_", "-")
                raise ValueError(f"the layout takes no --{option}: leave that out")

    def routing_iterations(self, usual: int) -> int:
        """Rounds of routing, as the other project counts them.

        Args:
            usual: what it does by default.
        """
        self._answered.add("routing_iterations")
        if self.given.routing_iterations is not None:
            return self.given.routing_iterations
        self.assumed.append(
            f"{usual} routing iterations, that project's default (--routing-iterations)"
        )
        return usual

    def image_shape(
        self, channels: int, positions: int, convolutions: Iterable[Conv], pixels: int | None = None
    ) -> tuple[int, int, int]:
        """Channels, height and width of the images.

        Args:
            channels: of the images.
            positions: at which there are capsules.
            convolutions: between the images and the capsules.
            pixels: values of an image, where a decoder says so.

        Raises:
            ValueError: if what was given, or the decoder's images, are not of this network.
        """
        self._answered.add("image_shape")
        layers = list(convolutions)
        shape = self.given.image_shape
        if shape is None:
            if pixels is None:
                side = _largest_side(math.isqrt(positions), layers)
                self.assumed.append(f"images of {side}x{side} (--image-shape)")
            else:
                side = math.isqrt(pixels // channels)
            shape = (channels, side, side)
        behind = [_behind(size, layers) for size in shape[1:]]
        given = "x".join(map(str, shape))
        if shape[0] != channels:
            raise ValueError(f"the images have {channels} channels, {given} was given")
        if behind[0] * behind[1] != positions or pixels not in (None, math.prod(shape)):
            drawn = "" if pixels is None else f" and the decoder for {pixels} values"
            raise ValueError(
                f"images of {given} have capsules at {behind[0]}x{behind[1]} positions, the "
                f"capsule layer is for {positions}{drawn}; say which images (--image-shape)"
            )
        return shape


def _largest_side(side: int, layers: list[Conv]) -> int:
    """Of the squares that convolutions make a smaller one of, the largest."""
    for kernel, stride in reversed(layers):
        side = side * stride + kernel - 1
    return side


def _behind(size: int, layers: list[Conv]) -> int:
    for kernel, stride in layers:
        size = max(0, (size - kernel) // stride + 1)
    return size
