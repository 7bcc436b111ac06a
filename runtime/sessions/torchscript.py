"""Sessions on TorchScript archives."""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from capsnet.artifact import METADATA_KEY
from capsnet.runtime.sessions.torch import TorchSession

__all__ = ["TorchScriptSession"]


class TorchScriptSession(TorchSession):
    """A TorchScript artifact in torch. Its archive is read by torch's own parser, not by pickle."""

    format = "torchscript"

    def _load(
        self, path: Path
    ) -> tuple[str, Callable[[Tensor], Sequence[Tensor]], Sequence[tuple[str, str]]]:
        extra = {METADATA_KEY: ""}
        with warnings.catch_warnings():
            notice = r"`torch\.jit\.load` is deprecated"
            warnings.filterwarnings("ignore", notice, DeprecationWarning)
            module = torch.jit.load(path, map_location=self.device, _extra_files=extra)
        nodes = [
            (next(node.outputs()).debugName(), node.kind())
            for node in module.inlined_graph.nodes()
            if node.kind().startswith("aten::")
        ]
        document: str | bytes = extra[METADATA_KEY]
        text = document.decode() if isinstance(document, bytes) else document
        return text, module, nodes
