"""A model repository for NVIDIA's Triton Inference Server, from what an artifact says of itself."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from capsnet.artifact import ArtifactMetadata, TensorSpec
from capsnet.errors import ArtifactError, ConfigError, OutputError
from capsnet.files import atomic_path, read_file
from capsnet.runtime.certificate import certificate_path, require_certificate
from capsnet.runtime.sessions.base import Session
from capsnet.runtime.sessions.opening import open_session

__all__ = ["LABELS", "model_config", "write_repository"]

LABELS = "labels.txt"

_LARGEST_BATCH = 32  # what a session on a CPU computes at once
_WAIT = 1000  # microseconds that a request may wait for others
_TYPES = {"float32": "TYPE_FP32", "uint8": "TYPE_UINT8"}
_KINDS = {"cpu": "KIND_CPU", "cuda": "KIND_GPU"}
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class _Backend:
    """How Triton runs a format.

    Attributes:
        name: of its backend.
        file: name of the artifact in a version's folder.
        numbered: whether tensors are named by their places, as ``lengths__0``: TorchScript has no
            names for them.
    """

    name: str
    file: str
    numbered: bool = False


_BACKENDS = {
    "onnx": _Backend("onnxruntime", "model.onnx"),
    "torchscript": _Backend("pytorch", "model.pt", numbered=True),
}


def write_repository(artifact: Path, repository: Path, name: str | None = None) -> tuple[Path, ...]:
    """Add a proven artifact to a model repository.

    Args:
        artifact: the file, with its certificate beside it.
        repository: the folder that Triton is started with; it is made where it is not there.
        name: of the model; None for that of the file, up to its first dot.

    Returns:
        The files that were written: the configuration, the labels where the classes have names, the
        artifact and its certificate.

    Raises:
        ConfigError: if Triton does not run the format, or the name is none that it takes.
        ArtifactError: if the file is not proven, or on a device that Triton does not have.
        OutputError: if the model is there already, or cannot be written.
    """
    session = open_session(artifact, "cpu")
    backend = _BACKENDS.get(session.format)
    if backend is None:
        raise ConfigError(
            f"Triton runs {' and '.join(_BACKENDS)} files, not {session.format}: export to one of "
            "those"
        )
    device = require_certificate(artifact, session.sha256).device
    if device not in _KINDS:
        raise ArtifactError(
            f"{artifact} is proven on {device}, and Triton runs it on cpu or cuda: prove it there "
            f"with capsnet verify {artifact}"
        )
    name = artifact.name.partition(".")[0] if name is None else name
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{name!r} is no name of a model: use letters, digits, _, - and dots")
    folder = repository / name
    content = read_file(artifact)
    certificate = read_file(certificate_path(artifact))
    class_names = tuple(session.metadata.class_names)
    files = {
        f"1/{backend.file}": content,
        f"1/{certificate_path(Path(backend.file)).name}": certificate,
        **({LABELS: "".join(f"{n}\n" for n in class_names).encode()} if class_names else {}),
        # Last: Triton takes a folder for a model once its configuration is there.
        "config.pbtxt": model_config(session, name, device, bool(class_names)).encode(),
    }
    try:
        (folder / "1").mkdir(parents=True)
        for file, text in files.items():
            with atomic_path(folder / file) as temporary:
                temporary.write_bytes(text)
    except FileExistsError as error:
        raise OutputError(
            f"{folder} is there already: give another --name, or remove it"
        ) from error
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {error.strerror or error}") from error
    return tuple(folder / file for file in files)


def model_config(session: Session, name: str, device: str, labelled: bool = False) -> str:
    """The text of ``config.pbtxt``.

    Args:
        session: the artifact.
        name: of the model.
        device: that it is proven on, ``"cpu"`` or ``"cuda"``.
        labelled: whether the file :data:`LABELS` names the classes.
    """
    metadata, backend = session.metadata, _BACKENDS[session.format]
    dynamic = metadata.fixed_batch is None
    outputs = [
        _tensor(spec, backend, place, dynamic)
        | ({"label_filename": LABELS} if labelled and spec.name == metadata.decision else {})
        for place, spec in enumerate(metadata.outputs)
    ]
    config: dict[str, Any] = {
        "name": name,
        "backend": backend.name,
        "max_batch_size": _LARGEST_BATCH if dynamic else 0,
        "input": [_tensor(spec, backend, i, dynamic) for i, spec in enumerate(metadata.inputs)],
        "output": outputs,
        "instance_group": [{"count": 1, "kind": _Word(_KINDS[device])}],
        "response_cache": {"enable": False},
        "model_warmup": [_warm_up(metadata, backend, dynamic)],
    }
    if dynamic:
        config["dynamic_batching"] = {"max_queue_delay_microseconds": _WAIT}
    return _text(config)


class _Word(str):
    """A value that is written without quotes."""


def _name(spec: TensorSpec, backend: _Backend, place: int) -> str:
    return f"{spec.name}__{place}" if backend.numbered else spec.name


def _sizes(spec: TensorSpec, dynamic: bool) -> list[int]:
    return [int(size) for size in (spec.shape[1:] if dynamic else spec.shape)]


def _tensor(spec: TensorSpec, backend: _Backend, place: int, dynamic: bool) -> dict[str, Any]:
    return {
        "name": _name(spec, backend, place),
        "data_type": _Word(_TYPES[spec.dtype]),
        "dims": _sizes(spec, dynamic),
    }


def _warm_up(metadata: ArtifactMetadata, backend: _Backend, dynamic: bool) -> dict[str, Any]:
    """One black image before the first request: it makes what is made once."""
    inputs = [
        {
            "key": _name(spec, backend, place),
            "value": {
                "data_type": _Word(_TYPES[spec.dtype]),
                "dims": _sizes(spec, dynamic),
                "zero_data": True,
            },
        }
        for place, spec in enumerate(metadata.inputs)
    ]
    return {"name": "a black image", "batch_size": 1 if dynamic else 0, "inputs": inputs}


def _text(values: dict[str, Any], indent: str = "") -> str:
    """A message in the text format of protocol buffers."""
    lines = []
    for key, value in values.items():
        messages: Sequence[Any] = value if isinstance(value, list) else [value]
        for item in messages:
            if isinstance(item, dict):
                inner = _text(item, indent + "  ")
                lines.append(f"{indent}{key} {{\n{inner}{indent}}}\n")
            else:
                lines.append(f"{indent}{key}: {_scalar(item)}\n")
    return "".join(lines)


def _scalar(value: Any) -> str:
    return value if isinstance(value, _Word) else json.dumps(value)
