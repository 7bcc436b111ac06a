"""Sessions on TorchScript archives."""

import warnings
from pathlib import Path

import torch

from capsnet.artifact import METADATA_KEY
from capsnet.runtime.sessions.torch import Loaded, TorchSession

__all__ = ["TorchScriptSession"]


class TorchScriptSession(TorchSession):
    """A TorchScript artifact in torch. Its archive is read by torch's own parser, not by pickle."""

    format = "torchscript"

    def _load(self, path: Path) -> Loaded:
        extra: dict[str, str | bytes] = {METADATA_KEY: ""}
        with warnings.catch_warnings():
            notice = r"`torch\.jit\.load` is deprecated"
            warnings.filterwarnings("ignore", notice, DeprecationWarning)
            module = torch.jit.load(path, map_location=self.device, _extra_files=extra)
        nodes = [
            (next(node.outputs()).debugName(), node.kind())
            for node in module.inlined_graph.nodes()
            if node.kind().startswith("aten::")
        ]
        document = extra[METADATA_KEY]
        return Loaded(document.decode() if isinstance(document, bytes) else document, module, nodes)
