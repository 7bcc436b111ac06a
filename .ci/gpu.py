"""Everything that needs a GPU, in one run: checks, proofs, speeds, a step of training.

``python .ci/gpu.py results`` writes results.json and, as tables, results.md after every part. It
needs an NVIDIA GPU, and torch and onnxruntime for it: see ``capsnet doctor --device cuda``.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from capsnet.bundled import BUNDLED
from capsnet.checkpoint import load_checkpoint
from capsnet.cli.candidates import Exported
from capsnet.data.idx import mnist_test_set
from capsnet.documents import to_values
from capsnet.formats import FORMATS
from capsnet.precision import PRECISIONS
from capsnet.runtime.bench import candidates as kinds
from capsnet.runtime.bench.encoder import benchmark_encoder
from capsnet.runtime.bench.harness import Result, Settings
from capsnet.runtime.bench.tables import tables_as_markdown
from capsnet.runtime.bench.training import benchmark_training
from capsnet.runtime.certificate import environment
from capsnet.runtime.proof.reference import EagerModel

Groups = dict[str, list[kinds.Candidate]]
BATCHES, TRAINED = (1, 32, 256, 1024), 256
EPOCH, IMAGES = 60_000, 32  # images of the training set; those that candidates are proven on


def commands(folder: Path) -> Iterator[tuple[str, ...]]:
    """The doctor, the CUDA tests, and every format and precision proven on CUDA."""
    capsnet, cuda = (sys.executable, "-m", "capsnet"), ("--device", "cuda")
    yield (*capsnet, "doctor", *cuda)
    yield (sys.executable, "-m", "pytest", "-q", "-m", "cuda")
    for precision in PRECISIONS.values():
        formats = [f"--format={name}" for name in precision.formats or FORMATS]
        target = (f"--precision={precision.name}", f"--output={folder}", "--samples=1000")
        yield (*capsnet, "export", *formats, *target, *cuda)


def ran(command: Sequence[str]) -> dict[str, Any]:
    """A command's exit code, seconds, and last lines."""
    started = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds, output = time.monotonic() - started, (done.stdout + done.stderr).splitlines()[-20:]
    return {"command": command, "code": done.returncode, "seconds": seconds, "output": output}


def candidates(checkpoint: Path, folder: Path) -> Groups:
    """Everything that is timed, in groups that fit on the GPU together."""
    model = load_checkpoint(checkpoint)

    def exported(name: str, precision: str, **forms: str) -> Path:
        path = folder / ".".join((name, precision, *forms.values()))
        Exported(name, precision, forms).export(model, path)
        return path

    groups: Groups = {"torch": []}
    nhwc, tuned = {"prefer_nhwc": "1"}, "max-autotune"
    for precision in ("fp32", "fp16"):
        name, own = f"onnx {precision}", dict[str, Any](precision=precision)
        script, file = exported("torchscript", precision), exported("onnx", precision)
        groups["torch"] += [
            kinds.Eager(f"eager {precision}", checkpoint, **own, baseline=precision == "fp32"),
            kinds.Compiled(f"compile {precision}", checkpoint, **own),
            kinds.Compiled(f"compile {tuned} {precision}", checkpoint, **own, mode=tuned),
            kinds.PlainTorchScript(f"torchscript {precision}", script, **own),
        ]
        groups[name] = [
            groups["torch"][0],  # what ratios are to
            kinds.PlainOnnx(name, file),
            kinds.PlainOnnx(f"{name}, NHWC", file, cuda_options=nhwc),
            kinds.PlainOnnx(f"{name}, CUDA graph", file, cuda_graphs=True),
        ]
    single, direct = groups["onnx fp32"][1].path, exported("onnx", "fp32", convolution="direct")
    heuristic = {"cudnn_conv_algo_search": "HEURISTIC"}
    tf32 = {"use_tf32": "1"}  # it rounds to the 11 bits of fp16, and is judged as fp16 is
    groups["onnx fp32"] += [
        kinds.PlainOnnx("onnx fp32, direct convolution", direct),
        kinds.PlainOnnx("onnx fp32, direct, NHWC", direct, cuda_options=nhwc),
        kinds.PlainOnnx("onnx fp32, heuristic search", single, cuda_options=heuristic),
        kinds.PlainOnnx("onnx fp32, TF32", single, cuda_options=tf32, precision="fp16"),
    ]
    return groups


def measured(
    checkpoint: Path, groups: Groups, images: np.ndarray, encoders: Settings
) -> Iterator[tuple[str, tuple[Result, ...]]]:
    """The results of every group, on the device and with copies, and of a step of training."""
    model = load_checkpoint(checkpoint)
    references = EagerModel(model, torch.float64), EagerModel(model, torch.float32)
    for name, group in groups.items():
        for where, resident in (("on the device", True), ("with copies", False)):
            placed = [replace(each, resident=resident) for each in group]  # type: ignore[call-arg]
            yield f"{name}, {where}", benchmark_encoder(placed, *references, images, encoders)
    literal = kinds.TrainingStep("literal", checkpoint, "literal", baseline=True)
    steps = [literal, kinds.TrainingStep("trainer", checkpoint)]
    yield "training", benchmark_training(steps, images, replace(encoders, batches=(TRAINED,)))


def page(speeds: dict[str, tuple[Result, ...]]) -> str:
    """The tables as Markdown, and what the steps of training make of an epoch."""
    page = tables_as_markdown(speeds) + "\n"
    for r in speeds.get("training", ()):
        seconds = EPOCH / (r.images_per_second or float("nan"))
        page += f"- {r.candidate}: {seconds:.1f} s for {EPOCH} images\n"
    return page


def main() -> None:
    if not torch.cuda.is_available():
        print("torch finds no CUDA device; see: capsnet doctor --device cuda", file=sys.stderr)
        sys.exit(3)
    target = Path([*sys.argv, "gpu"][1])
    document = {"device": torch.cuda.get_device_name(), "environment": environment()}
    checks: list[dict[str, Any]] = []
    speeds: dict[str, tuple[Result, ...]] = {}

    def keep() -> None:  # after every part, so that an interruption loses little
        values = {**document, "checks": checks, "speeds": to_values(speeds)}
        target.with_suffix(".json").write_text(json.dumps(values, indent=2) + "\n")
        target.with_suffix(".md").write_text(page(speeds))

    with tempfile.TemporaryDirectory() as name:
        for command in commands(Path(name)):
            checks.append(ran(command))
            keep()
        groups = candidates(BUNDLED["mnist"], Path(name))
        images = mnist_test_set().images[:IMAGES] / np.float32(255)
        encoders = Settings(BATCHES, device="cuda", on_progress=print)
        for title, results in measured(BUNDLED["mnist"], groups, images, encoders):
            speeds[title] = results
            keep()
    proven = all(r.device == "cuda" and not r.failure for found in speeds.values() for r in found)
    sys.exit(0 if proven and not any(check["code"] for check in checks) else 1)


if __name__ == "__main__":
    main()
