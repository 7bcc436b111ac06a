"""``import capsnet``: its public names, which are imported when they are first used."""

import ast
import doctest
import importlib
import importlib.util
import inspect
import json
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import capsnet

ROOT = Path(__file__).parents[1]
NAMES = [
    "ArtifactError",
    "CapsNet",
    "CapsNetConfig",
    "CapsNetError",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "DeviceError",
    "ExportError",
    "OutputError",
    "ResourceError",
    "ResultError",
    "__version__",
    "compare",
    "export_model",
    "load",
    "open_session",
    "predict",
    "train",
    "verify",
]
VERBS = ["load", "train", "export_model", "verify", "open_session", "predict", "compare"]
"""Their examples run in this order in one folder: later ones open what earlier ones wrote."""

DEFINED = [name for name in NAMES if name != "__version__"]


def python(code, cwd, *options):
    """What a fresh interpreter prints as JSON after it has run the code."""
    child = subprocess.run(
        [sys.executable, *options, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        cwd=cwd,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    return json.loads(child.stdout)


def test_public_names_are_these():
    assert sorted(capsnet.__all__) == NAMES
    assert set(NAMES) <= set(dir(capsnet))


def test_version_is_that_of_the_distribution():
    assert capsnet.__version__ == version("capsnet-export")


@pytest.mark.parametrize("name", DEFINED)
def test_public_name_is_that_of_its_module(name):
    module = importlib.import_module(capsnet._MODULES[name])
    assert name in module.__all__
    assert getattr(capsnet, name) is getattr(module, name)
    assert inspect.getdoc(getattr(capsnet, name))


@pytest.mark.parametrize("name", DEFINED)
def test_public_name_is_not_that_of_a_module(name):
    # Importing capsnet.export binds "export" in capsnet: a function of that name would vanish.
    assert importlib.util.find_spec(f"capsnet.{name}") is None


def test_type_checkers_see_the_same_names():
    tree = ast.parse(Path(capsnet.__file__).read_text(encoding="utf-8"))
    blocks = [node for node in tree.body if isinstance(node, ast.If)]
    imports = [node for node in ast.walk(blocks[0]) if isinstance(node, ast.ImportFrom)]
    names = [(alias, node.module) for node in imports for alias in node.names]
    assert {alias.name: module for alias, module in names} == capsnet._MODULES
    assert all(alias.asname == alias.name for alias, _ in names)  # else it is private to them


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'capsnet' has no attribute 'exprot'"):
        _ = capsnet.exprot
    assert not hasattr(capsnet, "_nothing")


@pytest.mark.slow
def test_star_import_gives_all_names(tmp_path):
    code = "from capsnet import *; import json; print(json.dumps(sorted(globals())))"
    assert set(NAMES) <= set(python(code, tmp_path))


def test_import_loads_nothing_but_the_standard_library(tmp_path):
    code = """
import json, sys
before = set(sys.modules)
import capsnet
print(json.dumps(sorted({name.partition(".")[0] for name in set(sys.modules) - before})))
"""
    loaded = set(python(code, tmp_path, "-P"))
    assert loaded - sys.stdlib_module_names == {"capsnet"}
    assert loaded & {"ctypes", "multiprocessing", "asyncio", "email"} == set()


def test_folders_beside_the_package_count_where_they_are_those_of_this_project(tmp_path):
    assert capsnet._is_source_checkout(ROOT)
    assert not capsnet._is_source_checkout(tmp_path)
    for name in ("export", "runtime"):
        (tmp_path / name).mkdir()
    assert not capsnet._is_source_checkout(tmp_path)
    project = tmp_path / "pyproject.toml"
    project.write_text('[project]\nname = "another"\ndependencies = ["capsnet-export"]\n')
    assert not capsnet._is_source_checkout(tmp_path)
    project.write_bytes(b"\xff")
    assert not capsnet._is_source_checkout(tmp_path)
    shutil.copy(ROOT / "pyproject.toml", project)
    assert capsnet._is_source_checkout(tmp_path)


@pytest.mark.parametrize(
    ("system", "machine", "wheel"),
    [
        ("linux", "x86_64", "onnxruntime-gpu"),
        ("linux", "aarch64", "onnxruntime"),
        ("win32", "AMD64", "onnxruntime-gpu"),
        ("win32", "ARM64", "onnxruntime"),
        ("darwin", "arm64", "onnxruntime"),
        ("darwin", "x86_64", "onnxruntime"),
    ],
)
def test_every_system_gets_the_one_onnxruntime_that_it_has_wheels_for(system, machine, wheel):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = [Requirement(text) for text in project["dependencies"]]
    environment = {"sys_platform": system, "platform_machine": machine}
    taken = {r.name for r in needed if r.marker is None or r.marker.evaluate(environment)}
    assert {name for name in taken if name.startswith("onnxruntime")} == {wheel}
    assert {"torch", "onnx", "numpy", "pillow"} <= taken


def test_documents_and_constraints_are_in_the_source_distribution():
    listed = (ROOT / "MANIFEST.in").read_text(encoding="utf-8").split()
    for name in ("constraints.txt", "CHANGELOG.md", "CONTRIBUTING.md", ".ci", "docs", "tests"):
        assert name in listed
        assert (ROOT / name).exists()


@pytest.mark.parametrize("name", VERBS)
def test_verb_has_an_example(name):
    assert doctest.DocTestParser().get_examples(inspect.getdoc(getattr(capsnet, name)))


@pytest.mark.slow
def test_examples_of_public_names_run_as_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    for name in [*VERBS, *sorted(set(DEFINED) - set(VERBS))]:
        for test in doctest.DocTestFinder().find(
            getattr(capsnet, name), name, globs={"capsnet": capsnet}
        ):
            runner.run(test, out=said.append)
    assert runner.tries >= len(VERBS)
    assert runner.failures == 0, "".join(said)
