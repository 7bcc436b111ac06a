"""Lowering: the trained network rewritten as the dense algebra that inference engines run fast.

The lowered network computes the same function as the readable model, exactly, layer by layer: see
``capsnet.export.lowering``.
"""

import copy
import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from capsnet.artifact import INPUT_NAME, OUTPUT_NAMES, Claim, TensorSpec
from capsnet.documents import to_values
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
from capsnet.model import CapsNet, head
from capsnet.precision import Precision, find_precision

__all__ = ["LoweredCapsNet", "lower"]

_NO_FORMS: Mapping[str, str] = MappingProxyType({})


class LoweredCapsNet(nn.Module):
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
        self.precision = precision
        self.layers = nn.ModuleDict(parts)
        self.decoder = decoder
        self.output_names = OUTPUT_NAMES[:2] if decoder is None else OUTPUT_NAMES

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Images ``[batch, channels, height, width]`` to the artifact's outputs, in order."""
        capsules, layout = image, READABLE
        for layer in self.parts().values():
            capsules, layout = layer(_cast(capsules, layer.computes_in)), layer.layout
        lengths, capsules = head(layout.to_readable(capsules), self.config.activated)
        if self.decoder is None:
            return lengths, capsules
        longest = lengths.argmax(dim=-1, keepdim=True)
        mask = torch.arange(self.config.classes, device=image.device) == longest
        masked = capsules * mask.unsqueeze(-1)
        # The decoder's weights say what it computes in; outputs are what the capsules are.
        decoded = self.decoder(_cast(masked, next(self.decoder.parameters()).dtype))
        return lengths, capsules, _cast(decoded, capsules.dtype)

    def parts(self) -> Mapping[str, LoweredLayer]:
        """The layers by the name of their stage, in the order of computation."""
        return dict(self.layers.items())  # type: ignore[arg-type]

    def outputs_by_name(self, images: Tensor) -> dict[str, Tensor]:
        """The outputs by name, in order."""
        return dict(zip(self.output_names, self(images), strict=True))

    def to_readable(self, stage: str, values: Tensor) -> Tensor:
        """A stage of this network (see ``capsnet.stages``) as the readable model lays it out."""
        part = self.parts().get(stage.partition(".")[0])
        return values if part is None else part.to_readable(values)

    @property
    def forms(self) -> dict[str, str]:
        """What the lowering chose; a choice that layers made differently is left out."""
        chosen: dict[str, set[str]] = {}
        for part in self.parts().values():
            for name, form in part.forms.items():
                chosen.setdefault(name, set()).add(form)
        return {name: min(forms) for name, forms in chosen.items() if len(forms) == 1}

    @property
    def claims(self) -> tuple[Claim, ...]:
        """What a graph of this network must contain."""
        opaque = any(part.opaque for part in self.parts().values())
        merged: dict[tuple[str, ...], Claim] = {}
        for claim in (claim for part in self.parts().values() for claim in part.claims):
            so_far = merged.get(claim.operators)
            both = claim if so_far is None else so_far.and_also(claim)
            merged[claim.operators] = dataclasses.replace(both, most=None) if opaque else both
        return tuple(merged.values())

    @property
    def config_values(self) -> dict[str, Any]:
        """The configuration as JSON values."""
        values: dict[str, Any] = to_values(self.config)
        return values

    def interface(self, batch: int | str) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        """Inputs and outputs of an artifact of this network.

        Args:
            batch: its batch size; ``"batch"`` for any.
        """
        classes = self.config.classes
        shapes = ((classes,), (classes, self.config.class_dim), self.config.image_shape)
        outputs = tuple(
            TensorSpec(name, "float32", (batch, *shape))
            for name, shape in zip(self.output_names, shapes, strict=False)
        )
        return (TensorSpec(INPUT_NAME, "float32", (batch, *self.config.image_shape)),), outputs


def lower(
    model: CapsNet,
    *,
    reconstruction: bool = False,
    precision: str = "fp32",
    forms: Mapping[str, str] = _NO_FORMS,
    as_written: bool = False,
) -> LoweredCapsNet:
    """Rewrite a trained network for export; see the module's description.

    Args:
        model: the network; it is left as it is.
        reconstruction: add the image decoded from the longest capsule to the outputs.
        precision: a row of ``capsnet.precision``.
        forms: forms to take where there is a choice (``capsnet.forms``), all of them exact; for
            every other choice the one that measurements favour.
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
    options = Options(find_precision(precision), forms)
    parts: dict[str, LoweredLayer] = {}
    given = Given(model.config.image_shape, READABLE)
    for (name, layer), shape in zip(model.parts().items(), model.config.shapes[1:], strict=True):
        parts[name] = AsWritten(layer) if as_written else rewrite(layer, given, options)
        given = Given(shape, parts[name].layout)
    decoder = copy.deepcopy(model.decoder) if reconstruction else None
    lowered = LoweredCapsNet(model, parts, decoder, options.precision)
    converted: LoweredCapsNet = options.precision.convert(lowered.requires_grad_(False).eval())
    return converted


def _cast(values: Tensor, dtype: torch.dtype | None) -> Tensor:
    return values if dtype in (None, values.dtype) else values.to(dtype)
