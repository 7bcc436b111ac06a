"""Checkpoints: weights and configuration in one safetensors file. No pickle."""

import json
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
from capsnet.importers import LAYOUTS, Layout
from capsnet.importers.weights import Weights
from capsnet.layers import KINDS
from capsnet.model import CapsNet
from capsnet.state_dict import read_state_dict

__all__ = [
    "assembled",
    "assumptions",
    "load_checkpoint",
    "read_safetensors",
    "save_checkpoint",
    "translated",
]

_METADATA_KEY = "capsnet"
_SCHEMA_VERSION = 2  # version 0.1 of the toolkit wrote none
_SUFFIX = ".safetensors"  # a file of this name is never unpickled
_DIRECT = "readable_capsnet"  # the layout that is read without being imported first
_OWN = "capsule_layers.0."


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
    tensors, with 3 routing iterations, that project's default, and stride 2, which it fixes. Where
    it has no decoder, images are taken to be square. ``capsnet import`` takes other ones, and other
    projects' weights.

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
    if content[8:9] == b"{" or path.suffix == _SUFFIX:
        model = assembled(path, *_read_safetensors(path, content))
        model.about = about_of(path, content)
        return model
    return assembled(path, *translated(path, _readable(path, content), LAYOUTS[_DIRECT]))


def assumptions(path: Path) -> tuple[str, ...]:
    """What a checkpoint does not say and :func:`load_checkpoint` assumes, in words.

    Args:
        path: a file that it loads; one of this toolkit says everything.
    """
    if path.suffix == _SUFFIX or (content := read_file(path))[8:9] == b"{":
        return ()
    weights = _readable(path, content)
    translated(path, weights, LAYOUTS[_DIRECT])
    return tuple(weights.assumed)


def assembled(path: Path, config: CapsNetConfig, tensors: Mapping[str, Tensor]) -> CapsNet:
    """A network of a configuration, with weights that were read.

    Args:
        path: the file, for messages.
        config: the network.
        tensors: by the names of ``CapsNet``.

    Returns:
        The model in float32, on the CPU, in evaluation mode.

    Raises:
        CheckpointError: if the tensors do not fit, are of another kind than floating point, or are
            not finite in float32.
    """
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
    tensor = tensor.to(dtype).contiguous()
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


def _readable(path: Path, data: bytes) -> Weights:
    """The weights in a ``.pt`` file of the one layout that needs no import.

    Raises:
        CheckpointError: if it cannot be read, or is of another layout, naming what to do.
    """
    tensors = read_state_dict(path, data)
    if any(_OWN in name for name in tensors):
        raise CheckpointError(
            f"{path} holds the bare weights of a network of this toolkit, without its "
            "configuration: save it with capsnet.checkpoint.save_checkpoint(model, "
            "'FILE.safetensors')"
        )
    for layout in LAYOUTS.values():
        foreign = layout.name != _DIRECT and layout.mark is not None
        if foreign and any(name.endswith(layout.mark or "") for name in tensors):
            raise CheckpointError(
                f"{path} holds weights of {layout.project}, and not how often they are routed: "
                f"import them first, with `capsnet import --layout {layout.name} {path.name} "
                "--output FILE.safetensors`"
            )
    return Weights(tensors)


def translated(
    path: Path, weights: Weights, layout: Layout
) -> tuple[CapsNetConfig, dict[str, Tensor]]:
    """The configuration and the tensors of a network that another project laid out.

    Args:
        path: the file, for messages.
        weights: all that it holds.
        layout: of them.

    Raises:
        CheckpointError: if a tensor is missing, not expected, or does not fit.
    """
    try:
        config, tensors = layout.translate(weights)
        weights.finish()
    except (ConfigError, ValueError, ArithmeticError, IndexError, RuntimeError) as error:
        raise CheckpointError(
            f"{path} does not hold a network of {layout.project}: {error}"
        ) from error
    return config, tensors
