"""A process that holds one candidate of a benchmark, and runs it when it is told to.

Candidates are timed in processes of their own: threads of an idle session spin, allocators keep
memory, and libraries share pools, so that candidates within one process time each other. Arrays
travel as files.
"""

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from capsnet.errors import ArtifactError, CapsNetError, first_line
from capsnet.runtime.process import Handler, serve

if TYPE_CHECKING:
    from capsnet.model import CapsNet

_T = TypeVar("_T")
Run = Callable[[np.ndarray], dict[str, np.ndarray]]

_CLEAR_PEAK = "5"  # see proc(5): clear_refs


def _open(request: dict[str, Any]) -> tuple[Run, dict[str, Any]]:
    """The candidate as a function, and what there is to say about it."""
    os.environ["OMP_NUM_THREADS"] = str(request["threads"])  # torch.compile builds it in
    if request["kind"] == "artifact":
        from capsnet.runtime.sessions.opening import open_session

        session = open_session(Path(request["path"]), request["device"], threads=request["threads"])
        return session.run, {"device": session.device, "metadata": session.metadata.to_json()}
    if request["kind"] == "onnxruntime":
        from capsnet.runtime.sessions.onnx import create_session

        plain = create_session(Path(request["path"]), request["device"], threads=request["threads"])
        [given] = plain.get_inputs()
        names = [value.name for value in plain.get_outputs()]
        where = "cuda" if "CUDAExecutionProvider" in plain.get_providers() else "cpu"

        def run_plain(images: np.ndarray) -> dict[str, np.ndarray]:
            return dict(zip(names, plain.run(names, {given.name: images}), strict=True))

        return run_plain, {"device": where, "metadata": None}
    import torch

    from capsnet.checkpoint import load_checkpoint

    torch.set_num_threads(request["threads"])
    # The numbers that are proven are those of float32.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    wanted = request["device"]
    device = wanted if wanted != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    model = load_checkpoint(Path(request["path"])).to(device)
    if request["kind"] in ("literal", "trainer"):
        return _training(model, request["kind"]), {"device": device, "metadata": None}
    model.requires_grad_(False)
    call = torch.compile(model) if request["kind"] == "compile" else model

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        with torch.inference_mode():
            lengths, capsules = call(torch.from_numpy(images).to(device))
            return {"lengths": lengths.cpu().numpy(), "capsules": capsules.cpu().numpy()}

    return run, {"device": device, "metadata": None}


def _training(model: "CapsNet", kind: str) -> Run:
    """A step of training a call: the trainer's, or with the encoder as it is written."""
    import torch

    from capsnet.training.step import encode, reuse_freed_memory, training_step

    if kind == "trainer":
        reuse_freed_memory()
    encoder = encode if kind == "trainer" else lambda model, images: model(images)[1]
    optimizer = torch.optim.Adam(model.train().parameters(), 1e-4)

    def step(images: np.ndarray) -> dict[str, np.ndarray]:
        batch = torch.from_numpy(images).to(model.stem.weight.device)
        labels = torch.arange(len(images), device=batch.device) % model.config.classes
        loss, _ = training_step(model, optimizer, batch, labels, encoder)
        return {"loss": loss.cpu().numpy()}

    return step


def _memory(field: str) -> int:
    """A field of this process's memory in bytes (``VmRSS``, ``VmHWM``); 0 where unknown."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return 0
    return next(
        (int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith(field)), 0
    )


def _answer(run: Run, request: dict[str, Any]) -> dict[str, Any]:
    images = np.load(request["images"])
    if request["op"] == "run":
        np.savez(request["outputs"], **run(images))  # type: ignore[arg-type]
        return {}
    if request["op"] == "peak":
        with contextlib.suppress(OSError):  # elsewhere the peak is that of all calls so far, or 0
            Path("/proc/self/clear_refs").write_text(_CLEAR_PEAK, encoding="ascii")
        run(images)
        return {"peak": _memory("VmHWM")}
    seconds = []
    for _ in range(request["count"]):
        started = time.perf_counter()
        run(images)
        seconds.append(time.perf_counter() - started)
    return {"seconds": seconds}


def _start(request: dict[str, Any]) -> tuple[dict[str, Any], Handler]:
    started = time.perf_counter()
    run, about = _guarded(_open, request)
    about |= {"open_seconds": time.perf_counter() - started, "idle_bytes": _memory("VmRSS")}
    return about, lambda asked: _guarded(_answer, run, asked)


def _guarded(function: Callable[..., _T], *arguments: Any) -> _T:
    """Whatever a backend throws is this candidate's result."""
    try:
        return function(*arguments)
    except CapsNetError:
        raise
    except Exception as error:
        raise ArtifactError(f"{type(error).__name__}: {first_line(error)}") from error


if __name__ == "__main__":
    serve(_start)
