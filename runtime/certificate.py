"""The file of a certificate, beside its artifact. Needs neither torch, onnx nor numpy."""

import json
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from capsnet.documents import parse_json, to_values
from capsnet.errors import ArtifactError, ResultError, first_line, printable
from capsnet.files import atomic_path, read_file

if TYPE_CHECKING:
    from capsnet.runtime.proof.results import Certificate

__all__ = [
    "SCHEMA_VERSION",
    "Proven",
    "certificate_path",
    "certificate_text",
    "environment",
    "require_certificate",
    "write_certificate",
]

SCHEMA_VERSION = 1
_RUNTIMES = ("onnxruntime-gpu", "onnxruntime", "torch", "numpy", "capsnet-export")


@dataclass(frozen=True)
class Proven:
    """What a certificate that passes says.

    Attributes:
        device: where the artifact computed the right numbers.
        notes: in words, where this environment differs from the one of the proof.
    """

    device: str
    notes: tuple[str, ...]

    def require_device(self, device: str, artifact: Path) -> None:
        """Raise ArtifactError where the artifact runs on a device that it is not proven on."""
        if device != self.device:
            raise ArtifactError(
                f"{artifact} is proven on {printable(self.device)}, and would run on {device}, "
                f"whose numbers are others; run: capsnet verify --device {device} {artifact}"
            )


def certificate_path(artifact: Path) -> Path:
    """The certificate's place beside the artifact."""
    return artifact.parent / f"{artifact.name}.parity.json"


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
        temporary.write_text(certificate_text(certificate), encoding="utf-8")
    return target


def certificate_text(certificate: "Certificate") -> str:
    """What is in the file."""
    return json.dumps(to_values(certificate), indent=2) + "\n"


def require_certificate(artifact: Path, sha256: str) -> Proven:
    """Refuse an artifact that is not proven.

    Args:
        artifact: the file; its certificate is looked for beside it.
        sha256: of the bytes that are about to run, lower-case hexadecimal.

    Returns:
        Where it is proven. Whether it runs there is known when it was opened.

    Raises:
        ArtifactError: if the certificate is missing, unreadable, or belongs to other bytes.
        ResultError: if its verdict is not that the artifact passes, or it passes only within a
            tolerance that a user set looser than the error budget.
    """
    path = certificate_path(artifact)
    advice = f"run: capsnet verify {artifact}"
    try:
        document = parse_json(read_file(path))
        schema, verdict = document["schema_version"], document["verdict"]
        digest, overridden = (
            document["artifact"]["sha256"],
            document["parity"].get("overridden", False),
        )
        device = str(document["device"])
        proven_in = {str(name): str(found) for name, found in document["environment"].items()}
    except FileNotFoundError as error:
        raise ArtifactError(f"{artifact} has no certificate {path.name}; {advice}") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(
            f"the certificate {path} is damaged: {first_line(error)[:200]}; {advice}"
        ) from error
    if schema != SCHEMA_VERSION:
        raise ArtifactError(
            f"the certificate {path} has schema version {schema}, this toolkit reads "
            f"{SCHEMA_VERSION}; {advice}"
        )
    if digest != sha256:
        raise ArtifactError(f"the certificate {path} belongs to other bytes; {advice}")
    if verdict != "pass":
        raise ResultError(
            f"the certificate {path} says that {artifact.name} is wrong; export again"
        )
    if overridden is not False:
        raise ResultError(
            f"the certificate {path} passes {artifact.name} only within a tolerance that was set "
            f"looser than the error budget; prove it without one: capsnet verify {artifact}"
        )
    here = environment()
    found = {n: (proven_in.get(n, "absent"), here.get(n, "absent")) for n in proven_in | here}
    notes = (
        printable(f"proven with {name} {there}, here it is {now}")
        for name, (there, now) in sorted(found.items())
        if there != now
    )
    return Proven(device, tuple(notes))
