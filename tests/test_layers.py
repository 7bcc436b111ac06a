"""The parts import only what they may, and running an ONNX file needs neither torch nor onnx."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from artifacts import SMALL, onnx_bytes, random_images

ROOT = Path(__file__).parents[1]
FOLDERS = {
    "capsnet": "capsnet",
    "capsnet/commands": "capsnet.commands",
    "export": "capsnet.export",
    "runtime": "capsnet.runtime",
}
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).glob("*.py"))


def imported(source):
    """Names of all modules that the source may import, wherever the import stands in it."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            names |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return names


def violations(folder, name, source):
    """What the file ``folder/name`` imports although it must not."""
    forbidden = {"export", "runtime"}  # they exist only inside the package
    if name != "__main__.py":
        forbidden.add("capsnet.cli")
    if name != "cli.py" and folder != "capsnet/commands":
        forbidden.add("capsnet.commands")
    if folder != "capsnet/commands":  # only commands see all parts
        forbidden |= {"capsnet.export", "capsnet.runtime"} - {FOLDERS[folder]}
    return sorted(
        module
        for module in imported(source)
        if module.startswith(".") or any(f"{module}.".startswith(f"{f}.") for f in forbidden)
    )


def test_all_parts_are_found():
    everywhere = (path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
    assert sorted(set(everywhere)) == FILES
    names = {str(path.relative_to(ROOT)) for path in FILES}
    assert {"capsnet/cli.py", "export/lower.py", "runtime/session.py"} <= names
    assert len(names) > 20


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_file_imports_only_what_its_part_may(path):
    source = path.read_text(encoding="utf-8")
    assert violations(path.parent.relative_to(ROOT).as_posix(), path.name, source) == []


@pytest.mark.parametrize(
    ("folder", "name", "source"),
    [
        ("capsnet", "model.py", "import capsnet.export.lower"),
        ("capsnet", "model.py", "from capsnet import runtime"),
        ("capsnet", "model.py", "def f():\n    from capsnet.runtime.session import Session"),
        ("capsnet", "model.py", "import capsnet.cli"),
        ("capsnet", "model.py", "from capsnet.commands.options import reporting"),
        ("capsnet", "cli.py", "from capsnet.export.lower import lower"),
        ("capsnet/commands", "export.py", "from capsnet.cli import main"),
        ("runtime", "session.py", "from capsnet.commands.options import reporting"),
        ("export", "lower.py", "from capsnet.runtime.session import Session"),
        ("runtime", "session.py", "if True:\n    from capsnet.export import lower"),
        ("runtime", "session.py", "from . import ort"),
        ("runtime", "session.py", "from .ort import OrtSession"),
        ("capsnet", "cli.py", "import export"),
        ("capsnet", "cli.py", "from runtime import session"),
    ],
)
def test_forbidden_import_is_noticed(folder, name, source):
    assert violations(folder, name, source) != []


@pytest.mark.parametrize(
    ("folder", "name", "source"),
    [
        ("capsnet/commands", "export.py", "from capsnet.export.lower import lower"),
        ("capsnet/commands", "export.py", "from capsnet.runtime import session"),
        ("capsnet", "cli.py", "from capsnet.commands.export import export_command"),
        ("capsnet", "__main__.py", "from capsnet.cli import main"),
        ("export", "lower.py", "from capsnet.export.onnx import to_onnx\nimport onnx"),
        ("runtime", "ort.py", "from capsnet.runtime.session import Session"),
    ],
)
def test_allowed_import_is_left_alone(folder, name, source):
    assert violations(folder, name, source) == []


@pytest.mark.parametrize("folder", FOLDERS)
def test_package_files_are_empty_of_imports(folder):
    assert imported((ROOT / folder / "__init__.py").read_text(encoding="utf-8")) == set()


def loaded_after(code, *arguments, cwd):
    """Top-level modules that a fresh interpreter holds after the code, and what it printed."""
    report = "\nimport json, sys\nprint(json.dumps(sorted({n.split('.')[0] for n in sys.modules})))"
    child = subprocess.run(
        [sys.executable, "-P", "-W", "error", "-c", code + report, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    *lines, modules = child.stdout.splitlines()
    return set(json.loads(modules)), lines


HEAVY = {"torch", "onnx", "onnxscript", "einops", "safetensors", "click", "rich", "PIL"}


def test_onnx_file_is_opened_and_run_with_numpy_and_onnxruntime_alone(tmp_path):
    (tmp_path / "model.onnx").write_bytes(onnx_bytes())
    np.save(tmp_path / "images.npy", random_images(SMALL, 2))
    code = """
from pathlib import Path
import numpy
from capsnet.runtime.session import open_session
session = open_session(Path("model.onnx"), "cpu")
print(session.run(numpy.load("images.npy"))["lengths"].shape)
"""
    modules, lines = loaded_after(code, cwd=tmp_path)
    assert lines == ["(2, 5)"]
    assert {"numpy", "onnxruntime", "capsnet"} <= modules
    assert modules & HEAVY == set()


def test_light_modules_need_no_torch(tmp_path):
    names = ("artifact", "config", "data", "errors", "files")
    code = "\n".join(f"import capsnet.{name}" for name in names)
    modules, _ = loaded_after(code, cwd=tmp_path)
    assert "numpy" in modules  # of capsnet.data
    assert modules & (HEAVY | {"onnxruntime"}) == set()


@pytest.mark.parametrize("arguments", [["--help"], ["export", "--help"], ["--version"]])
def test_help_imports_nothing_that_loads_slowly(tmp_path, arguments):
    code = f"""
from capsnet.cli import main
try:
    main({arguments!r})
except SystemExit as error:
    print("exit", error.code)
"""
    modules, lines = loaded_after(code, cwd=tmp_path)
    assert lines[-1] == "exit 0"
    assert "click" in modules
    assert modules & {"torch", "onnx", "onnxruntime", "onnxscript", "numpy", "safetensors"} == set()
