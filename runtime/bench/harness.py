"""Speed of candidates that are proven right: interleaved, each in a process of its own."""

import contextlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from capsnet.artifact import INPUT_NAME, ArtifactMetadata, TensorSpec
from capsnet.config import CapsNetConfig
from capsnet.errors import ArtifactError, CapsNetError, DataError
from capsnet.runtime.bench.routing_part import cut_routing
from capsnet.runtime.bench.statistics import Ratio, Summary, is_stable, ratio, summarise
from capsnet.runtime.process import ChildProcess, ChildProcessEnded
from capsnet.runtime.proof.parity import Reference, compare
from capsnet.runtime.sessions.threads import usable_cpus

__all__ = ["BASELINES", "Candidate", "Part", "Result", "benchmark"]

Part = Literal["encoder", "routing", "training"]

BASELINES = ("eager", "onnx-naive", "literal")
"""Names of the candidates that ratios are to, where they are timed."""

_BURST = 0.25  # seconds of calls of one candidate in one round
_FEWEST_CALLS = 3
_LONGEST_WARM_UP = 12  # bursts
_SCORED_AT_ONCE = 32
_SAME_ROUTING = 1e-4  # absolute; capsules are no longer than 1
# Relative, in the first steps of training, before rounding has grown; CUDA trains in bfloat16.
_SAME_LOSS = {"cpu": 1e-4, "cuda": 2e-2}


@dataclass(frozen=True)
class Candidate:
    """What to time.

    Attributes:
        name: for the table.
        kind: ``"artifact"``, ``"onnxruntime"`` (any ONNX file, as a user would open it),
            ``"eager"`` or ``"compile"`` (torch.compile of the readable model), ``"trainer"`` or
            ``"literal"`` (a step of training, as the trainer does it or as the model is written).
        path: the artifact or ONNX file, or the checkpoint.
    """

    name: str
    kind: str
    path: Path


@dataclass(frozen=True)
class Result:
    """One candidate at one batch size.

    Attributes:
        candidate: its name.
        batch: images a call.
        device: where it ran.
        failure: why there is no speed: it cannot run, or computes wrong numbers. Then every field
            below is None.
        latency: seconds a call.
        images_per_second: at the median latency.
        ratios: to each of the :data:`BASELINES` that was timed; above 1, this one is faster.
        accuracy: share of the scored images whose class is right; None if none were given.
        open_seconds: from nothing to a session that can run.
        idle_bytes: resident memory of its process when it is open, before the first call.
        peak_bytes: resident memory at most during a call.
    """

    candidate: str
    batch: int
    device: str | None
    failure: str | None
    latency: Summary | None = None
    images_per_second: float | None = None
    ratios: Mapping[str, Ratio] = field(default_factory=dict)
    accuracy: float | None = None
    open_seconds: float | None = None
    idle_bytes: int | None = None
    peak_bytes: int | None = None


class _Worker:
    """One candidate's process."""

    def __init__(
        self, candidate: Candidate, config: CapsNetConfig, device: str, threads: int
    ) -> None:
        request = {
            "kind": candidate.kind,
            "path": str(candidate.path),
            "device": device,
            "threads": threads,
        }
        self._process = ChildProcess("capsnet.runtime.bench.worker", request)
        try:
            about = self._answer()
        except CapsNetError:
            self.close()
            raise
        self.open_seconds: float = about["open_seconds"]
        self.idle_bytes: int = about["idle_bytes"]
        self.device: str = about["device"]
        self.metadata = (
            _readable(config)
            if about["metadata"] is None
            else ArtifactMetadata.from_json(about["metadata"])
        )

    def run(self, images: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[np.float32]]:
        """The candidate's outputs, for the parity check."""
        with tempfile.TemporaryDirectory() as folder:
            given, taken = Path(folder, "images.npy"), Path(folder, "outputs.npz")
            np.save(given, images)
            self.ask(op="run", images=str(given), outputs=str(taken))
            with np.load(taken) as outputs:
                return {name: outputs[name] for name in outputs}

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request, and wait for the answer."""
        self._process.send(request)
        return self._answer()

    def close(self) -> None:
        """End the process."""
        self._process.kill()

    def _answer(self) -> dict[str, Any]:
        try:
            return self._process.receive()
        except ChildProcessEnded as error:
            raise ArtifactError(str(error)) from error


def benchmark(
    candidates: Sequence[Candidate],
    golden: Reference,
    baseline: Reference,
    config: CapsNetConfig,
    images: npt.NDArray[np.float32],
    *,
    batches: Sequence[int],
    rounds: int,
    part: Part = "encoder",
    scored: tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]] | None = None,
    device: str = "auto",
    threads: int | None = None,
    on_progress: Callable[[str], None] = lambda _: None,
) -> list[Result]:
    """Prove, then time.

    Every round runs every candidate for a moment, in an order that rotates, so that what else the
    machine does falls on all of them. A candidate that fails parity at any batch size is not timed.

    Args:
        candidates: what to compare.
        golden: the readable model in float64.
        baseline: the readable model in float32.
        config: of the network.
        images: float32 ``[n, channels, height, width]``, real images.
        batches: batch sizes.
        rounds: how often each candidate is timed at each batch size.
        part: what to time: the whole encoder; the routing alone, which is cut out of the ONNX
            files behind the primary capsules; or a step of training, which is proven by its losses.
        scored: images and labels to count each candidate's right classes on, encoders only.
        device: where to run.
        threads: of each candidate; None for all CPUs that this process may use.
        on_progress: called with what is going on, in words.

    Returns:
        A result for each candidate and batch size.

    Raises:
        DataError: if there are no images, or a batch size is not positive.
    """
    if not len(images) or min(batches) < 1:
        raise DataError("a benchmark needs images, and batch sizes of at least 1")
    threads = threads or usable_cpus()
    workers: dict[str, _Worker] = {}
    failures: dict[str, str] = {}
    losses: dict[str, list[float]] = {}
    accuracies: dict[str, float] = {}
    results: list[Result] = []
    inputs = {candidate.name: images for candidate in candidates}
    proven = _batch(images, max(len(images), *batches))
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for candidate in candidates:
            on_progress(f"opening and proving {candidate.name}")
            try:
                worker = _Worker(candidate, config, device, threads)
                workers[candidate.name] = stack.enter_context(contextlib.closing(worker))
                if part == "training":
                    losses[candidate.name] = [worker.run(images)["loss"].item() for _ in range(3)]
                    expected = next(iter(losses.values()))
                    if not np.allclose(
                        losses[candidate.name], expected, rtol=_SAME_LOSS[worker.device]
                    ):
                        failures[candidate.name] = (
                            f"losses {losses[candidate.name]}, expected {expected}"
                        )
                    continue
                report = compare(golden, baseline, worker, proven, batch_sizes=_proven(batches))
                if not report.passed:
                    failures[candidate.name] = f"parity: {report.failures[0]}"
                elif scored is not None:
                    accuracies[candidate.name] = _accuracy(worker, *scored)
                elif part == "routing":
                    whole = worker.run(images)["capsules"]
                    worker.close()
                    cut, inputs[candidate.name] = cut_routing(candidate.path, images, folder)
                    tail = _Worker(Candidate("", "onnxruntime", cut), config, device, threads)
                    workers[candidate.name] = stack.enter_context(contextlib.closing(tail))
                    found = tail.run(inputs[candidate.name])["capsules"]
                    if not np.allclose(found, whole, atol=_SAME_ROUTING):
                        failures[candidate.name] = "its routing, cut out, gives other numbers"
            except CapsNetError as error:
                failures[candidate.name] = str(error)
        ready = {name: worker for name, worker in workers.items() if name not in failures}
        for batch in batches:
            on_progress(f"timing batch {batch}")
            given = {name: _batch(inputs[name], batch) for name in ready}
            timed, failed = _time(ready, given, rounds)
            for candidate in candidates:
                name = candidate.name
                failure = failures.get(name) or failed.get(name)
                if failure is not None:
                    where = workers[name].device if name in workers else None
                    results.append(Result(name, batch, where, failure))
                    continue
                seconds, peak = timed[name]
                summary = summarise(seconds)
                results.append(
                    Result(
                        candidate=name,
                        batch=batch,
                        device=workers[name].device,
                        failure=None,
                        latency=summary,
                        images_per_second=batch / summary.p50,
                        ratios={
                            other: ratio(timed[other][0], seconds)
                            for other in BASELINES
                            if other in timed and other != name
                        },
                        accuracy=accuracies.get(name),
                        open_seconds=workers[name].open_seconds,
                        idle_bytes=workers[name].idle_bytes,
                        peak_bytes=peak,
                    )
                )
    return results


def _accuracy(
    worker: _Worker, images: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]
) -> float:
    """Share of right classes; few images at a time, or they would decide the peak memory."""
    classes = [
        worker.run(images[start : start + _SCORED_AT_ONCE])["lengths"].argmax(-1)
        for start in range(0, len(images), _SCORED_AT_ONCE)
    ]
    return float((np.concatenate(classes) == labels).mean())


def _time(
    workers: dict[str, _Worker], inputs: dict[str, npt.NDArray[np.float32]], rounds: int
) -> tuple[dict[str, tuple[list[list[float]], int]], dict[str, str]]:
    """Seconds a call for each round, and peak memory, of each candidate; and what failed, why."""
    failed: dict[str, str] = {}
    peaks, counts = {}, {}
    seconds: dict[str, list[list[float]]] = {name: [] for name in workers}
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: str(Path(folder, f"{index}.npy")) for index, name in enumerate(workers)}
        for name, worker in workers.items():
            np.save(paths[name], inputs[name])
            try:
                peaks[name] = worker.ask(op="peak", images=paths[name])["peak"]
                counts[name] = _warm_up(worker, paths[name])
            except CapsNetError as error:
                failed[name] = str(error)
        order = list(workers)
        for _ in range(rounds):
            for name in (name for name in order if name not in failed):
                try:
                    answer = workers[name].ask(op="time", images=paths[name], count=counts[name])
                    seconds[name].append(answer["seconds"])
                except CapsNetError as error:
                    failed[name] = str(error)
            order.append(order.pop(0))
    timed = {name: (seconds[name], peaks[name]) for name in workers if name not in failed}
    return timed, failed


def _warm_up(worker: _Worker, path: str) -> int:
    """Run until the speed is stable; the number of calls that fill a burst."""
    bursts: list[list[float]] = []
    count = 1
    while not is_stable(bursts) and len(bursts) < _LONGEST_WARM_UP:
        bursts.append(worker.ask(op="time", images=path, count=count)["seconds"])
        count = max(_FEWEST_CALLS, round(_BURST / float(np.median(bursts[-1]))))
    return count


def _batch(images: npt.NDArray[np.float32], size: int) -> npt.NDArray[np.float32]:
    return images[np.arange(size) % len(images)]


def _proven(batches: Sequence[int]) -> tuple[int, ...]:
    """Batch sizes to check parity at: those that are timed, in order and once."""
    return tuple(dict.fromkeys(batches))


def _readable(config: CapsNetConfig) -> ArtifactMetadata:
    """What an artifact of the readable model would say about itself."""
    return ArtifactMetadata(
        toolkit_version="",
        exporter="none",
        versions={},
        checkpoint_sha256=None,
        config={},
        precision="fp32",
        inputs=(TensorSpec(INPUT_NAME, "float32", ("batch", *config.image_shape)),),
        outputs=(
            TensorSpec("lengths", "float32", ("batch", config.classes)),
            TensorSpec("capsules", "float32", ("batch", config.classes, config.class_dim)),
        ),
    )
