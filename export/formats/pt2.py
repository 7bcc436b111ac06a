"""Export to a torch.export archive (``.pt2``) that loads with plain ``torch.export.load``."""

import io
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from capsnet.artifact import ArtifactMetadata
from capsnet.export.formats.torch import write_torch_artifact
from capsnet.export.lower import LoweredNetwork
from capsnet.export.options import ExportOptions

__all__ = ["to_exported_program"]


def to_exported_program(
    lowered: LoweredNetwork, path: Path, options: ExportOptions = ExportOptions()
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

    def capture(
        network: LoweredNetwork, example: tuple[Tensor, ...]
    ) -> torch.export.ExportedProgram:
        batch = {0: torch.export.Dim("batch")} if options.batch is None else {}
        shapes = network.dynamic_shapes(batch)
        program: torch.export.ExportedProgram = torch.export.export(
            network, example, dynamic_shapes=shapes
        )
        if any(_changes_in_place(node) for node in program.graph.nodes):
            with warnings.catch_warnings():
                notice = r".*isinstance\(treespec, LeafSpec\)"  # of torch, about itself
                warnings.filterwarnings("ignore", notice, FutureWarning)
                program = program.run_decompositions({})  # the same operators, without that
        return program

    return write_torch_artifact(
        lowered,
        path,
        options,
        name="pt2",
        exporter="torch.export",
        capture=capture,
        save=_archive,
    )


def _changes_in_place(node: torch.fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and bool(schema.is_mutable)


def _archive(program: Any, extra: dict[str, str]) -> io.BytesIO:
    """The archive without what depends on the exporting machine."""
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # it holds paths
        node.meta.pop("from_node", None)  # and this a graph
    program.example_inputs = None  # it would be stored as a pickle
    program._guards_code = []  # that inputs have one batch, as code; sessions see to that
    archive = io.BytesIO()
    with warnings.catch_warnings():
        # Weights in another layout may be parts of a larger tensor, torch warns. These are whole.
        warnings.filterwarnings("ignore", "No complete tensor found in the group", UserWarning)
        torch.export.save(program, archive, extra_files=extra)
    return archive
