"""Capsule networks, from readable PyTorch to a proven production artifact.

The verbs, each with an example in its own help:

- :func:`load` reads a checkpoint, or the bundled MNIST model;
- :func:`train` trains a network on arrays;
- :func:`export_model` writes an artifact, proves it, and returns its certificate;
- :func:`verify` proves an artifact again;
- :func:`open_session` opens an artifact, and :func:`predict` classifies images with it;
- :func:`compare` compares speeds, of what is proven.

Every error that a user can mend is a :class:`CapsNetError`. Importing this package imports nothing
that loads slowly: each name is imported when it is first used.
"""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # "as" makes a name public for type checkers
    from capsnet.api import compare as compare
    from capsnet.api import export_model as export_model
    from capsnet.api import load as load
    from capsnet.api import open_session as open_session
    from capsnet.api import predict as predict
    from capsnet.api import train as train
    from capsnet.api import verify as verify
    from capsnet.config import CapsNetConfig as CapsNetConfig
    from capsnet.errors import ArtifactError as ArtifactError
    from capsnet.errors import CapsNetError as CapsNetError
    from capsnet.errors import CheckpointError as CheckpointError
    from capsnet.errors import ConfigError as ConfigError
    from capsnet.errors import DataError as DataError
    from capsnet.errors import DeviceError as DeviceError
    from capsnet.errors import ExportError as ExportError
    from capsnet.errors import OutputError as OutputError
    from capsnet.errors import ResourceError as ResourceError
    from capsnet.errors import ResultError as ResultError
    from capsnet.model import CapsNet as CapsNet

    __version__: str

_MODULES = {
    "ArtifactError": "capsnet.errors",
    "CapsNet": "capsnet.model",
    "CapsNetConfig": "capsnet.config",
    "CapsNetError": "capsnet.errors",
    "CheckpointError": "capsnet.errors",
    "ConfigError": "capsnet.errors",
    "DataError": "capsnet.errors",
    "DeviceError": "capsnet.errors",
    "ExportError": "capsnet.errors",
    "OutputError": "capsnet.errors",
    "ResourceError": "capsnet.errors",
    "ResultError": "capsnet.errors",
    "compare": "capsnet.api",
    "export_model": "capsnet.api",  # "export" is the name of a package in here
    "load": "capsnet.api",
    "open_session": "capsnet.api",
    "predict": "capsnet.api",
    "train": "capsnet.api",
    "verify": "capsnet.api",
}
"""Where each public name is defined."""


def _is_source_checkout(folder: Path) -> bool:
    """Whether a folder is the root of this project's source."""
    if not all((folder / part).is_dir() for part in ("export", "runtime")):
        return False
    try:
        with (folder / "pyproject.toml").open(encoding="utf-8") as file:
            return 'name = "capsnet-export"\n' in file
    except (OSError, UnicodeError):
        return False


_ROOT = Path(__file__).absolute().parents[1]
if _is_source_checkout(_ROOT):
    __path__.append(str(_ROOT))  # there, export/ and runtime/ lie beside this folder, not in it

if not TYPE_CHECKING:  # a type checker would take a module with __getattr__ to have every name
    __all__ = ["__version__", *_MODULES]

    def __getattr__(name: str) -> object:
        if name == "__version__":
            from importlib.metadata import version

            value = version("capsnet-export")
        elif name in _MODULES:
            value = getattr(importlib.import_module(_MODULES[name]), name)
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
