"""The parts import only what they may, and running an ONNX file needs neither torch nor onnx."""

import ast
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from support.artifacts import onnx_bytes
from support.networks import SMALL, random_images

ROOT = Path(__file__).parents[1]
PARTS = {"capsnet": "capsnet", "export": "capsnet.export", "runtime": "capsnet.runtime"}
FILES = sorted(path for part in PARTS for path in (ROOT / part).rglob("*.py"))


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


def violations(path, source):
    """What the file imports although it must not: the arrows of docs/architecture.md."""
    part = path.partition("/")[0]
    forbidden = {"export", "runtime"}  # they exist only inside the package
    in_cli = path.startswith("capsnet/cli/") or path == "capsnet/__main__.py"
    if not in_cli:
        forbidden.add("capsnet.cli")
    if not in_cli and path not in FRONT_DOOR:  # only these see all parts
        forbidden |= {"capsnet.export", "capsnet.runtime"} - {PARTS[part]}
    return sorted(
        module
        for module in imported(source)
        if module.startswith(".") or any(f"{module}.".startswith(f"{f}.") for f in forbidden)
    )


FRONT_DOOR = ("capsnet/api.py", "capsnet/jobs.py")


def test_all_parts_are_found():
    names = {path.relative_to(ROOT).as_posix() for path in FILES}
    assert {"capsnet/cli/main.py", "export/lower.py", "runtime/sessions/base.py"} <= names
    assert len(names) > 40


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_file_imports_only_what_its_part_may(path):
    source = path.read_text(encoding="utf-8")
    assert violations(path.relative_to(ROOT).as_posix(), source) == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("capsnet/model.py", "import capsnet.export.lower"),
        ("capsnet/model.py", "from capsnet import runtime"),
        ("capsnet/model.py", "def f():\n    from capsnet.runtime.sessions import base"),
        ("capsnet/model.py", "import capsnet.cli.main"),
        ("capsnet/layers/stem.py", "from capsnet.cli.options import with_output"),
        ("capsnet/training/step.py", "from capsnet.export.lower import lower"),
        ("runtime/sessions/base.py", "from capsnet.cli.options import with_output"),
        ("export/lower.py", "from capsnet.runtime.sessions.base import Session"),
        ("runtime/predict.py", "if True:\n    from capsnet.export import lower"),
        ("runtime/predict.py", "from . import doctor"),
        ("runtime/predict.py", "from .doctor import examine"),
        ("capsnet/cli/main.py", "import export"),
        ("capsnet/cli/main.py", "from runtime import predict"),
    ],
)
def test_forbidden_import_is_noticed(path, source):
    assert violations(path, source) != []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("capsnet/cli/export.py", "from capsnet.export.lower import lower"),
        ("capsnet/cli/export.py", "from capsnet.runtime.sessions import base"),
        ("capsnet/cli/main.py", "from capsnet.cli.export import export_command"),
        ("capsnet/__main__.py", "from capsnet.cli.main import main"),
        ("export/lower.py", "from capsnet.export.formats.onnx import to_onnx\nimport onnx"),
        ("runtime/sessions/onnx.py", "from capsnet.runtime.sessions.base import Session"),
    ],
)
def test_allowed_import_is_left_alone(path, source):
    assert violations(path, source) == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_function_is_longer_than_60_lines(path):
    assert long_functions(path.read_text(encoding="utf-8")) == []


def long_functions(source, most=60):
    """Names of functions with more lines than that, without decorators and docstring."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = node.end_lineno - node.lineno + 1
            if ast.get_docstring(node) is not None:
                lines -= node.body[0].end_lineno - node.body[0].lineno + 1
            if lines > most:
                names.append(node.name)
    return names


def test_long_function_is_noticed():
    body = "\n".join(["    pass"] * 58)
    assert long_functions(f'def f():\n    """One\n\n    two."""\n{body}\n    pass') == []
    assert long_functions(f"def f():\n{body}\n    pass\n    pass") == ["f"]
    assert long_functions(f"class A:\n  def f(self):\n{body}\n    pass\n    pass") == ["f"]


def test_every_folder_of_the_source_is_installed():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    folders = {path.parent.relative_to(ROOT).as_posix() for path in FILES}
    packages = {f.replace("/", ".").removeprefix("capsnet.") for f in folders}
    packages = {p if p == "capsnet" else f"capsnet.{p}" for p in packages}
    assert set(project["tool"]["setuptools"]["packages"]) == packages


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


@pytest.mark.parametrize("module", ["capsnet", "capsnet.runtime.sessions.opening"])
def test_onnx_file_is_opened_and_run_with_numpy_and_onnxruntime_alone(tmp_path, module):
    (tmp_path / "model.onnx").write_bytes(onnx_bytes())
    np.save(tmp_path / "images.npy", random_images(SMALL, 2))
    code = f"""
from pathlib import Path
import numpy
from {module} import open_session
session = open_session(Path("model.onnx"), "cpu")
print(session.run(numpy.load("images.npy"))["lengths"].shape)
"""
    modules, lines = loaded_after(code, cwd=tmp_path)
    assert lines == ["(2, 5)"]
    assert {"numpy", "onnxruntime", "capsnet"} <= modules
    assert modules & HEAVY == set()


def test_light_modules_need_no_torch(tmp_path):
    names = (
        *("artifact", "bundled", "data.idx", "data.stream", "definitions", "documents", "errors"),
        *("files", "formats", "forms", "precision", "presets"),
    )
    code = "\n".join(f"import capsnet.{name}" for name in names)
    modules, _ = loaded_after(code, cwd=tmp_path)
    assert "numpy" in modules  # of capsnet.data.idx
    assert modules & (HEAVY | {"onnxruntime"}) == set()


@pytest.mark.parametrize("arguments", [["--help"], ["export", "--help"], ["--version"]])
def test_help_imports_nothing_that_loads_slowly(tmp_path, arguments):
    code = f"""
from capsnet.cli.main import main
try:
    main({arguments!r})
except SystemExit as error:
    print("exit", error.code)
"""
    modules, lines = loaded_after(code, cwd=tmp_path)
    assert lines[-1] == "exit 0"
    assert "click" in modules
    assert modules & {"torch", "onnx", "onnxruntime", "onnxscript", "numpy", "safetensors"} == set()
