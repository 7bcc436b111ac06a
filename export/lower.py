"""Lowering: the trained network rewritten as the dense algebra that inference engines run fast.

The lowered network computes the same function as the readable model, exactly, layer by layer: see
``capsnet.export.lowering``.
"""

import copy
import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from capsnet.artifact import OUTPUT_NAMES, Claim, TensorSpec
from capsnet.errors import ConfigError
from capsnet.export.lowering import load_rewrites
from capsnet.export.lowering.base import (
    READABLE,
    AsWritten,
    Given,
    LoweredLayer,
    Options,
    rewrite,
)
from capsnet.forms import check_forms
from capsnet.layers.base import Shape
from capsnet.model import CapsNet, head
from capsnet.precision import Precision, find_precision

__all__ = ["NO_FORMS", "LoweredCapsNet", "LoweredNetwork", "cast", "lower"]

NO_FORMS: Mapping[str, str] = MappingProxyType({})


class LoweredNetwork(nn.Module, ABC):
    """A network ready for export.

    Attributes:
        decision: the output that decides the class; None where nothing is classified.
        precision: of weights and arithmetic.
        input_shapes: of one row of each input, by name.
        output_names: in order.
        identity: what artifacts say of the network that it was made of, as JSON values.
    """

    decision: str | None
    precision: Precision
    input_shapes: Mapping[str, Shape]
    output_names: tuple[str, ...]
    identity: Mapping[str, Any]

    @property
    @abstractmethod
    def lowered_layers(self) -> Mapping[str, LoweredLayer]:
        """The layers that were rewritten, by the name of their stage."""

    @abstractmethod
    def parts(self) -> Mapping[str, nn.Module]:
        """Its parts by the name of their stage, in the order of computation."""

    @abstractmethod
    def to_readable(self, stage: str, values: Tensor) -> Tensor:
        """A stage of this network (see ``capsnet.stages``) as the readable model lays it out."""

    @abstractmethod
    def _output_shapes(self) -> tuple[Shape, ...]:
        """Of one row of each output, in order."""

    def in_half(self) -> None:
        """Take on float16, where it keeps its accuracy in it."""
        for layer in self.lowered_layers.values():
            layer.in_half()

    def outputs_by_name(self, *inputs: Tensor) -> dict[str, Tensor]:
        """The outputs by name, in order."""
        return dict(zip(self.output_names, self(*inputs), strict=True))

    def example(self, batch: int) -> tuple[Tensor, ...]:
        """Zeros for every input, float32 ``[batch, ...]``."""
        return tuple(torch.zeros(batch, *shape) for shape in self.input_shapes.values())

    def dynamic_shapes(self, batch: Mapping[int, Any]) -> tuple[Any, ...]:
        """What ``torch.export`` is told of the inputs, whose axes are the same in each."""
        return ((batch,) * len(self.input_shapes),)

    @property
    def forms(self) -> dict[str, str]:
        """What the lowering chose; a choice that layers made differently is left out."""
        chosen: dict[str, set[str]] = {}
        for layer in self.lowered_layers.values():
            for name, form in layer.forms.items():
                chosen.setdefault(name, set()).add(form)
        return {name: min(forms) for name, forms in chosen.items() if len(forms) == 1}

    @property
    def opaque(self) -> bool:
        """Whether it may hold operators that the claims of its layers count."""
        return any(layer.opaque for layer in self.lowered_layers.values())

    @property
    def claims(self) -> tuple[Claim, ...]:
        """What a graph of this network must contain."""
        merged: dict[tuple[str, ...], Claim] = {}
        for claim in (claim for layer in self.lowered_layers.values() for claim in layer.claims):
            so_far = merged.get(claim.operators)
            both = claim if so_far is None else so_far.and_also(claim)
            merged[claim.operators] = dataclasses.replace(both, most=None) if self.opaque else both
        return tuple(merged.values())

    def interface(self, batch: int | str) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        """Inputs and outputs of an artifact of this network.

        Args:
            batch: its batch size; ``"batch"`` for any.
        """
        outputs = zip(self.output_names, self._output_shapes(), strict=True)
        inputs, given = (
            tuple(TensorSpec(name, "float32", (batch, *shape)) for name, shape in pairs)
            for pairs in (self.input_shapes.items(), outputs)
        )
        return inputs, given


class LoweredCapsNet(LoweredNetwork):
    """A capsule network ready for export; made by :func:`lower`.

    Args:
        model: the network that was lowered.
        parts: its lowered layers by the name of their stage.
        decoder: what decodes the longest capsule; None for no reconstruction.
        precision: of weights and arithmetic.
    """

    decision = "lengths"

    def __init__(
        self,
        model: CapsNet,
        parts: Mapping[str, LoweredLayer],
        decoder: nn.Module | None,
        precision: Precision,
    ) -> None:
        super().__init__()
        self.config = model.config
        self.input_shapes = model.input_shapes
        self.identity = model.identity
        self.precision = precision
        self.layers = nn.ModuleDict(parts)
        self.decoder = decoder
        self.output_names = OUTPUT_NAMES[:2] if decoder is None else OUTPUT_NAMES

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Images ``[batch, channels, height, width]`` to the artifact's outputs, in order."""
        [image] = inputs
        capsules, layout = image, READABLE
        for layer in self.lowered_layers.values():
            capsules, layout = layer(cast(capsules, layer.computes_in)), layer.layout
        lengths, capsules = head(layout.to_readable(capsules), self.config.activated)
        if self.decoder is None:
            return lengths, capsules
        longest = lengths.argmax(dim=-1, keepdim=True)
        mask = torch.arange(self.config.classes, device=image.device) == longest
        masked = capsules * mask.unsqueeze(-1)
        # The decoder's weights say what it computes in; outputs are what the capsules are.
        decoded = self.decoder(cast(masked, next(self.decoder.parameters()).dtype))
        return lengths, capsules, cast(decoded, capsules.dtype)

    @property
    def lowered_layers(self) -> Mapping[str, LoweredLayer]:
        """All of its layers by the name of their stage, in the order of computation."""
        return dict(self.layers.items())  # type: ignore[arg-type]

    def parts(self) -> Mapping[str, nn.Module]:
        """Its layers."""
        return self.lowered_layers

    def to_readable(self, stage: str, values: Tensor) -> Tensor:
        """A stage of this network (see ``capsnet.stages``) as the readable model lays it out."""
        layer = self.lowered_layers.get(stage.partition(".")[0])
        return values if layer is None else layer.to_readable(values)

    def in_half(self) -> None:
        """Take on float16, where it keeps its accuracy in it."""
        super().in_half()
        if self.decoder is not None:
            self.decoder.half()

    def _output_shapes(self) -> tuple[Shape, ...]:
        classes = self.config.classes
        shapes = ((classes,), (classes, self.config.class_dim), self.config.image_shape)
        return shapes[: len(self.output_names)]


def lower(
    model: CapsNet,
    *,
    reconstruction: bool = False,
    precision: str = "fp32",
    forms: Mapping[str, str] = NO_FORMS,
    preferred: Mapping[str, str] = NO_FORMS,
    as_written: bool = False,
) -> LoweredCapsNet:
    """Rewrite a trained network for export; see the module's description.

    Args:
        model: the network; it is left as it is.
        reconstruction: add the image decoded from the longest capsule to the outputs.
        precision: a row of ``capsnet.precision``.
        forms: forms to take where there is a choice (``capsnet.forms``), all of them exact; for
            every other choice the one that measurements favour.
        preferred: what they favour for a format, as its row says (``capsnet.formats``).
        as_written: rewrite nothing: the network as its author wrote it, for comparisons.

    Returns:
        A module in evaluation mode, without gradients.

    Raises:
        ConfigError: if a precision or form is unknown or does not fit the network, or a
            reconstruction is asked of a network without a decoder.
    """
    if reconstruction and model.decoder is None:
        raise ConfigError(
            "this network has no decoder, so it cannot reconstruct images: "
            "export without --reconstruction, or train a network that has one"
        )
    check_forms(forms)
    if as_written and precision != "fp32":
        raise ConfigError(f"a network is exported as it is written in fp32 only, not {precision}")
    load_rewrites()
    options = Options(find_precision(precision), forms, preferred)
    parts: dict[str, LoweredLayer] = {}
    given = Given(model.config.image_shape, READABLE)
    for (name, layer), shape in zip(model.parts().items(), model.config.shapes[1:], strict=True):
        parts[name] = AsWritten(layer) if as_written else rewrite(layer, given, options)
        given = Given(shape, parts[name].layout)
    decoder = copy.deepcopy(model.decoder) if reconstruction else None
    lowered = LoweredCapsNet(model, parts, decoder, options.precision)
    converted: LoweredCapsNet = options.precision.convert(lowered.requires_grad_(False).eval())
    return converted


def cast(values: Tensor, dtype: torch.dtype | None) -> Tensor:
    """Values in a type; as they are where it is theirs, or None."""
    return values if dtype in (None, values.dtype) else values.to(dtype)
