"""Everything that needs a GPU, in one call: proofs, placement, speeds, training.

``python .ci/gpu.py FOLDER`` needs an NVIDIA GPU, torch and onnxruntime for it, and under ten
minutes. Each part is a command of its own with a time limit, most valuable first. After every part
three files in the folder are whole: results.json (all that the commands said), summary.md (a table
for each part) and log.txt (all that they printed). Of a part that fails or takes too long
they hold what it printed last, and the next one runs. ``--dry`` rehearses every part on the CPU,
with a small network: the figures then mean nothing.
"""

import argparse
import contextlib
import gzip
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "capsnet-export"
SECONDS = 570.0  # for everything
FEWEST = 5.0  # seconds; with less left, a part is not started
PATIENCE = 10.0  # times as long may a rehearsal take, on whatever machine it is
LAST_LINES = 30  # of what a command printed, in the results
LIBRARIES = (PACKAGE, "torch", "onnxruntime-gpu", "onnxruntime", "onnx", "onnxscript", "numpy")

Rows = Iterator[tuple[object, ...]]


def findings(document: dict[str, Any]) -> Rows:
    """What ``doctor`` found."""
    yield "subject", "status", "detail"
    for finding in document["findings"]:
        yield finding["subject"], finding["status"], finding["detail"]


def proofs(document: dict[str, Any]) -> Rows:
    """The certificates of ``export``: of each output the check that came nearest to its budget."""
    yield "artifact", "device", "nodes", "verdict", "output", "max error", "allowed", "accuracy"
    for found in document["artifacts"]:
        metadata = found["artifact"]["metadata"]
        name = f"{found['artifact']['format']} {metadata['precision']}"
        accuracy = (found["parity"]["accuracy"] or {}).get("candidate", "")
        outputs: dict[str, tuple[float, ...]] = {}
        for check in found["parity"]["checks"]:
            error, allowed = check["errors"]["max"], check["allowed"]["max"]
            nearest = (error / allowed, error, allowed)
            outputs[check["output"]] = max(nearest, outputs.get(check["output"], nearest))
        for output, (_, error, allowed) in outputs.items():
            nodes = ", ".join(f"{count} {name}" for name, count in found["providers"].items())
            row = (name, found["device"], nodes, found["verdict"], output)
            yield *row, f"{error:.2e}", f"{allowed:.2e}", accuracy


def speeds(document: dict[str, Any]) -> Rows:
    """The results of ``bench``; where a candidate has no speed, the reason."""
    results = document["results"]
    others = list(dict.fromkeys(name for result in results for name in result["ratios"]))
    yield (
        *("batch", "candidate", "device", "p50 ms", "p99 ms", "images/s"),
        *(f"x {name} (99 %)" for name in others),
        *("MB", "GPU MB"),
    )
    for result in results:
        first = (result["batch"], result["candidate"], result["device"] or "")
        latency = result["latency"]
        if latency is None:
            yield *first, result["failure"]
            continue
        ratios = [result["ratios"].get(name) for name in others]
        yield (
            *first,
            *(f"{1e3 * latency[key]:.3f}" for key in ("p50", "p99")),
            f"{result['images_per_second']:.0f}",
            *(r and f"{r['estimate']:.2f} ({r['low']:.2f}-{r['high']:.2f})" for r in ratios),
            *(f"{(result[key] or 0) / 1e6:.0f}" for key in ("peak_bytes", "device_bytes")),
        )


def epochs(document: dict[str, Any]) -> Rows:
    """The epochs of ``train``; the first one also warms up."""
    yield "epoch", "device", "seconds", "validation accuracy"
    pairs = zip(document["epoch_seconds"], document["val_accuracy"], strict=True)
    for number, (seconds, accuracy) in enumerate(pairs, start=1):
        yield number, document["device"], f"{seconds:.2f}", f"{accuracy:.2%}"


def nothing(_: object) -> Rows:
    """Of a command that gives an exit code and text alone."""
    yield from ()


@dataclass(frozen=True)
class Part:
    """One command.

    Attributes:
        name: in the results.
        seconds: that it may take.
        command: words of ``capsnet``; of Python, where nothing is to be read from it.
        rows: the table that its JSON becomes, the heading first.
        rehearsed: whether a dry run has it; not where it is another's command with other names.
    """

    name: str
    seconds: float
    command: tuple[str, ...]
    rows: Callable[[Any], Rows] = nothing
    rehearsed: bool = True


def parts(work: Path, dry: bool) -> list[Part]:
    """All parts, most valuable first; dry, that which makes the small network is the first.

    Args:
        work: an empty folder for what they read and write.
        dry: on the CPU, with few candidates and small batches.
    """
    network = work / "network.safetensors"
    device = ("--device", "cpu" if dry else "cuda")
    small = ("--checkpoint", str(network)) if dry else ()

    def proof(*formats: str, precision: str = "fp32") -> tuple[str, ...]:
        asked = (*(f"--format={name}" for name in formats), f"--precision={precision}")
        samples = ("--samples", "16" if dry else "1000")
        return ("export", *asked, *samples, f"--output={work}", *small, *device)

    def bench(part: str, batches: str, *names: str, options: Sequence[str] = ()) -> tuple[str, ...]:
        chosen = [f"--candidate={name}" for name in (names[:1] if dry else names)]
        how = ("--batch=2", "--threads=1") if dry else (f"--batch={batches}",)
        return ("bench", "--part", part, "--rounds=7", *chosen, *how, *options, *small, *device)

    def resident(batches: str, *names: str) -> tuple[str, ...]:
        return bench("resident", batches, *(f"resident-{name}" for name in names))

    in_fp32 = ("onnx", "onnx-naive", "onnx-direct", "onnx-tf32", "onnx-graph", "torchscript")
    in_fp16 = ("onnx-fp16", "eager-fp16", "torchscript-fp16", "onnx-graph-fp16")
    compiled = ("compile", "compile-fp16")
    tuned = ("max-autotune", "max-autotune-fp16", "onnx", "onnx-fp16")
    layouts = ("onnx-nhwc", "onnx-nhwc-fp16", "onnx", "onnx-fp16")
    sizes = "1,32,256"
    how = ("--preset=tiny", "--batch-size=16", "--learning-rate=0.01")
    how = how if dry else ("--batch-size=256",)
    train = ("train", f"--data={work}", f"--output={network}", "--epochs=2", *how, *device)
    epoch = Part("epoch", 60, train, epochs)
    found = [
        Part("doctor", 40, ("doctor", *device), findings),
        Part("proof", 90, proof("onnx"), proofs),
        Part("speed fp32", 120, resident(sizes, *in_fp32), speeds),
        Part("proof fp16", 60, proof("onnx", precision="fp16"), proofs),
        Part("speed fp16", 90, resident(sizes, *in_fp16), speeds, rehearsed=False),
        Part("training", 60, bench("training", "64,256"), speeds),
        epoch,
        Part("compiled", 90, resident("256", *compiled), speeds, rehearsed=False),
        Part("max-autotune", 120, resident("256", *tuned), speeds),
        Part(
            "with copies",
            60,
            bench("encoder", "1,256", "onnx-naive", "onnx", options=["--precision=fp16"]),
            speeds,
        ),
        Part("layouts", 60, resident("1,256", *layouts), speeds, rehearsed=False),
        Part("int8", 40, proof("onnx", precision="int8"), proofs),
        Part("proof torch", 90, proof("torchscript", "pt2"), proofs),
        Part("tests", 90, ("-m", "pytest", "-q", "-m", "cuda", "tests/runtime/sessions")),
    ]
    if not dry:
        return found
    return [epoch, *(part for part in found if part.rehearsed and part is not epoch)]


def training_data(folder: Path, dry: bool) -> None:
    """Both splits as IDX files, the training images from the test images: for timing alone."""
    sizes = {"train": 256 if dry else 60_000, "t10k": 16 if dry else 10_000}
    for kind, header in (("images-idx3", 16), ("labels-idx1", 8)):
        packed = ROOT / "capsnet" / "assets" / f"t10k-{kind}-ubyte.gz"
        content = gzip.decompress(packed.read_bytes())
        each = (len(content) - header) // 10_000
        for split, count in sizes.items():
            start = content[:4] + count.to_bytes(4, "big") + content[8:header]
            values = (content[header:] * 6)[: count * each]
            (folder / f"{split}-{kind}-ubyte").write_bytes(start + values)


def surroundings(work: Path) -> dict[str, str]:
    """The environment in which commands find this checkout, installed or not."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    try:
        version(PACKAGE)
    except PackageNotFoundError:  # exports ask for its version: say what an installation would
        number = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
        info = work / f"capsnet_export-{number}.dist-info"
        info.mkdir()
        text = f"Metadata-Version: 2.1\nName: {PACKAGE}\nVersion: {number}\n"
        (info / "METADATA").write_text(text)
        paths.insert(0, str(work))
    path = os.pathsep.join(filter(None, paths))
    return {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}


def machine() -> dict[str, str]:
    """The GPU, its driver, and versions."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        asked = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
        gpu = (asked.stdout or asked.stderr).strip()
    except (OSError, subprocess.TimeoutExpired) as error:
        gpu = f"unknown: {error}"
    facts = {"GPU, driver, memory": gpu, "Python": platform.python_version()}
    facts["CPUs"] = str(os.cpu_count())
    for name in LIBRARIES:
        with contextlib.suppress(PackageNotFoundError):
            facts[name] = version(name)
    return facts


def run(
    part: Part, seconds: float, work: Path, log: Path, environment: Mapping[str, str]
) -> dict[str, Any]:
    """Run a part; whatever becomes of it is its result.

    Args:
        part: to run.
        seconds: that it may take.
        work: the folder for its JSON.
        log: the file that what it prints is added to.
        environment: of its process.
    """
    document = work / "found.json"
    document.unlink(missing_ok=True)
    command = [sys.executable, *part.command]
    if part.rows is not nothing:
        command[1:1] = ["-m", "capsnet"]
        command += ["--json", str(document)]
    result: dict[str, Any] = {"command": command[1:], "code": None, "problem": ""}
    started = time.monotonic()
    with log.open("ab") as output:
        output.write(f"\n== {part.name}\n".encode())
        output.flush()
        begin = output.tell()
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env=environment,
            start_new_session=True,
        )
        try:
            result["code"] = process.wait(seconds)
        except subprocess.TimeoutExpired:
            result["problem"] = f"stopped after {seconds:.0f} s"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # the processes that it started, too
            process.wait()
    result["seconds"] = round(time.monotonic() - started, 1)
    printed = log.read_bytes()[begin:].decode(errors="replace").splitlines()
    result["output"] = printed[-LAST_LINES:]
    if result["code"]:
        result["problem"] = (printed or ["it printed nothing"])[-1]
    if document.is_file():
        result["found"] = json.loads(document.read_text())
    return result


def cell(value: object) -> str:
    """As a cell of a Markdown table, whose columns a bar would end."""
    return "" if value is None else " ".join(str(value).replace("|", "/").split())


def table(rows: Rows) -> str:
    """As a table of Markdown; short rows are filled."""
    heading, *others = rows
    lines = [heading, ["---"] * len(heading), *others]
    filled = [[*map(cell, line), *[""] * (len(heading) - len(line))] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in filled)


def section(part: Part, result: dict[str, Any]) -> str:
    """A part's heading, its problem, and its table."""
    problem = result["problem"]
    text = f"## {part.name}\n\n" + (f"Exit code {result['code']}: {problem}\n\n" if problem else "")
    try:
        return text + (table(part.rows(result["found"])) + "\n" if "found" in result else "")
    except Exception as error:  # of another form than expected: it is still in results.json
        result["problem"] = problem or f"no table: {error!r}"
        return f"{text}{result['problem']}\n\n"


def write(folder: Path, dry: bool, results: dict[Part, dict[str, Any]]) -> None:
    """Write all results so far, whole or not at all."""
    facts = machine()
    sections = [section(part, result) for part, result in results.items()]
    took = (("part", "seconds", "exit code", "problem"),)
    took += tuple(
        (part.name, result["seconds"], result["code"], result["problem"])
        for part, result in results.items()
    )
    title = "# A rehearsal on the CPU: these figures mean nothing" if dry else "# On a GPU"
    page = [title, table(iter([("what", "which"), *facts.items()])), table(iter(took)), *sections]
    document = {"machine": facts, "parts": {part.name: r for part, r in results.items()}}
    for name, text in (
        ("results.json", json.dumps(document, indent=2) + "\n"),
        ("summary.md", "\n".join(page)),
    ):
        temporary = folder / f".{name}"
        temporary.write_text(text)
        temporary.replace(folder / name)


def main() -> int:
    """Run all parts; 0 if all were right, else 1."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="for the results")
    parser.add_argument("--dry", action="store_true", help="rehearse on the CPU")
    arguments = parser.parse_args()
    folder, dry = arguments.folder, arguments.dry
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "log.txt"
    log.write_bytes(b"")
    results: dict[Part, dict[str, Any]] = {}
    patience = PATIENCE if dry else 1.0
    end = time.monotonic() + patience * SECONDS
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # which ends the part, too
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        training_data(work, dry)
        environment = surroundings(work)
        for part in parts(work, dry):
            left = end - time.monotonic()
            if left < FEWEST:
                results[part] = {"code": None, "seconds": 0, "problem": "not started: no time left"}
            else:
                results[part] = run(
                    part, min(patience * part.seconds, left), work, log, environment
                )
            write(folder, dry, results)
            print(part.name, results[part]["seconds"], "s", results[part]["problem"], flush=True)
    return int(any(result["code"] != 0 or result["problem"] for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
