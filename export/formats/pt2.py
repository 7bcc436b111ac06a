"""Export to a torch.export archive (``.pt2``) that loads with plain ``torch.export.load``."""

import io
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from capsnet.artifact import ArtifactMetadata
from capsnet.export.formats.torch import write_torch_artifact
from capsnet.export.lower import LoweredCapsNet
from capsnet.export.options import ExportOptions

__all__ = ["to_exported_program"]


def to_exported_program(
    lowered: LoweredCapsNet, path: Path, options: ExportOptions = ExportOptions()
) -> ArtifactMetadata:
    """Write a lowered network as a torch.export archive with its metadata in an extra file.

    The same network, options and library versions give the same bytes, wherever and whenever.

    Args:
        lowered: the network, with inputs and outputs in float32.
        path: the file to write.
        options: how to write it.

    Returns:
        The metadata that was written.

    Raises:
        ConfigError: if the format does not have the network's precision.
        ExportError: if torch.export cannot capture the network.
    """

    def capture(network: LoweredCapsNet, image: Tensor) -> torch.export.ExportedProgram:
        dynamic = {0: torch.export.Dim("batch")} if options.batch is None else {}
        return torch.export.export(network, (image,), dynamic_shapes=(dynamic,))

    return write_torch_artifact(
        lowered,
        path,
        options,
        name="pt2",
        exporter="torch.export",
        capture=capture,
        save=_archive,
    )


def _archive(program: Any, extra: dict[str, str]) -> io.BytesIO:
    """The archive without what depends on the exporting machine."""
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # it holds paths
    program.example_inputs = None  # it would be stored as a pickle
    archive = io.BytesIO()
    with warnings.catch_warnings():
        # Weights in another layout may be parts of a larger tensor, torch warns. These are whole.
        warnings.filterwarnings("ignore", "No complete tensor found in the group", UserWarning)
        torch.export.save(program, archive, extra_files=extra)
    return archive
