"""Export to TorchScript: a frozen trace that loads with plain ``torch.jit.load``."""

import collections
import contextlib
import io
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from capsnet.artifact import ArtifactMetadata
from capsnet.errors import ExportError
from capsnet.export.formats.torch import write_torch_artifact
from capsnet.export.lower import LoweredNetwork
from capsnet.export.options import ExportOptions

__all__ = ["to_torchscript"]

# Where the trace's code was written, with stack traces and paths of the exporting machine.
_DEBUG_RECORDS = re.compile(r"\.debug_pkl$")
# Records that the archive writer adds by itself.
_WRITER_RECORDS = {"version", ".data/serialization_id"}
_IN_PLACE = re.compile(r"aten::\w*[a-z0-9]_")
_SOURCE = re.compile(r"^(\S+\.py)\((\d+)\): ", re.MULTILINE)
# Behind the name of a module: a counter over all that the process has scripted or traced so far.
_COUNTER = re.compile(rb"(\w+)([./]___torch_mangle_)(\d+)")


def to_torchscript(
    lowered: LoweredNetwork, path: Path, options: ExportOptions = ExportOptions()
) -> ArtifactMetadata:
    """Write a lowered network as a TorchScript archive with its metadata in an extra file.

    The same network, options and library versions give the same bytes, wherever and whenever.

    Args:
        lowered: the network, with inputs and outputs in float32.
        path: the file to write.
        options: how to write it.

    Returns:
        The metadata that was written.

    Raises:
        ConfigError: if the format does not have the network's precision.
        ExportError: if the network cannot be traced, or changes parts of tensors in place.
    """
    return write_torch_artifact(
        lowered,
        path,
        options,
        name="torchscript",
        exporter="torch.jit.trace",
        capture=_trace,
        save=_archive,
    )


def _trace(lowered: LoweredNetwork, example: tuple[Tensor, ...]) -> Any:
    with _deprecations_ignored():
        # The proof of the file is parity on real images, not a second trace.
        traced = torch.jit.trace(lowered, example, check_trace=False)
        # Frozen, float16 weights would be stored as the float32 that they are cast to.
        buffers = [name for name, _ in lowered.named_buffers()]
        frozen = torch.jit.freeze(traced, preserved_attrs=buffers)
    torch._C._jit_pass_remove_mutation(frozen.graph)
    changed = [node for node in frozen.graph.nodes() if _IN_PLACE.fullmatch(node.kind())]
    if changed:
        place = _SOURCE.findall(changed[0].sourceRange())
        where = f" ({Path(place[-1][0]).name}:{place[-1][1]})" if place else ""
        raise ExportError(
            f"the network changes a part of a tensor in place, by {changed[0].kind()}{where}, "
            "which TorchScript artifacts do not: make a new tensor (torch.where, torch.cat), or "
            "export it to another format"
        )
    return frozen


def _archive(frozen: Any, extra: dict[str, str]) -> io.BytesIO:
    archive = io.BytesIO()
    with _deprecations_ignored():
        torch.jit.save(frozen, archive, _extra_files=extra)
    return _reproducible(archive)


@contextlib.contextmanager
def _deprecations_ignored() -> Iterator[None]:
    """Silence torch.jit's deprecation warnings: this format is torch.jit's."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated", DeprecationWarning)
        yield


def _reproducible(archive: io.BytesIO) -> io.BytesIO:
    """The archive without what depends on the exporting machine and process."""
    archive.seek(0)
    reader, result = torch._C.PyTorchFileReader(archive), io.BytesIO()
    records = {
        name: reader.get_record(name)
        for name in reader.get_all_records()
        if name not in _WRITER_RECORDS and not _DEBUG_RECORDS.search(name)
    }
    named = {name for name in records if name == "data.pkl" or name.startswith("code/")}
    # Counts of one module's types, of which stacked layers have several, are told apart by rank.
    counts: dict[bytes, set[int]] = collections.defaultdict(set)
    for name in named:
        for module, _, count in _COUNTER.findall(name.encode() + b" " + records[name]):
            counts[module].add(int(count))

    def ranked(match: re.Match[bytes]) -> bytes:
        module, between, count = match.groups()
        return b"%b%b%d" % (module, between, sorted(counts[module]).index(int(count)))

    writer = torch._C.PyTorchFileWriter(result)
    for name, content in records.items():
        if name in named:
            content = _COUNTER.sub(ranked, content)
            name = _COUNTER.sub(ranked, name.encode()).decode()
        writer.write_record(name, content, len(content))
    writer.write_end_of_file()
    return result
