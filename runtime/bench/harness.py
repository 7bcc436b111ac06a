"""What the three benchmarks share: open every candidate, prove it, time all of them interleaved."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from capsnet.definitions import own_definitions
from capsnet.documents import from_values, to_values
from capsnet.errors import ArtifactError, CapsNetError, ConfigError, DataError, DeviceError
from capsnet.runtime.bench.candidates import Candidate
from capsnet.runtime.bench.statistics import Ratio, Summary, is_stable, noise, ratio, summarise
from capsnet.runtime.bench.worker import About, Memory
from capsnet.runtime.process import ChildProcess, ChildProcessEnded
from capsnet.runtime.sessions.base import Arrays, Device, Images
from capsnet.runtime.sessions.threads import usable_cpus

__all__ = ["IMAGES", "Proven", "Result", "Settings", "Start", "Worker", "cycled", "measure"]

IMAGES = 32
"""Real images that candidates are proven on, and that batches repeat."""

_BURST = 0.25  # seconds of calls of one candidate in one round
_FEWEST_CALLS = 3
_LONGEST_WARM_UP = 12  # bursts


@dataclass(frozen=True)
class Settings:
    """How to measure.

    Attributes:
        batches: batch sizes.
        rounds: how often each candidate is timed at each batch size, at least 2.
        device: where to run.
        threads: of each candidate; None for all CPUs that this process may use.
        definitions: Python files that define what the candidates' files are made of, such as a
            user's own kind of layer.
        on_progress: called with what is going on, in words.

    Raises:
        ConfigError: if there are too few rounds.
        DataError: if there is no batch size, or one is not positive.
    """

    batches: tuple[int, ...]
    rounds: int = 9
    device: Device = "auto"
    threads: int | None = None
    definitions: tuple[Path, ...] = ()
    on_progress: Callable[[str], None] = lambda _: None

    def __post_init__(self) -> None:
        if not self.batches or min(self.batches) < 1:
            raise DataError(
                f"a benchmark needs batch sizes of at least 1, got {list(self.batches)}"
            )
        if self.rounds < 2:
            raise ConfigError(f"ratios need at least 2 rounds, got {self.rounds}")


@dataclass(frozen=True)
class Result:
    """One candidate at one batch size.

    Attributes:
        candidate: its name.
        batch: images a call.
        device: where it ran.
        failure: why there is no speed: it cannot run, or computes wrong numbers. Then every field
            below but the next is None or empty.
        excused: whether the failure is that the machine lacks what an optional candidate needs.
        noise: why its timings are no ground for a verdict; None where they are.
        latency: seconds a call.
        images_per_second: at the median latency.
        ratios: to each other candidate that is a baseline and was timed; above 1, this one is
            faster.
        accuracy: share of the scored images whose class is right; None if none were given.
        open_seconds: from nothing to a session that can run.
        idle_bytes: resident memory of its process when it is open, before the first call.
        peak_bytes: resident memory at most during a call.
        device_bytes: memory of the GPU that its process holds after a call; 0 on the CPU.
    """

    candidate: str
    batch: int
    device: str | None
    failure: str | None
    excused: bool = False
    noise: str | None = None
    latency: Summary | None = None
    images_per_second: float | None = None
    ratios: Mapping[str, Ratio] = field(default_factory=dict)
    accuracy: float | None = None
    open_seconds: float | None = None
    idle_bytes: int | None = None
    peak_bytes: int | None = None
    device_bytes: int | None = None


class Worker:
    """A candidate in a process of its own.

    Args:
        candidate: to open there.
        settings: of the benchmark.

    Raises:
        CapsNetError: if it cannot be opened.
    """

    def __init__(self, candidate: Candidate, settings: Settings) -> None:
        request = {
            "candidate": to_values(candidate),
            "device": settings.device,
            "threads": settings.threads or usable_cpus(),
            "definitions": [*settings.definitions, *own_definitions([type(candidate)])],
        }
        self._process = ChildProcess("capsnet.runtime.bench.worker", request)
        try:
            self.about = from_values(About, self._answer())
        except CapsNetError:
            self.close()
            raise

    def run(self, images: Images) -> Arrays:
        """The candidate's outputs by name."""
        with _saved(images) as path, tempfile.TemporaryDirectory() as folder:
            taken = Path(folder, "outputs.npz")
            self._ask(op="run", images=str(path), outputs=str(taken))
            with np.load(taken) as outputs:
                return {name: outputs[name] for name in outputs}

    def prepare(self, images: Images) -> Memory:
        """Run once on the images that are timed from now on."""
        with _saved(images) as path:
            return from_values(Memory, self._ask(op="prepare", images=str(path)))

    def time(self, count: int) -> list[float]:
        """Seconds of each of so many calls on the prepared images."""
        seconds: list[float] = self._ask(op="time", count=count)["seconds"]
        return seconds

    def close(self) -> None:
        """End the process."""
        self._process.kill()

    def _ask(self, **request: Any) -> dict[str, Any]:
        self._process.send(request)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        try:
            return self._process.receive()
        except ChildProcessEnded as error:
            raise ArtifactError(str(error)) from error


@dataclass(frozen=True)
class Proven:
    """A candidate that may be timed.

    Attributes:
        worker: that is timed.
        images: what it is timed on, repeated or cut to each batch size.
        accuracy: share of right classes, where they were counted.
    """

    worker: Worker
    images: Images
    accuracy: float | None = None


Start = Callable[[Candidate], Worker]
"""Opens a candidate in a process that ends with the benchmark."""


@dataclass(frozen=True)
class _Timing:
    """Of one candidate at one batch size: seconds a call, for each round; and its memory."""

    seconds: list[list[float]]
    memory: Memory


def measure(
    candidates: Sequence[Candidate],
    images: Images,
    settings: Settings,
    prove: Callable[[Candidate, Start], Proven],
) -> tuple[Result, ...]:
    """Open and prove each candidate, then time those that are right.

    Every round runs every candidate for a moment, in an order that rotates, so that what else the
    machine does falls on all of them. A candidate that is not proven is not timed.

    Args:
        candidates: what to compare, with different names.
        images: that the proofs run on.
        settings: how.
        prove: opens a candidate and proves it, or raises a CapsNetError that says what is wrong.

    Returns:
        A result for each batch size and candidate.

    Raises:
        ConfigError: if two candidates have one name.
        DataError: if there are no images.
    """
    if not len(images):
        raise DataError("a benchmark needs images, got none")
    names = [candidate.name for candidate in candidates]
    if len(set(names)) < len(names):
        raise ConfigError(f"candidates need different names, got {', '.join(names)}")
    workers: dict[str, Worker] = {}
    failures: dict[str, CapsNetError] = {}
    proven: dict[str, Proven] = {}
    results: list[Result] = []
    with contextlib.ExitStack() as stack:

        def start(candidate: Candidate) -> Worker:
            worker = stack.enter_context(contextlib.closing(Worker(candidate, settings)))
            workers[candidate.name] = worker
            return worker

        for candidate in candidates:
            settings.on_progress(f"opening and proving {candidate.name}")
            try:
                proven[candidate.name] = prove(candidate, start)
            except CapsNetError as error:
                failures[candidate.name] = error
                if candidate.name in workers:
                    workers[candidate.name].close()
        for batch in settings.batches:
            settings.on_progress(f"timing batch {batch}")
            timed, failed = _time(proven, batch, settings.rounds)
            for candidate in candidates:
                name = candidate.name
                if name in timed:
                    results.append(_result(candidate, batch, proven[name], timed, candidates))
                    continue
                device = workers[name].about.device if name in workers else None
                problem = (failures | failed)[name]
                excused = candidate.optional and isinstance(problem, DeviceError)
                results.append(Result(name, batch, device, str(problem), excused))
    return tuple(results)


def cycled(images: Images, size: int) -> Images:
    """So many images: the given ones, again and again."""
    return images[np.arange(size) % len(images)]


def _result(
    candidate: Candidate,
    batch: int,
    proven: Proven,
    timed: Mapping[str, _Timing],
    candidates: Sequence[Candidate],
) -> Result:
    about, timing = proven.worker.about, timed[candidate.name]
    summary = summarise(timing.seconds)
    ratios = {
        other.name: ratio(timed[other.name].seconds, timing.seconds)
        for other in candidates
        if other.baseline and other.name in timed and other.name != candidate.name
    }
    return Result(
        candidate=candidate.name,
        batch=batch,
        device=about.device,
        failure=None,
        noise=noise(summary, ratios),
        latency=summary,
        images_per_second=batch / summary.p50,
        ratios=ratios,
        accuracy=proven.accuracy,
        open_seconds=about.open_seconds,
        idle_bytes=about.idle_bytes,
        peak_bytes=timing.memory.peak_bytes,
        device_bytes=timing.memory.device_bytes,
    )


def _time(
    proven: Mapping[str, Proven], batch: int, rounds: int
) -> tuple[dict[str, _Timing], dict[str, CapsNetError]]:
    """The timing of each candidate that can be timed; and what failed, why."""
    timed: dict[str, _Timing] = {}
    failed: dict[str, CapsNetError] = {}
    counts: dict[str, int] = {}
    for name, candidate in proven.items():
        try:
            memory = candidate.worker.prepare(cycled(candidate.images, batch))
            counts[name] = _warm_up(candidate.worker)
            timed[name] = _Timing([], memory)
        except CapsNetError as error:
            failed[name] = error
    order = list(timed)
    for _ in range(rounds):
        for name in (name for name in order if name in timed):
            try:
                timed[name].seconds.append(proven[name].worker.time(counts[name]))
            except CapsNetError as error:
                failed[name] = error
                del timed[name]
        order = [*order[1:], *order[:1]]
    return timed, failed


def _warm_up(worker: Worker) -> int:
    """Run until the speed is stable; the number of calls that fill a burst."""
    bursts: list[list[float]] = []
    count = 1
    while not is_stable(bursts) and len(bursts) < _LONGEST_WARM_UP:
        bursts.append(worker.time(count))
        count = max(_FEWEST_CALLS, round(_BURST / float(np.median(bursts[-1]))))
    return count


@contextlib.contextmanager
def _saved(images: Images) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "images.npy")
        np.save(path, images)
        yield path
