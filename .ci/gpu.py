"""Everything that needs a GPU, in one run: tests, proofs, speeds, a step of training.

    python .ci/gpu.py results

writes ``results.json``, and the table that a README shows as ``results.md``. Needs an NVIDIA GPU, a
CUDA build of torch, and onnxruntime-gpu; ``capsnet doctor --device cuda`` says what is missing.
"""

import gc
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from capsnet.artifact import METADATA_KEY, ArtifactMetadata
from capsnet.checkpoint import BUNDLED_CHECKPOINT, load_checkpoint
from capsnet.config import PRESETS
from capsnet.data.idx import mnist_test_set
from capsnet.export.formats.onnx import to_onnx
from capsnet.export.formats.torchscript import to_torchscript
from capsnet.export.lower import lower
from capsnet.model import CapsNet
from capsnet.runtime.certificate import environment
from capsnet.runtime.sessions.bound import BoundBatch
from capsnet.runtime.sessions.cuda import CUDA
from capsnet.training.loss import margin_loss, reconstruction_loss
from capsnet.training.step import encode

BATCHES = (1, 32, 256, 1024)
ROUNDS, CALLS = 7, 20
EXPORTS = [
    *(("onnx", precision) for precision in ("fp32", "fp16", "int8")),
    *((name, precision) for name in ("torchscript", "pt2") for precision in ("fp32", "fp16")),
]
Call = Callable[[], Any]
Prepare = Callable[[int], tuple[Call, Call]]
"""For a batch size: a call on what is on the device already, and one from numpy to numpy."""


def images(batch: int) -> np.ndarray:
    pixels = mnist_test_set().images
    return (pixels[np.arange(batch) % len(pixels)] / np.float32(255)).astype(np.float32)


def command(*arguments: str) -> dict[str, Any]:
    """Run a command; its exit code, seconds, and last words."""
    started = time.monotonic()
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    words = (done.stdout + done.stderr).strip().splitlines()[-12:]
    seconds = round(time.monotonic() - started, 1)
    return {"command": arguments, "code": done.returncode, "seconds": seconds, "said": words}


def checks(folder: Path) -> Iterator[dict[str, Any]]:
    """The doctor, the CUDA tests, and every format and precision proven on CUDA."""
    capsnet = (sys.executable, "-m", "capsnet")
    yield command(*capsnet, "doctor", "--device", "cuda")
    yield command(sys.executable, "-m", "pytest", "-q", "-m", "cuda")
    for name, precision in EXPORTS:
        file = folder / f"{precision}.{name}"
        options = ("--format", name, "--precision", precision, "--output", str(file))
        yield command(*capsnet, "export", *options, "--device", "cuda", "--samples", "1000")


def torch_candidate(model: Any, dtype: torch.dtype) -> Prepare:
    def prepare(batch: int) -> tuple[Call, Call]:
        given = images(batch)
        resident = torch.from_numpy(given).cuda().to(dtype)

        def on_device() -> None:
            with torch.inference_mode():
                model(resident)
            torch.cuda.synchronize()

        def with_copies() -> None:
            with torch.inference_mode():
                outputs = model(torch.from_numpy(given).cuda().to(dtype))
                for output in outputs:
                    output.float().cpu().numpy()

        return on_device, with_copies

    return prepare


def onnxruntime_candidate(path: Path, *, graphs: bool = False, **options: str) -> Prepare:
    def prepare(batch: int) -> tuple[Call, Call]:
        settings = {"use_tf32": "0", "enable_cuda_graph": "1" if graphs else "0"} | options
        session = onnxruntime.InferenceSession(path, providers=[(CUDA, settings)])
        if session.get_providers()[0] != CUDA:
            raise RuntimeError("the session does not run on CUDA")
        document = session.get_modelmeta().custom_metadata_map[METADATA_KEY]
        metadata = ArtifactMetadata.from_json(document)
        bound = BoundBatch(session, metadata, batch, "cuda", graph=1 if graphs else None)
        given = images(batch)
        bound.write(given)

        def with_copies() -> None:
            if graphs:  # a captured graph reads and writes where it was captured
                bound.write(given)
                bound.run()
                bound.read()
            else:
                session.run(None, {"image": given})

        return bound.run, with_copies

    return prepare


def candidates(folder: Path) -> dict[str, Callable[[], Prepare]]:
    """Everything that is timed; each is made only when its turn comes."""

    def readable(dtype: torch.dtype) -> CapsNet:
        return load_checkpoint(BUNDLED_CHECKPOINT).requires_grad_(False).eval().cuda().to(dtype)

    half, single = torch.float16, torch.float32
    paths = {p: folder / f"timed.{p}.onnx" for p in ("fp32", "fp16")}
    scripts = {p: folder / f"timed.{p}.pt" for p in ("fp32", "fp16")}
    for precision, path in paths.items():
        lowered = lower(load_checkpoint(BUNDLED_CHECKPOINT), precision=precision)  # type: ignore[arg-type]
        to_onnx(lowered, path)
        to_torchscript(lowered, scripts[precision])
    paths["direct"] = folder / "timed.direct.onnx"
    direct = lower(load_checkpoint(BUNDLED_CHECKPOINT), convolution="direct")
    to_onnx(direct, paths["direct"])

    def script(precision: str) -> Prepare:
        return torch_candidate(torch.jit.load(scripts[precision], map_location="cuda"), single)

    def compiled(dtype: torch.dtype, mode: str) -> Prepare:
        return torch_candidate(torch.compile(readable(dtype), mode=mode), dtype)

    fast = {"cudnn_conv_algo_search": "HEURISTIC"}
    return {
        "eager fp32": lambda: torch_candidate(readable(single), single),
        "eager fp16": lambda: torch_candidate(readable(half), half),
        "compile fp32": lambda: compiled(single, "default"),
        "compile fp16": lambda: compiled(half, "default"),
        "compile max-autotune fp32": lambda: compiled(single, "max-autotune"),
        "compile max-autotune fp16": lambda: compiled(half, "max-autotune"),
        "torchscript fp32": lambda: script("fp32"),
        "torchscript fp16": lambda: script("fp16"),
        "onnx fp32": lambda: onnxruntime_candidate(paths["fp32"]),
        "onnx fp32, direct convolution": lambda: onnxruntime_candidate(paths["direct"]),
        "onnx fp32, direct, NHWC": lambda: onnxruntime_candidate(paths["direct"], prefer_nhwc="1"),
        "onnx fp32, heuristic search": lambda: onnxruntime_candidate(paths["fp32"], **fast),
        "onnx fp32, TF32": lambda: onnxruntime_candidate(paths["fp32"], use_tf32="1"),
        "onnx fp32, NHWC": lambda: onnxruntime_candidate(paths["fp32"], prefer_nhwc="1"),
        "onnx fp32, CUDA graph": lambda: onnxruntime_candidate(paths["fp32"], graphs=True),
        "onnx fp16": lambda: onnxruntime_candidate(paths["fp16"]),
        "onnx fp16, NHWC": lambda: onnxruntime_candidate(paths["fp16"], prefer_nhwc="1"),
        "onnx fp16, CUDA graph": lambda: onnxruntime_candidate(paths["fp16"], graphs=True),
    }


def milliseconds(call: Call) -> float:
    """Median over rounds of the mean of some calls, after a warm-up."""
    for _ in range(5):
        call()
    rounds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        for _ in range(CALLS):
            call()
        rounds.append(1e3 * (time.perf_counter() - started) / CALLS)
    return float(np.median(rounds))


def used_memory() -> int:
    free, total = torch.cuda.mem_get_info()
    return total - free


def time_candidate(make: Callable[[], Prepare]) -> list[dict[str, Any]]:
    """Both timings and the device memory at every batch size; or what went wrong."""
    rows: list[dict[str, Any]] = []
    prepare = on_device = with_copies = None
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    before = used_memory()
    try:
        prepare = make()
        for batch in BATCHES:
            on_device, with_copies = prepare(batch)
            row = {"batch": batch, "device_ms": milliseconds(on_device)}
            row |= {"copies_ms": milliseconds(with_copies), "bytes": used_memory() - before}
            rows.append(row)
    except Exception as error:  # one candidate that fails must not lose the others
        rows.append({"failure": f"{type(error).__name__}: {error}"})
    prepare = on_device = with_copies = None  # or the next candidate starts with their memory
    gc.collect()
    torch.cuda.empty_cache()
    return rows


def training(encoder: Callable[[CapsNet, torch.Tensor], torch.Tensor], autocast: bool) -> Any:
    """Seconds of an epoch of 60,000 images at batch 256, from 30 steps, and peak memory."""
    torch.manual_seed(0)
    model = CapsNet(PRESETS["mnist"]).cuda().train()
    optimizer = torch.optim.Adam(model.parameters())
    batch, labels = torch.rand(256, 1, 28, 28).cuda(), torch.arange(256).cuda() % 10

    def step() -> None:
        with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
            capsules = encoder(model, batch)
            loss = margin_loss(torch.linalg.vector_norm(capsules, dim=-1), labels)
            loss = loss + reconstruction_loss(model.reconstruct(capsules, labels), batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    for _ in range(5):
        step()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    for _ in range(30):
        step()
    torch.cuda.synchronize()
    seconds = (time.perf_counter() - started) / 30 * 60_000 / 256
    return {"epoch_seconds": seconds, "peak_bytes": torch.cuda.max_memory_allocated()}


def table(document: dict[str, Any]) -> str:
    """Milliseconds a call, on the device alone and with copies, as Markdown."""
    lines = [f"{document['gpu']}; milliseconds a call on the device (with copies)", ""]
    lines.append("| candidate | " + " | ".join(f"batch {batch}" for batch in BATCHES) + " |")
    lines.append("|---" * (len(BATCHES) + 1) + "|")
    for name, rows in document["speeds"].items():
        cells = [
            row.get("failure") or f"{row['device_ms']:.2f} ({row['copies_ms']:.2f})" for row in rows
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += ["", "| training at batch 256 | epoch, s | peak memory, GB |", "|---|---|---|"]
    for name, row in document["training"].items():
        lines.append(f"| {name} | {row['epoch_seconds']:.1f} | {row['peak_bytes'] / 1e9:.2f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    if not torch.cuda.is_available():
        print(
            "error: torch finds no CUDA device; run: capsnet doctor --device cuda", file=sys.stderr
        )
        sys.exit(3)
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "gpu")
    document: dict[str, Any] = {
        "gpu": torch.cuda.get_device_name(),
        "environment": environment() | {"cuda": torch.version.cuda},
    }

    def keep() -> None:  # after every part, so that an interruption loses little
        target.with_suffix(".json").write_text(json.dumps(document, indent=2) + "\n")

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        document["speeds"] = {}
        for candidate, make in candidates(folder).items():
            document["speeds"][candidate] = time_candidate(make)
            keep()
        literal = lambda model, batch: model(batch)[1]  # noqa: E731
        document["training"] = {
            "literal einsum, float32": training(literal, autocast=False),
            "literal einsum, bfloat16 autocast": training(literal, autocast=True),
            "trainer": training(encode, autocast=True),
        }
        keep()
        document["checks"] = []
        for check in checks(folder):
            document["checks"].append(check)
            keep()
    target.with_suffix(".md").write_text(table(document))
    print(table(document))
    broken = any("failure" in row for rows in document["speeds"].values() for row in rows)
    sys.exit(1 if broken or any(check["code"] for check in document["checks"]) else 0)


if __name__ == "__main__":
    main()
