"""Configurations as version 0.1 of the toolkit wrote them: one flat object."""

from collections.abc import Mapping
from typing import Any

__all__ = ["from_flat", "is_flat"]

_PLACES = {
    "stem_channels": ("stem", "channels"),
    "stem_kernel": ("stem", "kernel"),
    "primary_groups": ("primary", "groups"),
    "primary_dim": ("primary", "dim"),
    "primary_kernel": ("primary", "kernel"),
    "primary_stride": ("primary", "stride"),
    "primary_activation": ("primary", "activation"),
}
_KINDS = {"stem": "conv", "primary": "primary"}


def is_flat(values: Mapping[str, Any]) -> bool:
    """Whether the values are of that form; a mixture with today's is of neither."""
    flat = not values.keys().isdisjoint([*_PLACES, "decoder_sizes"])
    return flat and values.keys().isdisjoint([*_KINDS, "decoder"])


def from_flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same configuration in today's form, as JSON values.

    Args:
        values: of that form; keys that it does not know stay, for the reader to refuse.
    """
    found: dict[str, Any] = {}
    for key, value in values.items():
        if key in _PLACES:
            layer, name = _PLACES[key]
            found.setdefault(layer, {"kind": _KINDS[layer]})[name] = value
        elif key == "decoder_sizes":
            found["decoder"] = None if value is None else {"kind": "dense", "hidden": value}
        elif key == "capsule_layers":
            found[key] = [{"kind": "dynamic", **layer} for layer in value]
        else:
            found[key] = value
    return found
