"""Opening an artifact: its format is recognised by content, its device chosen.

The file is read once. What is recognised, compared with the certificate, checked and run is what
was read: another file that takes its place in the meantime changes nothing.
"""

import hashlib
import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from capsnet.definitions import deferred
from capsnet.device import Device
from capsnet.errors import ArtifactError, CapsNetError, ConfigError, DeviceError, first_line
from capsnet.files import read_file
from capsnet.formats import FORMATS, Format
from capsnet.runtime.certificate import require_certificate as read_certificate
from capsnet.runtime.sessions.base import Session

__all__ = ["RUNTIMES", "artifact_format", "open_session", "read_artifact"]

RUNTIMES = {"openvino": ("onnx", deferred("capsnet.runtime.sessions.openvino:OpenVinoSession"))}
"""Other runtimes than a format's own: the format that each runs, and its session."""

# What zipfile raises where the directory of an archive is damaged.
_DAMAGE = (zipfile.BadZipFile, struct.error, ValueError, NotImplementedError, OSError, IndexError)

_CPU_BATCH = 32
"""Images that a CPU computes at once: 128 take a quarter longer each in torch, more memory in both.

Measured with ``capsnet bench``; 16 and 64 differ from 32 by less than 5 %.
"""


def artifact_format(path: str | Path) -> str:
    """The format of an artifact file, recognised by its content: a name in ``FORMATS``.

    Raises:
        ArtifactError: if the file cannot be read, or is of no format that the toolkit exports.
    """
    return _recognised(Path(path), read_artifact(Path(path))).name


def open_session(
    path: str | Path,
    device: Device = "auto",
    *,
    threads: int | None = None,
    tf32: bool = False,
    require_certificate: bool = False,
    runtime: str | None = None,
) -> Session:
    """Open an exported artifact.

    >>> import capsnet, numpy
    >>> session = capsnet.open_session("capsnet.onnx", device="cpu")
    >>> session.run(numpy.zeros((5, 1, 28, 28), numpy.float32))["lengths"].shape
    (5, 10)

    Args:
        path: the artifact; its format is recognised by content.
        device: ``"auto"`` takes CUDA where it works, else the CPU; the others insist.
        threads: to compute with; None for all CPUs that this process may use. torch has one pool
            for all of a process.
        tf32: let CUDA round the inputs of float32 products to 10 bits, which is faster and not the
            same numbers; of torch it is one setting for all of a process.
        require_certificate: refuse a file that is not proven, on the device that it runs on, by
            the certificate beside it.
        runtime: ``"openvino"`` runs ONNX in that; None for the format's own.

    Returns:
        The session; its ``notes`` say where this environment differs from the one of the proof.

    Raises:
        ArtifactError: if the file is not an artifact of this toolkit, or is damaged, or its
            certificate is missing or belongs to other bytes or another device.
        ConfigError: if a certificate and tf32 are asked for.
        ResultError: if its certificate says that it is wrong.
        DeviceError: if the device that was asked for, or the library that runs the format, is not
            there.
    """
    path = Path(path)
    content = read_artifact(path)
    digest = hashlib.sha256(content).hexdigest()
    proven = read_certificate(path, digest) if require_certificate else None
    if proven is not None and tf32:
        raise ConfigError("proofs compute in full float32: open the file without tf32")
    row = _recognised(path, content)
    try:
        session: Session = _opener(row, runtime)(path, content, device, threads, tf32)
    except CapsNetError:
        raise
    except MemoryError as error:
        raise DeviceError(f"there is too little memory to open {path}; free some") from error
    except ImportError as error:
        raise DeviceError(
            f"{path} is {row.name}, and what runs that cannot be imported: {first_line(error)}; "
            "find out more: capsnet doctor"
        ) from error
    except Exception as error:  # libraries raise almost anything for a file that is damaged
        raise ArtifactError(
            f"{path} cannot be opened: {type(error).__name__}: {first_line(error)}; "
            "it is damaged: export it again"
        ) from error
    if proven is not None:
        proven.require_device(session.device, path)
        session.notes = proven.notes
    session.format = row.name
    session.bytes, session.sha256 = len(content), digest
    if session.device == "cpu":
        session.largest_batch = _CPU_BATCH
    return session


def _opener(row: Format, runtime: str | None) -> Callable[..., Any]:
    if runtime is None:
        return row.open
    if runtime not in RUNTIMES:
        raise ConfigError(f"runtime must be one of {', '.join(RUNTIMES)}, got {runtime!r}")
    name, opener = RUNTIMES[runtime]
    if row.name != name:
        raise ConfigError(f"{runtime} runs {name} files, not {row.name}: leave the runtime out")
    return opener


def read_artifact(path: Path) -> bytes:
    """All bytes of an artifact file.

    Raises:
        ArtifactError: if it cannot be read.
        DeviceError: if there is too little memory for it.
    """
    try:
        return read_file(path)
    except OSError as error:
        raise ArtifactError(
            f"cannot read {path}: {error.strerror}; give an artifact that capsnet-export wrote"
        ) from error
    except MemoryError as error:
        raise DeviceError(f"there is too little memory to read {path}; free some") from error


def _recognised(path: Path, content: bytes) -> Format:
    head = content[:8]
    records: frozenset[str] = frozenset()
    if head[:2] == b"PK":
        # torch's archives keep everything in one folder, whose name means nothing.
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                records = frozenset(name.partition("/")[2] for name in archive.namelist())
        except _DAMAGE as error:
            raise ArtifactError(
                f"{path} is truncated or damaged: {error}; export it again"
            ) from error
    for row in FORMATS.values():
        if row.recognises(head, records):
            return row
    what = f"starts with {head[:4].hex(' ')}" if head else "is empty"
    if head[:2] == b"PK":
        what = "is a zip archive of another kind"
    if "data.pkl" in records:
        what = "holds pickled PyTorch objects, which are never executed"
    *others, last = FORMATS
    raise ArtifactError(
        f"{path} is neither {', '.join(others)} nor {last}: it {what}; "
        "export it with capsnet-export"
    )
