"""Checkpoints: weights and configuration in one safetensors file. No pickle."""

import json
import os
import struct
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save
from torch import Tensor

from capsnet.bundled import BUNDLED
from capsnet.config import CapsNetConfig
from capsnet.documents import parse_json, to_values
from capsnet.errors import CheckpointError, ConfigError
from capsnet.files import atomic_path, open_regular
from capsnet.importers.readable_capsnet import from_readable_capsnet
from capsnet.layers import KINDS
from capsnet.model import CapsNet

__all__ = ["BUNDLED_CHECKPOINT", "load_checkpoint", "save_checkpoint"]

BUNDLED_CHECKPOINT = BUNDLED["mnist"]
"""The trained MNIST model that comes with the package."""

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
        with open_regular(path) as file:
            head = file.read(9)
    except OSError as error:
        raise CheckpointError(
            f"cannot read checkpoint {path}: {error.strerror}; give a checkpoint file, or the name "
            f"of a bundled one: {', '.join(BUNDLED)}"
        ) from error
    is_safetensors = head[8:] == b"{" or path.suffix == ".safetensors"
    config, tensors = _read_safetensors(path) if is_safetensors else _read_state_dict(path)
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


def _read_safetensors(path: Path) -> tuple[CapsNetConfig, dict[str, Tensor]]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
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


def _read_state_dict(path: Path) -> tuple[CapsNetConfig, dict[str, Tensor]]:
    _check_archive(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a TorchScript archive torch warns, then refuses it
            content = torch.load(path, map_location="cpu", weights_only=True)
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


def _check_archive(path: Path) -> None:
    """Raise CheckpointError where a zip archive would become larger than its file.

    torch stores its records as they are. Compressed, a few megabytes may hold any number of zeros.
    """
    try:
        with open_regular(path) as file:
            if file.read(2) != b"PK":
                return  # the form that torch used to write, which has no compression
            size = os.fstat(file.fileno()).st_size
            with zipfile.ZipFile(file) as archive:
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
    if sum(record.file_size for record in records) > size or len(names) < len(records):
        raise CheckpointError(
            f"{path} is not a checkpoint: its records claim more bytes than the file has, or "
            "share a name; save the state_dict again"
        )


def _all_tensors(state: Mapping[Any, Any]) -> bool:
    return all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items())
