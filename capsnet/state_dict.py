"""Weights as ``torch.save`` writes them: read without executing anything, unwrapped, by name."""

import io
import struct
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from capsnet.errors import CheckpointError

__all__ = ["read_state_dict"]

_WRAPPERS = ("state_dict", "model_state_dict")
_PREFIX = "module."  # of torch's DataParallel


def read_state_dict(path: Path, data: bytes) -> dict[str, Tensor]:
    """The tensors in the content of a ``.pt`` file, by name, in its order.

    What training scripts wrap around them is taken off: a dictionary with ``state_dict`` or
    ``model_state_dict`` among other things, and the prefix ``module.``. Two networks side by side,
    ``encoder`` and ``decoder``, become one, with these names as prefixes.

    Args:
        path: the file, for messages.
        data: its content.

    Raises:
        CheckpointError: if it is damaged, holds anything but tensors, or would become larger in
            memory than it is.
    """
    _check_archive(path, data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a TorchScript archive torch warns, then refuses it
            content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged stream fails anywhere in the unpickler, with any type
        raise CheckpointError(
            f"{path} is not a checkpoint: expected a safetensors file of this toolkit, or a "
            "state_dict that holds only tensors; other projects' weights are imported first "
            "(`capsnet import --layout list`)"
        ) from error
    tensors = _unwrapped(content)
    if not _all_tensors(tensors):
        raise CheckpointError(f"{path} is not a state_dict: expected names mapped to tensors")
    if tensors and all(name.startswith(_PREFIX) for name in tensors):
        return {name.removeprefix(_PREFIX): tensor for name, tensor in tensors.items()}
    return dict(tensors)


def _unwrapped(content: Any) -> Any:
    for key in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or "encoder" not in content:
        return content
    encoder, decoder = content["encoder"], content.get("decoder")
    decoder = {} if decoder is None else decoder
    if not (_all_tensors(encoder) and _all_tensors(decoder)):
        return None
    parts = {"encoder": encoder, "decoder": decoder}
    return {f"{part}.{name}": t for part, state in parts.items() for name, t in state.items()}


def _all_tensors(state: Any) -> bool:
    return isinstance(state, Mapping) and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    )


def _check_archive(path: Path, data: bytes) -> None:
    """Raise CheckpointError where a zip archive would become larger than its file.

    torch stores its records as they are. Compressed, a few megabytes may hold any number of zeros.
    """
    if data[:2] != b"PK":
        return  # the form that torch used to write, which has no compression
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            records = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error) as error:
        raise CheckpointError(
            f"{path} is not a checkpoint: its zip archive is truncated or damaged ({error})"
        ) from error
    if any(record.compress_type != zipfile.ZIP_STORED for record in records):
        raise CheckpointError(
            f"{path} is not a checkpoint: it holds compressed records, expected them stored, as "
            "torch.save does it; save the state_dict again"
        )
    names = {record.filename.casefold() for record in records}
    if sum(record.file_size for record in records) > len(data) or len(names) < len(records):
        raise CheckpointError(
            f"{path} is not a checkpoint: its records claim more bytes than the file has, or "
            "share a name; save the state_dict again"
        )
