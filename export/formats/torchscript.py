"""Export to TorchScript: a frozen trace that loads with plain ``torch.jit.load``."""

import io
import re
import warnings
from pathlib import Path

import torch

from capsnet.artifact import METADATA_KEY, ArtifactMetadata
from capsnet.errors import ExportError, first_line
from capsnet.export.formats.description import TRACE_BATCH, describe, refuse_int8
from capsnet.export.lower import LoweredCapsNet

__all__ = ["to_torchscript"]

# Where the trace's code was written, with stack traces and paths of the exporting machine.
_DEBUG_RECORDS = re.compile(r"\.debug_pkl$")
# Records that the archive writer adds by itself.
_WRITER_RECORDS = {"version", ".data/serialization_id"}
# A counter over all that the process has scripted or traced so far.
_COUNTER = re.compile(rb"___torch_mangle_\d+")


def to_torchscript(
    lowered: LoweredCapsNet,
    path: Path,
    *,
    batch: int | None = None,
    checkpoint_sha256: str | None = None,
) -> ArtifactMetadata:
    """Write a lowered network as a TorchScript archive with its metadata in an extra file.

    The same network, options and library versions give the same bytes, wherever and whenever.

    Args:
        lowered: the network, with inputs and outputs in float32.
        path: the file to write.
        batch: a fixed batch size, or None for any.
        checkpoint_sha256: digest of the checkpoint file, for the metadata.

    Returns:
        The metadata that was written.

    Raises:
        ConfigError: if the network is lowered to int8.
        ExportError: if the network cannot be traced.
    """
    refuse_int8(lowered)
    metadata = describe(
        lowered,
        exporter="torch.jit.trace",
        libraries=("torch",),
        batch=batch,
        checkpoint_sha256=checkpoint_sha256,
    )
    image = torch.zeros(batch or TRACE_BATCH, *lowered.config.image_shape)
    archive = io.BytesIO()
    with warnings.catch_warnings():
        # torch asks to move to torch.export; users of TorchScript have their reasons.
        warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated", DeprecationWarning)
        try:
            # The proof of the file is parity on real images, not a second trace.
            traced = torch.jit.trace(lowered, (image,), check_trace=False)
            # Frozen, float16 weights would be stored as the float32 that they are cast to.
            buffers = [name for name, _ in lowered.named_buffers()]
            frozen = torch.jit.freeze(traced, preserved_attrs=buffers)
        except Exception as error:  # the tracer's own errors have many kinds
            raise ExportError(
                f"torch.jit could not trace the network: {first_line(error)}"
            ) from error
        torch.jit.save(frozen, archive, _extra_files={METADATA_KEY: metadata.to_json()})
    path.write_bytes(_reproducible(archive))
    return metadata


def _reproducible(archive: io.BytesIO) -> bytes:
    """The archive without what depends on the exporting machine and process."""
    archive.seek(0)
    reader, result = torch._C.PyTorchFileReader(archive), io.BytesIO()
    writer = torch._C.PyTorchFileWriter(result)
    for name in reader.get_all_records():
        if name in _WRITER_RECORDS or _DEBUG_RECORDS.search(name):
            continue
        content = reader.get_record(name)
        if name == "data.pkl" or name.startswith("code/"):
            content = _COUNTER.sub(b"___torch_mangle_0", content)
            name = _COUNTER.sub(b"___torch_mangle_0", name.encode()).decode()
        writer.write_record(name, content, len(content))
    writer.write_end_of_file()
    return result.getvalue()
