"""The formats of artifacts: one row each. Needs neither torch nor onnx."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from capsnet.definitions import deferred

__all__ = ["FORMATS", "OPSETS", "Format"]

OPSETS = range(17, 24)
"""ONNX operator sets that can be asked for. Where none is, an export takes the oldest that the
network and its precision allow: the artifact runs on the most runtimes."""


@dataclass(frozen=True)
class Format:
    """One row of the table.

    Attributes:
        name: as the command line and certificates call it.
        file: name of the file that an export writes unless it is told otherwise.
        recognises: whether a file is of this format, from its first 8 bytes and, where it is a zip
            archive, the names of its records without their common folder.
        export: writes a lowered network: ``(lowered, path, options) -> ArtifactMetadata``, with
            :class:`capsnet.export.options.ExportOptions`.
        open: opens an artifact: ``(path, content, device, threads, tf32) -> Session``; the
            content is all of the file, the path is for messages, and nothing is read from it.
        has_opset: whether an ONNX operator set can be asked for.
        preferred: forms that what runs it is fastest at, where they fit a layer; see
            :mod:`capsnet.forms`.
    """

    name: str
    file: str
    recognises: Callable[[bytes, frozenset[str]], bool]
    export: Callable[..., Any]
    open: Callable[..., Any]
    has_opset: bool = False
    preferred: Mapping[str, str] = field(default_factory=dict)


def _is_onnx(head: bytes, _: frozenset[str]) -> bool:
    """A protocol buffer whose first field is the IR version, a small varint."""
    return len(head) == 8 and head[0] == 0x08 and head[1] < 0x80


FORMATS: dict[str, Format] = {
    row.name: row
    for row in (
        Format(
            "onnx",
            "capsnet.onnx",
            _is_onnx,
            export=deferred("capsnet.export.formats.onnx:to_onnx"),
            open=deferred("capsnet.runtime.sessions.onnx:OrtSession"),
            has_opset=True,
            preferred={"routing": "votes"},
        ),
        Format(
            "torchscript",
            "capsnet.torchscript.pt",
            lambda _, records: "constants.pkl" in records and "archive_format" not in records,
            export=deferred("capsnet.export.formats.torchscript:to_torchscript"),
            open=deferred("capsnet.runtime.sessions.torchscript:TorchScriptSession"),
        ),
        Format(
            "pt2",
            "capsnet.pt2",
            lambda _, records: "archive_format" in records,
            export=deferred("capsnet.export.formats.pt2:to_exported_program"),
            open=deferred("capsnet.runtime.sessions.pt2:ExportedProgramSession"),
        ),
    )
}
"""The formats by name; a new one is one more row (see docs/extending.md)."""
