"""Importing: weights that another project trained, as a network of this toolkit."""

from pathlib import Path

import numpy as np
import safetensors
import torch
from torch import Tensor

from capsnet.checkpoint import assembled, read_safetensors, translated
from capsnet.data.numpy_files import read_npz
from capsnet.errors import CheckpointError, DataError
from capsnet.files import read_file
from capsnet.importers import LAYOUTS
from capsnet.importers.hdf5 import MAGIC, read_hdf5
from capsnet.importers.weights import Given, Weights
from capsnet.limits import MOST_VALUES
from capsnet.model import CapsNet
from capsnet.state_dict import read_state_dict

__all__ = ["import_network", "read_tensors"]

_MOST_BYTES = 8 * MOST_VALUES  # of all arrays of an archive, which may be compressed


def import_network(
    layout: str, source: Path | str, given: Given | None = None
) -> tuple[CapsNet, tuple[str, ...]]:
    """Read a network that another project trained.

    Args:
        layout: one of :data:`capsnet.importers.LAYOUTS`.
        source: a ``state_dict`` of torch (``.pt``, ``.pth``), a safetensors file, or weights of
            Keras (``.h5``), recognised by content; or arrays of NumPy, called ``.npz``.
        given: what the file does not say; None for nothing.

    Returns:
        The network in float32, in evaluation mode, which computes what that project's code does;
        and what was assumed of it, in words.

    Raises:
        CheckpointError: if the file cannot be read, or its tensors do not fit the layout.
    """
    path = Path(source)
    weights = Weights(read_tensors(path), given or Given())
    config, tensors = translated(path, weights, LAYOUTS[layout])
    return assembled(path, config, tensors), tuple(weights.assumed)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors in a file, by name, in its order; nothing in it is executed.

    Raises:
        CheckpointError: if it cannot be read, or holds anything else.
    """
    try:
        content = read_file(path)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}; give a file") from error
    if content.startswith(MAGIC):
        return read_hdf5(path, content)
    if path.suffix == ".npz":
        return _arrays(path)
    if content[8:9] != b"{":
        return read_state_dict(path, content)
    try:
        return read_safetensors(content)[1]
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(f"cannot read {path}: truncated or damaged ({error})") from error


def _arrays(path: Path) -> dict[str, Tensor]:
    try:
        arrays = read_npz(path, _MOST_BYTES)
    except DataError as error:
        raise CheckpointError(str(error)) from error
    for name, array in arrays.items():
        if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
            raise CheckpointError(f"{path}: {name} is {array.dtype}, expected numbers")
    return {
        name: torch.from_numpy(np.array(array, array.dtype.newbyteorder("=")))
        for name, array in arrays.items()
    }
