"""The file of a certificate, beside its artifact. Needs neither torch, onnx nor numpy."""

import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from capsnet.documents import to_values
from capsnet.errors import ArtifactError, ResultError
from capsnet.files import atomic_path, file_sha256

if TYPE_CHECKING:
    from capsnet.runtime.proof.results import Certificate

__all__ = [
    "SCHEMA_VERSION",
    "certificate_path",
    "environment",
    "require_certificate",
    "write_certificate",
]

SCHEMA_VERSION = 1
_RUNTIMES = ("onnxruntime-gpu", "onnxruntime", "torch", "numpy", "capsnet-export")


def certificate_path(artifact: Path) -> Path:
    """The certificate's place beside the artifact."""
    return artifact.with_name(artifact.name + ".parity.json")


def environment() -> dict[str, str]:
    """What the numbers may depend on: interpreter, system, versions. Nothing names the machine."""
    versions = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }
    for name in _RUNTIMES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def write_certificate(certificate: "Certificate", artifact: Path) -> Path:
    """Write the certificate beside the artifact, whole or not at all.

    Args:
        certificate: of these bytes.
        artifact: the file that it belongs to.

    Returns:
        The certificate's path.

    Raises:
        OutputError: if it cannot be written.
    """
    target = certificate_path(artifact)
    with atomic_path(target) as temporary:
        text = json.dumps(to_values(certificate), indent=2) + "\n"
        temporary.write_text(text, encoding="utf-8")
    return target


def require_certificate(artifact: Path) -> tuple[str, ...]:
    """Refuse an artifact that is not proven.

    Args:
        artifact: the file; its certificate is looked for beside it.

    Returns:
        Notes in words where this environment differs from the one of the proof.

    Raises:
        ArtifactError: if the certificate is missing, unreadable, or belongs to other bytes.
        ResultError: if its verdict is not that the artifact passes.
    """
    path = certificate_path(artifact)
    advice = f"run: capsnet verify {artifact}"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        schema, verdict = document["schema_version"], document["verdict"]
        digest, proven_in = document["artifact"]["sha256"], dict(document["environment"])
    except FileNotFoundError as error:
        raise ArtifactError(f"{artifact} has no certificate {path.name}; {advice}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"the certificate {path} is damaged: {error!r}; {advice}") from error
    if schema != SCHEMA_VERSION:
        raise ArtifactError(
            f"the certificate {path} has schema version {schema}, this toolkit reads "
            f"{SCHEMA_VERSION}; {advice}"
        )
    if digest != file_sha256(artifact):
        raise ArtifactError(f"the certificate {path} belongs to other bytes; {advice}")
    if verdict != "pass":
        raise ResultError(
            f"the certificate {path} says that {artifact.name} is wrong; export again"
        )
    here = environment()
    return tuple(
        f"proven with {name} {proven_in.get(name, 'absent')}, here it is {here.get(name, 'absent')}"
        for name in sorted(proven_in.keys() | here.keys())
        if proven_in.get(name) != here.get(name)
    )
