"""``python -m tests.compatibility``: which runtimes compute the artifacts' numbers.

Every runtime is installed from the package registry into an environment of its own.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from compatibility.artifacts import BUNDLED, OTHERS, write_artifacts

_HERE = Path(__file__).parent
_LIMITS = {"fp32": 2e-5, "fp16": 2**-8, "int8": 0.25}
_SECONDS = 900.0  # for one runtime, or its installation


@dataclass(frozen=True)
class Runtime:
    """One column of the table.

    Attributes:
        module: how ``one.py`` calls it.
        packages: what is installed for it.
        beside: whether it goes beside this interpreter's own packages, such as torch.
        program: what else must be on the machine.
    """

    module: str
    packages: tuple[str, ...]
    beside: bool = False
    program: str | None = None


RUNTIMES: Mapping[str, Runtime] = {
    "onnxruntime 1.16": Runtime("onnxruntime", ("onnxruntime==1.16.3", "numpy<2")),
    "onnxruntime 1.31": Runtime("onnxruntime", ("onnxruntime==1.31.1",)),
    "OpenVINO 2026.4": Runtime("openvino", ("openvino==2026.4.1",)),
    "tinygrad 0.14": Runtime("tinygrad", ("tinygrad==0.14.0", "numpy"), program="clang"),
    "onnx2torch 1.5": Runtime("onnx2torch", ("onnx2torch==1.5.15",), beside=True),
    "ReferenceEvaluator": Runtime("reference", (), beside=True),
    "onnxruntime-web 1.30, Node": Runtime("web", ("onnxruntime-web@1.30.0",), program="node"),
}


def verdict(artifact: str, result: Mapping[str, Any]) -> tuple[bool, str]:
    """Whether a result is right, and what the table says of it."""
    if "failure" in result:
        return False, "fails"
    precision = artifact.rpartition("-")[2]
    right = result["error"] <= _LIMITS.get(precision, _LIMITS["fp32"])
    return right, f"{result['error']:.1e}" if right else f"**wrong by {result['error']:.1e}**"


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """A table in Markdown: a row for each artifact, a column for each runtime."""
    lines = [f"| | {' | '.join(results)} |", "|---" * (len(results) + 1) + "|"]
    for artifact in (*BUNDLED, *OTHERS):
        cells = [
            verdict(artifact, found[artifact])[1] if artifact in found else "not run"
            for found in results.values()
        ]
        lines.append(f"| {artifact} | {' | '.join(cells)} |")
    return "\n".join(lines)


def try_runtime(runtime: Runtime, place: Path, artifacts: Path) -> dict[str, Any]:
    """Install a runtime and run all artifacts in it.

    Args:
        place: folder for its environment; one that is there is used.
        artifacts: their folder.

    Returns:
        A result for each artifact that was tried, and why others were not.
    """
    if runtime.program is not None and shutil.which(runtime.program) is None:
        return {"not run": f"there is no {runtime.program}"}
    try:
        command, environment = _install(runtime, place)
        done = _call([*command, str(artifacts), *BUNDLED, *OTHERS], environment)
    except (subprocess.SubprocessError, OSError) as error:
        output = getattr(error, "stderr", None) or str(error)
        return {"not run": " ".join(output.split())[-300:]}
    results = [json.loads(line) for line in done.splitlines() if line.startswith("{")]
    return {result.pop("artifact"): result for result in results}


def _install(runtime: Runtime, place: Path) -> tuple[list[str], dict[str, str]]:
    """Make the environment of a runtime: the command that runs it, and its variables."""
    environment = dict(os.environ)
    if runtime.module == "web":
        place.mkdir(exist_ok=True)
        shutil.copy(_HERE / "one.mjs", place)
        _call(["npm", "install", "--silent", "--prefix", str(place), *runtime.packages])
        return ["node", str(place / "one.mjs")], environment
    python = sys.executable
    pip = [python, "-m", "pip", "install", "--quiet"]
    if runtime.beside:
        if runtime.packages:
            _call([*pip, "--upgrade", "--no-deps", "--target", str(place), *runtime.packages])
        environment["PYTHONPATH"] = str(place)
    else:
        if not place.exists():
            venv.create(place, with_pip=True)
        python = str(place / "bin" / "python")
        _call([python, *pip[1:], *runtime.packages])
    return [python, str(_HERE / "one.py"), runtime.module], environment


def _call(command: list[str], environment: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True, timeout=_SECONDS
    )
    return done.stdout


@click.command()
@click.option("--json", "json_file", type=click.Path(path_type=Path))
@click.option("--work", type=click.Path(path_type=Path), help="Folder to keep environments in.")
@click.option("--runtime", "chosen", multiple=True, type=click.Choice(list(RUNTIMES)))
def main(json_file: Path | None, work: Path | None, chosen: tuple[str, ...]) -> None:
    """Print the largest error of every artifact in every runtime.

    Exits with 1 where one that runs is wrong about a bundled network in fp32.
    """
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary) if work is None else work
        artifacts = place / "artifacts"
        artifacts.mkdir(parents=True, exist_ok=True)
        write_artifacts(artifacts)
        results = {
            name: try_runtime(RUNTIMES[name], place / name.replace(" ", "-"), artifacts)
            for name in chosen or RUNTIMES
        }
    print(table(results))
    for name, found in results.items():
        for artifact, result in found.items():
            why = result if artifact == "not run" else result.get("failure")
            if why is not None:
                print(f"{name}, {artifact}: {why}")
    if json_file is not None:
        json_file.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    sys.exit(0 if all(map(_sound, results.values())) else 1)


def _sound(found: Mapping[str, Any]) -> bool:
    exact = [name for name in BUNDLED if name.endswith("-fp32")]
    return "not run" in found or all(verdict(n, found.get(n, {"failure": ""}))[0] for n in exact)


if __name__ == "__main__":
    main()
