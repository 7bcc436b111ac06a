"""Sessions on torch.export archives (``.pt2``)."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

import torch

from capsnet.artifact import METADATA_KEY
from capsnet.errors import ArtifactError
from capsnet.runtime.sessions.pt2_check import check_pt2
from capsnet.runtime.sessions.torch import Loaded, TorchSession

__all__ = ["ExportedProgramSession"]


class ExportedProgramSession(TorchSession):
    """A torch.export artifact in torch."""

    format = "pt2"

    def _check_content(self, content: bytes) -> None:
        check_pt2(content)

    def _load(self, content: bytes) -> Loaded:
        extra = {METADATA_KEY: ""}
        with _quiet():
            program = torch.export.load(io.BytesIO(content), extra_files=extra)
        if any(
            node.op not in ("placeholder", "call_function", "output")
            for node in program.graph.nodes
        ):
            raise ArtifactError("its graph calls modules or methods")
        nodes = [
            (node.name, str(node.target))
            for node in program.graph.nodes
            if node.op == "call_function"
        ]
        return Loaded(extra[METADATA_KEY], program.module().to(self.device), nodes)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence torch, which logs the trace of an error beside raising another one.

    Releases before 2.12 also warn that they read the weights from bytes that must not be written.
    """
    logger = logging.getLogger("torch.export")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given buffer is not writable", UserWarning)
            yield
    finally:
        logger.setLevel(level)
