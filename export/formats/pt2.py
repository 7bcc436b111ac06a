"""Export to a torch.export archive (``.pt2``) that loads with plain ``torch.export.load``."""

import io
import warnings
from pathlib import Path

import torch

from capsnet.artifact import METADATA_KEY, ArtifactMetadata
from capsnet.errors import ExportError, first_line
from capsnet.export.formats.description import TRACE_BATCH, describe, refuse_int8
from capsnet.export.lower import LoweredCapsNet

__all__ = ["to_exported_program"]


def to_exported_program(
    lowered: LoweredCapsNet,
    path: Path,
    *,
    batch: int | None = None,
    checkpoint_sha256: str | None = None,
) -> ArtifactMetadata:
    """Write a lowered network as a torch.export archive with its metadata in an extra file.

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
        ExportError: if torch.export cannot capture the network.
    """
    refuse_int8(lowered)
    metadata = describe(
        lowered,
        exporter="torch.export",
        libraries=("torch",),
        batch=batch,
        checkpoint_sha256=checkpoint_sha256,
    )
    image = torch.zeros(batch or TRACE_BATCH, *lowered.config.image_shape)
    dynamic = {0: torch.export.Dim("batch")} if batch is None else {}
    try:
        program = torch.export.export(lowered, (image,), dynamic_shapes=(dynamic,))
    except Exception as error:  # the exporter's own errors have many kinds
        raise ExportError(
            f"torch.export could not capture the network: {first_line(error)}"
        ) from error
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # it holds paths of the exporting machine
    program.example_inputs = None  # it would be stored as a pickle
    archive = io.BytesIO()
    with warnings.catch_warnings():
        # Of weights in another layout, torch wonders whether they are parts of a larger tensor.
        # Ours are whole, and on the CPU.
        warnings.filterwarnings("ignore", "No complete tensor found in the group", UserWarning)
        torch.export.save(program, archive, extra_files={METADATA_KEY: metadata.to_json()})
    path.write_bytes(archive.getvalue())
    return metadata
