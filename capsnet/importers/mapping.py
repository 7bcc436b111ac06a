"""Weights of any layout, which a file in TOML describes: the network, and where each tensor is.

::

    [network]  # as in a checkpoint; what is left out is as in the preset mnist
    image_shape = [1, 28, 28]
    decoder = false

    [weights]  # our names, and theirs
    "stem.weight" = "conv1.kernel"
    "capsule_layers.0.weight" = { name = "W", axes = "out in dim_out dim -> in dim out dim_out" }

``axes`` is what einops' ``rearrange`` takes. ``ignore`` lists tensors that are no weights.
"""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from einops import EinopsError, rearrange
from torch import Tensor

from capsnet.config import CapsNetConfig
from capsnet.files import read_file
from capsnet.importers.weights import Weights

__all__ = ["translate"]

_TABLES = {"network", "weights", "ignore"}


def translate(weights: Weights) -> tuple[CapsNetConfig, dict[str, Tensor]]:
    """The network that the mapping describes.

    Args:
        weights: whose owner gave a mapping.

    Raises:
        ValueError, ConfigError: if the mapping is none, or a tensor is missing or does not fit.
    """
    path = weights.given.mapping
    if path is None:
        raise ValueError("say where each tensor is, in a file in TOML (--mapping FILE.toml)")
    document = _read(path)
    network = dict(document["network"])
    if network.get("decoder") is False:  # TOML has no word for none
        network["decoder"] = None
    config = CapsNetConfig.from_dict(network)
    places = {ours: _place(path, ours, theirs) for ours, theirs in document["weights"].items()}
    found = dict(weights.tensors)
    tensors = {}
    for ours, (name, axes) in places.items():
        weights.tensors.pop(name, None)
        tensor = found.get(name)
        if tensor is None:
            raise ValueError(f"{name} is missing, which {path} names for {ours}")
        tensors[ours] = tensor if axes is None else _rearranged(name, tensor, axes)
        layer, _, part = ours.rpartition(".")
        if part == "running_mean":  # torch holds a count beside it, which inference ignores
            tensors.setdefault(f"{layer}.num_batches_tracked", torch.tensor(0))
    for name in document.get("ignore", ()):
        weights.tensors.pop(name, None)
    return config, tensors


def _read(path: Path) -> dict[str, Any]:
    try:
        document = tomllib.loads(read_file(path).decode())
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # of TOML and of UTF-8
        raise ValueError(f"{path} is not TOML: {error}") from error
    unknown = sorted(document.keys() - _TABLES)
    tables = all(isinstance(document.get(name), dict) for name in ("network", "weights"))
    if unknown or not tables or not isinstance(document.get("ignore", []), list):
        raise ValueError(
            f"{path} must have the tables network and weights, and may have the list ignore; "
            f"it has {', '.join(sorted(document)) or 'nothing'}"
        )
    return document


def _place(path: Path, ours: str, theirs: Any) -> tuple[str, str | None]:
    """The name of a tensor in the file, and how its axes are rearranged."""
    if isinstance(theirs, str):
        return theirs, None
    if isinstance(theirs, Mapping) and theirs.keys() == {"name", "axes"}:
        name, axes = theirs["name"], theirs["axes"]
        if isinstance(name, str) and isinstance(axes, str):
            return name, axes
    raise ValueError(
        f"{path}: weights.{ours} must be a name, or {{ name = ..., axes = ... }}, got {theirs!r}"
    )


def _rearranged(name: str, tensor: Tensor, axes: str) -> Tensor:
    try:
        return rearrange(tensor, axes)
    except EinopsError as error:
        raise ValueError(
            f"{name} has shape {list(tensor.shape)}, which does not fit the axes {axes!r}"
        ) from error
