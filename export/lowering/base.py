"""Rewriting a network layer by layer: what a lowered layer is, and the one that changes nothing.

A kind of layer that has a faster form registers it with :func:`rewrites`, in a module of its own
beside this one. One that has none is exported as it is written.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from capsnet.artifact import Claim
from capsnet.layers.base import Shape
from capsnet.precision import Precision

__all__ = [
    "READABLE",
    "AsWritten",
    "Given",
    "Layout",
    "LoweredLayer",
    "Options",
    "rewrite",
    "rewrites",
]


@dataclass(frozen=True)
class Options:
    """What decides how a layer is lowered.

    Attributes:
        precision: of the artifact.
        forms: a form for each choice that is not left to the layer, such as
            ``{"routing": "votes"}``.
        preferred: forms that what runs the artifact is fastest at, where they fit the layer.
    """

    precision: Precision
    forms: Mapping[str, str]
    preferred: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Layout:
    """How capsules or features are laid out between two lowered layers.

    The readable layout of capsules is ``[batch, capsules, dim]``, of features ``[batch, channels,
    height, width]``.

    Attributes:
        dim_first: whether capsules are ``[batch, dim, capsules]``.
        places: int64 ``[capsules]``: where each of the readable layer's capsules lies; None for all
            in their own places.
        affine: ``[2, channels]``, scale and shift that features still lack: the next layer folds
            them into its weights. None for none.
    """

    dim_first: bool = False
    places: Tensor | None = None
    affine: Tensor | None = None

    def to_readable(self, values: Tensor) -> Tensor:
        """Values of this layout as the readable layer would give them."""
        if self.affine is not None:
            affine = self.affine[:, :, None, None]
            values = values * affine[0] + affine[1]
        if self.dim_first:
            values = values.mT
        return values if self.places is None else values[:, self.places]

    def fold_into(self, conv: nn.Conv2d) -> nn.Conv2d:
        """A convolution without padding that takes these features instead of readable ones.

        Args:
            conv: takes the readable ones; it is left as it is.
        """
        folded = copy.deepcopy(conv)
        if self.affine is None:
            return folded
        assert conv.padding == (0, 0), "the shift of a channel is not zero around an image"
        scale, shift = self.affine.double().view(2, conv.groups, 1, -1, 1, 1)
        weight = conv.weight.detach().double().unflatten(0, (conv.groups, -1))
        bias = (weight * shift).sum((2, 3, 4)).flatten()
        if conv.bias is not None:
            bias = bias + conv.bias.detach()
        folded.weight = nn.Parameter((weight * scale).flatten(0, 1).to(conv.weight))
        folded.bias = nn.Parameter(bias.to(conv.weight))
        return folded


READABLE = Layout()


@dataclass(frozen=True)
class Given:
    """What a layer will be given: the shape of it, without the batch, and the layout."""

    shape: Shape
    layout: Layout


class LoweredLayer(nn.Module, ABC):
    """A layer in the form that is exported; its weights are copies.

    Attributes:
        layout: of what it gives.
        forms: what it chose, by the name of the choice.
        claims: what a graph must contain that holds this layer.
        computes_in: dtype that it takes and computes in; None for whatever it is given.
        opaque: whether it may hold operators that other layers' claims count.
    """

    layout: Layout = READABLE
    forms: Mapping[str, str] = {}
    claims: tuple[Claim, ...] = ()
    computes_in: torch.dtype | None = None
    opaque: bool = False

    @abstractmethod
    def forward(self, values: Tensor) -> Tensor:
        """The layer's function, on the layout that it was lowered for."""

    def stages(self) -> Mapping[str, nn.Module]:
        """Stages inside it by name, see :func:`capsnet.stages.record_stages`; none by default."""
        return {}

    def to_readable(self, stage: Tensor) -> Tensor:
        """One of its stages, as the readable layer lays it out."""
        return self.layout.to_readable(stage)

    def in_half(self) -> None:
        """Take on float16, where the layer keeps its accuracy in it: by default nowhere."""
        self.computes_in = torch.float32


class AsWritten(LoweredLayer):
    """A readable layer, unchanged.

    Args:
        layer: it is copied.
        layout: of what it will be given.
    """

    opaque = True

    def __init__(self, layer: nn.Module, layout: Layout = READABLE) -> None:
        super().__init__()
        self.as_written = copy.deepcopy(layer)
        self._dim_first = layout.dim_first
        self.register_buffer("places", layout.places, persistent=False)
        self.register_buffer("affine", layout.affine, persistent=False)

    def forward(self, values: Tensor) -> Tensor:
        given = Layout(self._dim_first, self.places, self.affine)  # type: ignore[arg-type]
        result: Tensor = self.as_written(given.to_readable(values))
        return result

    def stages(self) -> Mapping[str, nn.Module]:
        own: Mapping[str, nn.Module] = getattr(self.as_written, "stages", dict)()
        return own


Rewrite = Callable[[Any, Given, Options], LoweredLayer]
_REWRITES: dict[type[nn.Module], Rewrite] = {}


def rewrites(kind: type[nn.Module]) -> Callable[[Rewrite], Rewrite]:
    """Register the rewrite of a type of layer; not of its subclasses, which may compute otherwise.

    Args:
        kind: the type.
    """

    def register(function: Rewrite) -> Rewrite:
        _REWRITES[kind] = function
        return function

    return register


def rewrite(layer: nn.Module, given: Given, options: Options) -> LoweredLayer:
    """A layer in the form that inference engines run fast, dispatched on its type.

    Args:
        layer: the readable layer, left as it is.
        given: what the lowered layer before it gives.
        options: what decides the form.

    Returns:
        The lowered layer: by default the readable one.

    Raises:
        ConfigError: if a form was asked for that does not fit the layer.
    """
    registered = _REWRITES.get(type(layer))
    if registered is None:
        return AsWritten(layer, given.layout)
    return registered(layer, given, options)
