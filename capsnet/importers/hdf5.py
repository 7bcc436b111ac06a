"""Weights in HDF5 files (``.h5``), as Keras writes them. Needs h5py, the extra ``keras``."""

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from capsnet.errors import CheckpointError, first_line

__all__ = ["MAGIC", "read_hdf5"]

MAGIC = b"\x89HDF\r\n\x1a\n"

_MOST_OBJECTS = 10_000
_DEEPEST = 8  # groups in groups
_MODEL = "model_weights"  # beside the optimizer's, where a whole model was saved


def read_hdf5(path: Path, content: bytes) -> dict[str, Tensor]:
    """The tensors in the content of an HDF5 file, in the order in which Keras numbered the layers.

    A tensor is called after its layer and itself: ``conv1/kernel``. Only what lies in the file as
    it is, is read: no links to other files, nothing compressed, nothing larger than the file.

    Args:
        path: the file, for messages.
        content: all of it.

    Raises:
        CheckpointError: if h5py is not installed, or the file is damaged or holds anything else.
    """
    try:
        import h5py
    except ImportError as error:
        raise CheckpointError(
            f"{path} is an HDF5 file, and reading that needs h5py: install it, with "
            "pip install 'capsnet-export[keras]'"
        ) from error
    try:
        with h5py.File(io.BytesIO(content), "r") as file:
            root = (
                file[_MODEL] if isinstance(file.get(_MODEL, getlink=True), h5py.HardLink) else file
            )
            found = dict(_tensors(h5py, root, len(content)))
    except Exception as error:  # damage makes h5py raise almost anything
        raise CheckpointError(f"cannot read {path}: {first_line(error)}") from error
    return {name: found[name] for name in sorted(found, key=_numbered)}


def _tensors(h5py: Any, root: Any, most_bytes: int) -> Iterator[tuple[str, Tensor]]:
    """Every dataset below a group, by the name of its layer and its own."""
    seen: set[str] = set()
    bytes_left, objects_left = most_bytes, _MOST_OBJECTS
    waiting = [(root, 0)]
    while waiting:
        group, depth = waiting.pop()
        for key in group:
            objects_left -= 1
            if objects_left < 0 or depth > _DEEPEST:
                raise ValueError("the file holds more groups than any network has")
            if not isinstance(group.get(key, getlink=True), h5py.HardLink):
                raise ValueError(f"{key} in {group.name} is a link, expected a tensor")
            item = group[key]
            if isinstance(item, h5py.Group):
                waiting.append((item, depth + 1))
                continue
            bytes_left -= item.size * item.dtype.itemsize
            _require_plain(item, bytes_left)
            name = "/".join(item.name.removesuffix(":0").split("/")[-2:])
            if name in seen:
                raise ValueError(f"the file holds two tensors called {name}")
            seen.add(name)
            yield (
                name,
                torch.from_numpy(np.ascontiguousarray(item[()], item.dtype.newbyteorder("="))),
            )


def _require_plain(item: Any, bytes_left: int) -> None:
    """Raise ValueError unless a dataset is numbers that lie in the file as they are."""
    if item.dtype.kind != "f" or item.dtype.itemsize > 8:
        raise ValueError(f"{item.name} is {item.dtype}, expected floating-point numbers")
    if item.chunks or item.compression or item.external or item.is_virtual or bytes_left < 0:
        raise ValueError(
            f"{item.name} does not lie in the file as it is, as Keras writes it: save it again"
        )


def _numbered(name: str) -> list[Any]:
    """A key that sorts ``dense``, ``dense_2``, ``dense_10`` in this order."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]
