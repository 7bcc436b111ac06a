"""A process that holds one candidate of a benchmark, and runs it when it is told to.

Candidates are timed in processes of their own: threads of an idle session spin, allocators keep
memory, and libraries share pools, so that candidates within one process time each other. Arrays
travel as files.
"""

import contextlib
import ctypes
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from capsnet.artifact import ArtifactMetadata
from capsnet.definitions import load_definitions
from capsnet.documents import from_values, to_values
from capsnet.errors import ArtifactError, CapsNetError, first_line
from capsnet.runtime.bench.candidates import Candidate
from capsnet.runtime.process import Handler, serve

__all__ = ["About", "Memory"]

_T = TypeVar("_T")

_CLEAR_PEAK = "5"  # see proc(5): clear_refs


@dataclass(frozen=True)
class About:
    """What an opened candidate says about itself; see :class:`Opened`.

    Attributes:
        open_seconds: from nothing to a candidate that can run.
        idle_bytes: resident memory of its process, before the first call.
    """

    device: str
    metadata: ArtifactMetadata | None
    outputs: tuple[str, ...]
    open_seconds: float
    idle_bytes: int


@dataclass(frozen=True)
class Memory:
    """Of a process during a call: its resident memory at most, and what it holds on the GPU."""

    peak_bytes: int
    device_bytes: int


class _Server:
    """The candidate, and the call that is timed."""

    def __init__(self, candidate: Candidate, device: str, threads: int) -> None:
        self._on_gpu = device != "cpu"
        self._device_bytes = 0
        started = time.perf_counter()
        with self._counting():
            self._opened = _guarded(candidate.open, device, threads)
        self.about = About(
            device=self._opened.device,
            metadata=self._opened.metadata,
            outputs=self._opened.outputs,
            open_seconds=time.perf_counter() - started,
            idle_bytes=_memory("VmRSS"),
        )

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        operations: dict[str, Callable[..., dict[str, Any]]] = {
            "run": self._run,
            "prepare": self._prepare,
            "time": self._time,
        }
        with self._counting():
            answer = _guarded(operations[request.pop("op")], **request)
        return {**answer, "device_bytes": self._device_bytes}

    def _run(self, images: str, outputs: str) -> dict[str, Any]:
        np.savez(outputs, **self._opened.run(np.load(images)))  # type: ignore[arg-type]
        return {}

    def _prepare(self, images: str) -> dict[str, Any]:
        """Run once on these images; the calls that are timed are on them."""
        self._call = self._opened.call(np.load(images))
        with contextlib.suppress(OSError):  # elsewhere the peak is that of all calls so far, or 0
            Path("/proc/self/clear_refs").write_text(_CLEAR_PEAK, encoding="ascii")
        self._call()
        return {"peak_bytes": _memory("VmHWM")}

    def _time(self, count: int) -> dict[str, Any]:
        seconds = []
        for _ in range(count):
            started = time.perf_counter()
            self._call()
            seconds.append(time.perf_counter() - started)
        return {"seconds": seconds}

    @contextlib.contextmanager
    def _counting(self) -> Iterator[None]:
        """Count what the block takes of the GPU's memory: no other candidate runs meanwhile."""
        before = _used_device_bytes() if self._on_gpu else 0
        yield
        self._device_bytes += _used_device_bytes() - before if self._on_gpu else 0


def _memory(field: str) -> int:
    """A field of this process's memory in bytes (``VmRSS``, ``VmHWM``); 0 where unknown."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return 0
    return next(
        (int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith(field)), 0
    )


def _used_device_bytes() -> int:
    """Memory of the first CUDA device that is in use, by any process; 0 where there is none."""
    try:
        driver = ctypes.CDLL("libcuda.so.1" if os.name == "posix" else "nvcuda.dll")
    except OSError:
        return 0
    device, context = ctypes.c_int(), ctypes.c_void_p()
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), 0):
        return 0
    # The primary context is the one that torch and onnxruntime use, too.
    if driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device):
        return 0
    driver.cuCtxPushCurrent_v2(context)
    driver.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total))
    driver.cuCtxPopCurrent_v2(ctypes.byref(context))
    driver.cuDevicePrimaryCtxRelease_v2(device)
    return total.value - free.value


def _guarded(function: Callable[..., _T], *arguments: Any, **options: Any) -> _T:
    """Whatever a backend throws is this candidate's result."""
    try:
        return function(*arguments, **options)
    except CapsNetError:
        raise
    except Exception as error:
        raise ArtifactError(f"{type(error).__name__}: {first_line(error)}") from error


def _start(request: dict[str, Any]) -> tuple[dict[str, Any], Handler]:
    os.environ["OMP_NUM_THREADS"] = str(request["threads"])  # torch.compile builds it in
    load_definitions(Path(file) for file in request["definitions"])
    candidate: Candidate = from_values(Candidate, request["candidate"])  # type: ignore[type-abstract]
    server = _Server(candidate, request["device"], request["threads"])
    return to_values(server.about), server.answer


if __name__ == "__main__":
    serve(_start)
