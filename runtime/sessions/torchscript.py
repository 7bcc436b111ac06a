"""Sessions on TorchScript archives."""

import io
import warnings
from collections.abc import Iterator

import torch

from capsnet.artifact import METADATA_KEY
from capsnet.runtime.sessions.allowed import TORCHSCRIPT, check_operators
from capsnet.runtime.sessions.torch import Loaded, TorchSession
from capsnet.runtime.sessions.torchscript_check import check_torchscript

__all__ = ["TorchScriptSession"]


class TorchScriptSession(TorchSession):
    """A TorchScript artifact in torch. Its archive is read by torch's own parser, not by pickle."""

    format = "torchscript"

    def _check_content(self, content: bytes) -> None:
        check_torchscript(content)

    def _load(self, content: bytes) -> Loaded:
        extra: dict[str, str | bytes] = {METADATA_KEY: ""}
        with warnings.catch_warnings():
            notice = r"`torch\.jit\.load` is deprecated"
            warnings.filterwarnings("ignore", notice, DeprecationWarning)
            module = torch.jit.load(
                io.BytesIO(content), map_location=self.device, _extra_files=extra
            )
        graph = module.inlined_graph
        check_operators(_operators(graph), TORCHSCRIPT)
        nodes = [
            (next(node.outputs()).debugName(), node.kind())
            for node in graph.nodes()
            if node.kind().startswith("aten::")
        ]
        document = extra[METADATA_KEY]
        return Loaded(document.decode() if isinstance(document, bytes) else document, module, nodes)


def _operators(block: "torch.Graph | torch.Block") -> Iterator[str]:
    """Kinds of the nodes in a block, and in the blocks that these hold."""
    for node in block.nodes():
        yield node.kind()
        for inner in node.blocks():
            yield from _operators(inner)
