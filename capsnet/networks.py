"""Where a network comes from: a checkpoint, or a module of a user's own. Needs no torch."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from capsnet.definitions import load_definitions
from capsnet.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["NetworkSource", "load_network"]


@dataclass(frozen=True)
class NetworkSource:
    """Where a network comes from.

    Attributes:
        checkpoint: a checkpoint of this toolkit; with ``model``, the weights of what that makes, or
            None for those that it comes with.
        model: ``FILE.py:FACTORY``, a function without arguments in a Python file that makes the
            network, any ``torch.nn.Module``; None where the checkpoint says what the network is.
        pickled: a module that this process wrote with :func:`capsnet.own.write_module`, for another
            process of its own.
        definitions: Python files that define what the network is made of, executed first (see
            :func:`capsnet.definitions.own_definitions`).
        search: folders where that process finds modules.
    """

    checkpoint: Path | None = None
    model: str | None = None
    pickled: Path | None = None
    definitions: tuple[Path, ...] = ()
    search: tuple[str, ...] = ()

    @property
    def files(self) -> dict[str, Path]:
        """The files that are read, by what messages call them."""
        files = {} if self.checkpoint is None else {"the checkpoint": self.checkpoint}
        if self.model is not None:
            files["the model"] = split_factory(self.model)[0]
        return files

    @property
    def name(self) -> str:
        """What messages call the network."""
        return self.model or str(self.checkpoint or "the model in memory")


def split_factory(model: str) -> tuple[Path, str]:
    """File and function of ``FILE.py:FACTORY``.

    Raises:
        ConfigError: if it has another form.
    """
    file, _, function = model.rpartition(":")
    if not file.endswith(".py") or not function.isidentifier():
        raise ConfigError(
            f"the model is {model!r}, expected FILE.py:FACTORY: a Python file and the name of a "
            "function in it that takes nothing and returns a torch.nn.Module"
        )
    return Path(file), function


def load_network(source: NetworkSource) -> "nn.Module":
    """The network.

    Returns:
        A :class:`capsnet.model.CapsNet`, in evaluation mode, or the module as its author wrote it.

    Raises:
        ConfigError: if its file cannot be imported, or its factory makes no module.
        CheckpointError: if its weights cannot be read, or do not fit.
    """
    from capsnet.checkpoint import load_checkpoint
    from capsnet.own import call_factory, load_weights, read_module

    sys.path += [folder for folder in source.search if folder not in sys.path]
    load_definitions(source.definitions)
    if source.pickled is not None:
        return read_module(source.pickled, source.definitions)
    if source.model is None:
        assert source.checkpoint is not None
        return load_checkpoint(source.checkpoint)
    module = call_factory(*split_factory(source.model))
    if source.checkpoint is not None:
        load_weights(module, source.checkpoint)
    return module
