"""Sessions on torch.export archives (``.pt2``)."""

import io
import json
import pickle
import zipfile
from pathlib import Path

import torch

from capsnet.artifact import METADATA_KEY
from capsnet.errors import ArtifactError
from capsnet.runtime.sessions.torch import Loaded, TorchSession

__all__ = ["ExportedProgramSession"]


class ExportedProgramSession(TorchSession):
    """A torch.export artifact in torch."""

    format = "pt2"

    def _load(self, path: Path) -> Loaded:
        _refuse_pickles(path)
        extra = {METADATA_KEY: ""}
        with path.open("rb") as file:  # by name, torch wants it to end in .pt2
            program = torch.export.load(file, extra_files=extra)
        nodes = [
            (node.name, str(node.target))
            for node in program.graph.nodes
            if node.op == "call_function"
        ]
        return Loaded(extra[METADATA_KEY], program.module().to(self.device), nodes)


def _refuse_pickles(path: Path) -> None:
    """Raise ArtifactError where ``torch.export.load`` would execute a pickle.

    It stores sample inputs, and tensors of exotic types, as pickles, and falls back to loading them
    without restrictions. The toolkit writes none, so a file that has one is not an artifact of it.
    """
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            content = archive.read(name) if name.endswith((".pt", "_config.json")) else b""
            if name.endswith(".pt") and content:
                try:
                    torch.load(io.BytesIO(content), weights_only=True)
                except (pickle.UnpicklingError, RuntimeError) as error:
                    raise ArtifactError(
                        f"{path} holds pickled objects ({name}), which are never executed; "
                        "export it with capsnet-export"
                    ) from error
            if name.endswith("_config.json"):
                entries = json.loads(content)["config"].values()
                if any(entry["use_pickle"] for entry in entries):
                    raise ArtifactError(
                        f"{path} holds pickled tensors ({name}), which are never executed; "
                        "export it with capsnet-export"
                    )
