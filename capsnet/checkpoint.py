"""Checkpoints: weights and configuration in one safetensors file. No pickle."""

import io
import json
import struct
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load, save
from torch import Tensor

from capsnet.about import about_of
from capsnet.bundled import BUNDLED
from capsnet.config import CapsNetConfig
from capsnet.documents import parse_json, to_values
from capsnet.errors import CheckpointError, ConfigError
from capsnet.files import atomic_path, read_file
from capsnet.importers.readable_capsnet import from_readable_capsnet
from capsnet.layers import KINDS
from capsnet.model import CapsNet

__all__ = ["load_checkpoint", "read_safetensors", "save_checkpoint"]

_METADATA_KEY = "capsnet"
_SCHEMA_VERSION = 2  # version 0.1 of the toolkit wrote none


def save_checkpoint(
    model: CapsNet,
    path: Path | str,
    *,
    training: Mapping[str, Any] | None = None,
    half: bool = False,
) -> None:
    """Write a model's weights and configuration to one file, whole or not at all.

    Args:
        model: the network.
        path: the file to write (``.safetensors``).
        training: how the weights came to be (JSON values), kept in the file.
        half: store float16 instead of float32.

    Raises:
        OutputError: if the file cannot be written.
    """
    dtype = torch.float16 if half else torch.float32
    tensors = {
        name: value.detach().to("cpu", dtype if value.is_floating_point() else None).contiguous()
        for name, value in model.state_dict().items()
    }
    document = {
        "schema_version": _SCHEMA_VERSION,
        "config": to_values(model.config),
        "training": dict(training or {}),
        **model.about.to_document(),
    }
    metadata = {_METADATA_KEY: json.dumps(document, sort_keys=True)}
    with atomic_path(Path(path)) as temporary:
        temporary.write_bytes(save(tensors, metadata))


def load_checkpoint(path: Path | str) -> CapsNet:
    """Read a model from a toolkit checkpoint, or from a ``state_dict`` of readable_capsnet.

    The second is a ``.pt`` file, read with ``weights_only=True``; sizes are inferred from its
    tensors, with 3 routing iterations and stride 2, which that project fixes.

    Args:
        path: the file; its kind is recognised by content. One called ``.safetensors`` is never
            unpickled, whatever it holds.

    Returns:
        The model in float32, on the CPU, in evaluation mode.

    Raises:
        CheckpointError: if the file cannot be read, is damaged, or its tensors do not fit, are of
            another kind than floating point, or are not finite in float32.
    """
    path = Path(path)
    try:
        content = read_file(path)
    except OSError as error:
        raise CheckpointError(
            f"cannot read checkpoint {path}: {error.strerror}; give a checkpoint file, or the name "
            f"of a bundled one: {', '.join(BUNDLED)}"
        ) from error
    is_safetensors = content[8:9] == b"{" or path.suffix == ".safetensors"
    read = _read_safetensors if is_safetensors else _read_state_dict
    config, tensors = read(path, content)
    try:
        with torch.device("meta"):
            model = CapsNet(config)
    except (RuntimeError, TypeError, OverflowError) as error:
        raise CheckpointError(f"{path}: the configuration is too large: {config}") from error
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    problems = [f"{name} is missing" for name in sorted(expected.keys() - found.keys())]
    problems += [f"{name} is not expected" for name in sorted(found.keys() - expected.keys())]
    problems += [
        f"{name} has shape {list(found[name])}, expected {list(expected[name])}"
        for name in sorted(expected.keys() & found.keys())
        if found[name] != expected[name]
    ]
    if problems:
        raise CheckpointError(
            f"{path}: the tensors do not fit the configuration: {'; '.join(problems)}"
        )
    wanted = {name: value.dtype for name, value in model.state_dict().items()}
    weights = {name: _finite(path, name, t, wanted[name]) for name, t in tensors.items()}
    if any(layer.kind not in KINDS for layer in config.layers().values()):
        # A user's own layers may make more than weights, which the meta device does not hold.
        with torch.random.fork_rng(devices=[]):
            model = CapsNet(config)
    model.load_state_dict(weights, assign=True)
    model.about = about_of(path, content)
    return model.requires_grad_().eval()


def _finite(path: Path, name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor in the model's type; raise CheckpointError where it is of another kind."""
    if tensor.is_floating_point() != dtype.is_floating_point or tensor.layout != torch.strided:
        raise CheckpointError(
            f"{path}: tensor {name} is {tensor.dtype} ({tensor.layout}), "
            f"expected dense {'floating-point numbers' if dtype.is_floating_point else dtype}"
        )
    tensor = tensor.to(dtype)
    if not tensor.isfinite().all():
        raise CheckpointError(
            f"{path}: tensor {name} holds NaN or infinity in float32; retrain or repair"
        )
    return tensor


def read_safetensors(content: bytes) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The metadata and the tensors in the content of a safetensors file.

    Raises:
        SafetensorError, ValueError, KeyError: if it is damaged.
    """
    tensors = load(content)
    header = parse_json(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return header.get("__metadata__", {}), tensors


def _read_safetensors(path: Path, content: bytes) -> tuple[CapsNetConfig, dict[str, Tensor]]:
    try:
        metadata, tensors = read_safetensors(content)
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"cannot read checkpoint {path}: truncated or damaged ({error})"
        ) from error
    if _METADATA_KEY not in metadata:
        raise CheckpointError(
            f"{path} holds no CapsNet configuration: write checkpoints with `capsnet train` "
            "or capsnet.checkpoint.save_checkpoint"
        )
    try:
        document = parse_json(metadata[_METADATA_KEY])
        version = document.get("schema_version", 1)
        if version > _SCHEMA_VERSION:
            raise CheckpointError(
                f"{path} has schema version {version}, this toolkit reads up to {_SCHEMA_VERSION}: "
                "upgrade capsnet-export"
            )
        return CapsNetConfig.from_dict(document["config"]), tensors
    except (ConfigError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path}: bad configuration: {error}") from error


def _read_state_dict(path: Path, data: bytes) -> tuple[CapsNetConfig, dict[str, Tensor]]:
    _check_archive(path, data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a TorchScript archive torch warns, then refuses it
            content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged stream fails anywhere in the unpickler, with any type
        raise CheckpointError(
            f"{path} is not a checkpoint: expected a safetensors file of this toolkit, or a "
            "state_dict of readable_capsnet that holds only tensors"
        ) from error
    encoder: Any = content
    decoder: Any = {}
    if isinstance(content, dict) and "encoder" in content:
        encoder, decoder = content["encoder"], content.get("decoder")
        decoder = {} if decoder is None else decoder
    if not all(isinstance(d, dict) and _all_tensors(d) for d in (encoder, decoder)):
        raise CheckpointError(f"{path} is not a state_dict: expected names mapped to tensors")
    try:
        return from_readable_capsnet(encoder, decoder)
    except KeyError as error:
        raise CheckpointError(
            f"{path} is not a state_dict of readable_capsnet: {error} is missing"
        ) from error
    except (ConfigError, ValueError, ArithmeticError, IndexError, RuntimeError) as error:
        raise CheckpointError(f"{path}: the tensors describe no network: {error}") from error


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


def _all_tensors(state: Mapping[Any, Any]) -> bool:
    return all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items())
