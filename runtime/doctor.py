"""What is installed here, and whether it can do what it promises."""

import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal

from capsnet.device import why_torch_has_no_cuda
from capsnet.errors import counted, first_line
from capsnet.formats import OPSETS
from capsnet.runtime.sessions.cuda import (
    CPU,
    CUDA,
    Gpu,
    find_gpu,
    find_libraries,
    installed_runtimes,
    why_no_cuda,
)
from capsnet.runtime.sessions.threads import usable_cpus

__all__ = ["Finding", "examine"]

_PACKAGE = "capsnet-export"
_WARNING, _FATAL = 2, 4  # onnxruntime's severities of its log, the first its default
_ACCURATE = 1e-3  # of a sum of 64 products of numbers near 1
Status = Literal["good", "note", "problem"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        subject: what.
        status: ``"good"``; ``"note"`` for what is not there and was not promised; ``"problem"`` for
            what is installed and does not work.
        detail: what was found.
        advice: what to do about a problem.
    """

    subject: str
    status: Status
    detail: str
    advice: str = ""


def examine(cuda: bool = False) -> list[Finding]:
    """Look at everything; takes about a second.

    Args:
        cuda: whether CUDA must work: its absence is then a problem, not a note.

    Returns:
        The findings. Nothing is changed, and nothing is raised for what does not work.
    """
    gpu = find_gpu()
    python = f"{sys.version.split()[0]}, {counted(usable_cpus(), 'usable CPU')}"
    return [
        Finding("python", "good", python),
        *_packages(),
        _wheels(),
        *_guarded("opset and IR", "reinstall onnx", _opsets),
        _gpu(gpu),
        *_guarded("onnxruntime", _reinstall(), lambda: _onnxruntime(gpu, cuda)),
        *_guarded("torch and CUDA", "reinstall torch", lambda: _torch(cuda)),
    ]


def _guarded(subject: str, advice: str, look: Callable[[], list[Finding]]) -> list[Finding]:
    """What was found with a library, which may be missing or broken in any way."""
    try:
        return look()
    except Exception as failure:  # of whatever kind: it is what was looked for
        return [Finding(subject, "problem", f"cannot be used: {first_line(failure)}", advice)]


def _packages() -> list[Finding]:
    """This package, and what it was installed with."""
    try:
        needed = [line for line in requires(_PACKAGE) or () if "extra ==" not in line]
    except PackageNotFoundError:
        needed = []
    names = [_PACKAGE, *(re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in needed)]
    return [_package(name) for name in dict.fromkeys(names)]


def _package(name: str) -> Finding:
    try:
        return Finding(name, "good", version(name))
    except PackageNotFoundError:
        if name.startswith("onnxruntime"):  # one of its wheels is enough
            return Finding(name, "note", "not installed")
        return Finding(name, "problem", "not installed", f"pip install {name}")


def _wheels() -> Finding:
    found = installed_runtimes()
    if len(found) == 1:
        return Finding("onnxruntime wheels", "good", "one")
    if not found:
        return Finding("onnxruntime wheels", "note", "none under its usual names")
    what = " and ".join(found)
    detail = f"{what} installed; two overwrite each other's files"
    return Finding("onnxruntime wheels", "problem", detail, _reinstall())


def _reinstall() -> str:
    found = installed_runtimes()
    wheel = next(iter(found)) if len(found) == 1 else "onnxruntime-gpu"
    return f"pip uninstall onnxruntime onnxruntime-gpu, then pip install {wheel}"


def _opsets() -> list[Finding]:
    import onnx

    detail = (
        f"onnx {onnx.__version__} writes up to opset {onnx.defs.onnx_opset_version()} and IR "
        f"{int(onnx.IR_VERSION)}; the toolkit exports opset {OPSETS[0]} to {OPSETS[-1]}"
    )
    return [Finding("opset and IR", "good", detail)]


def _gpu(gpu: Gpu) -> Finding:
    if gpu.problem:
        return Finding("GPU", "note", gpu.problem)
    return Finding("GPU", "good", f"{', '.join(gpu.names)}; the driver supports CUDA {gpu.driver}")


def _onnxruntime(gpu: Gpu, promised: bool) -> list[Finding]:
    import onnxruntime

    available = onnxruntime.get_available_providers()
    libraries = find_libraries()
    findings = [_library(name, reason, bool(gpu.names)) for name, reason in libraries.items()]
    findings.append(_self_test(CPU))
    if CUDA in available:
        missing = any(libraries.values()) or bool(gpu.problem)
        findings.append(_self_test_on_cuda("note" if missing else "problem"))
    reason = why_no_cuda() if promised else ""
    if reason:
        findings.append(Finding("onnxruntime and CUDA", "problem", reason))
    return findings


def _library(name: str, reason: str | None, promised: bool) -> Finding:
    if reason is None:
        return Finding(name, "good", _where(name))
    status: Status = "problem" if promised else "note"
    return Finding(name, status, reason, "pip install 'onnxruntime-gpu[cuda,cudnn]'")


def _where(name: str) -> str:
    """The file that a loaded library is from, where the system tells."""
    try:
        lines = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "loaded"
    return next((line.split(maxsplit=5)[5] for line in lines if line.endswith(name)), "loaded")


def _self_test_on_cuda(failed: Status) -> Finding:
    """Whether CUDA, which onnxruntime lists, really computes; ``failed`` where it does not."""
    reason = why_no_cuda()
    if reason:
        return Finding(f"self-test on {CUDA}", failed, f"not tried: {reason}")
    return _self_test(CUDA)


def _self_test(provider: str) -> Finding:
    """Whether a provider really creates a session, and computes."""
    subject = f"self-test on {provider}"
    try:
        model = _product()
    except Exception:  # reported by itself
        return Finding(subject, "note", "not tried: onnx, which makes the model, does not work")
    started = time.perf_counter()
    try:
        taken, error = _run(model, provider)
    except Exception as failure:  # of whatever kind: it is what was looked for
        own = failure.__cause__ or failure  # what onnxruntime itself says
        return Finding(subject, "problem", first_line(own), _reinstall())
    if taken != provider:
        detail = f"onnxruntime lists it, but made a session on {taken}"
        return Finding(subject, "problem", detail, "see the libraries above")
    took = f"{1e3 * (time.perf_counter() - started):.0f} ms, largest error {error:.1e}"
    if not error <= _ACCURATE:
        return Finding(subject, "problem", f"wrong numbers: {took}", _reinstall())
    return Finding(subject, "good", took)


def _run(model: bytes, provider: str) -> tuple[str, float]:
    """The provider that a matrix product really ran on, and its largest error."""
    import numpy as np
    import onnxruntime

    from capsnet.runtime.sessions.onnx import create_session

    onnxruntime.set_default_logger_severity(_FATAL)  # what fails here is said in the finding
    try:
        session = create_session(model, "cuda" if provider == CUDA else "cpu")
        random = np.random.default_rng(0)
        feed = {key: random.random((64, 64), np.float32) for key in "ab"}
        [found] = session.run(None, feed)
    finally:
        onnxruntime.set_default_logger_severity(_WARNING)
    error = np.abs(found - feed["a"].astype(np.float64) @ feed["b"]).max()
    return session.get_providers()[0], float(error)


def _product() -> bytes:
    import onnx

    kind, shape = onnx.TensorProto.FLOAT, [64, 64]
    values = [onnx.helper.make_tensor_value_info(name, kind, shape) for name in "abc"]
    node = onnx.helper.make_node("MatMul", ["a", "b"], ["c"])
    graph = onnx.helper.make_graph([node], "self-test", values[:2], values[2:])
    opset = onnx.helper.make_opsetid("", OPSETS[0])
    model = onnx.helper.make_model(graph, ir_version=8, opset_imports=[opset])
    content: bytes = model.SerializeToString()
    return content


def _torch(promised: bool) -> list[Finding]:
    """torch's own view of CUDA: sessions on TorchScript and torch.export need it."""
    import torch

    reason = why_torch_has_no_cuda()
    if reason:
        return [Finding("torch and CUDA", "problem" if promised else "note", reason)]
    found = f"CUDA {torch.version.cuda}, {torch.cuda.get_device_name()}"
    return [Finding("torch and CUDA", "good", found)]
