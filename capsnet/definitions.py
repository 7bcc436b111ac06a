"""Code that is named before it is imported: rows of tables, and files of a user's own layers."""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from capsnet.errors import ConfigError

__all__ = [
    "deferred",
    "import_file",
    "load_definitions",
    "own_definitions",
    "refuse_while_loading",
]

_loading: list[Path] = []


def deferred(reference: str) -> Callable[..., Any]:
    """A function that imports what it stands for when it is called.

    Args:
        reference: ``"module:name"`` of a function or class.
    """
    module, name = reference.split(":")

    def call(*arguments: Any, **options: Any) -> Any:
        return getattr(importlib.import_module(module), name)(*arguments, **options)

    return call


def own_definitions(objects: Iterable[Any]) -> tuple[Path, ...]:
    """The Python files, outside of this package and of torch, that define classes or functions.

    A process that starts fresh loads them with :func:`load_definitions` before it meets what they
    define: a kind of layer, a precision, a format.

    Args:
        objects: classes and functions.

    Raises:
        ConfigError: if one of them was defined in an interactive session, which leaves no file.
    """
    files = []
    for item in objects:
        package = item.__module__.partition(".")[0]
        if package in ("capsnet", "torch", "einops"):
            continue
        file = getattr(sys.modules.get(item.__module__), "__file__", None)
        if file is None:
            raise ConfigError(
                f"{item.__qualname__} was defined interactively, so a fresh process cannot load it "
                "to prove the export: define it in a Python file, and import it from there"
            )
        files.append(Path(file).resolve())
    return tuple(dict.fromkeys(files))


def load_definitions(files: Iterable[Path]) -> list[ModuleType]:
    """Execute Python files, so that what they define and register is there.

    Args:
        files: as :func:`own_definitions` gives them.

    Raises:
        ConfigError: if one cannot be imported.
    """
    return [import_file(file) for file in files]


def import_file(file: Path) -> ModuleType:
    """Execute a Python file: the module of its package, or alone; once in a process.

    Raises:
        ConfigError: if it cannot be imported.
    """
    file = file.resolve()
    _loading.append(file)
    try:
        return _execute(file)
    except ConfigError:
        raise
    except Exception as error:  # a user's own code may raise anything
        raise ConfigError(f"{file} cannot be imported: {error!r}; correct the file") from error
    finally:
        _loading.remove(file)


def refuse_while_loading() -> None:
    """Raise ConfigError if a file of definitions that is being loaded starts an export itself.

    Its export would load the file again, and so on without end.
    """
    if _loading:
        raise ConfigError(
            f"{_loading[-1]} exports or verifies when it is imported: put that below "
            'if __name__ == "__main__":, or define the layers in a file of their own'
        )


def _execute(file: Path) -> ModuleType:
    """Import a file by the name of its package, or alone; what lies beside it can be imported."""
    root, names = file.parent, [file.stem]
    while (root / "__init__.py").is_file():
        root, names = root.parent, [root.name, *names]
    if str(root) not in sys.path:
        sys.path.append(str(root))
    if len(names) > 1:
        return importlib.import_module(".".join(names))
    for module in list(sys.modules.values()):  # imported already, it must not define things anew
        if getattr(module, "__file__", None) == str(file):
            return module
    name = f"capsnet_definitions_{len(sys.modules)}_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{file} is not a Python file; give one that ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
