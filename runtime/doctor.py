"""What is installed here, and whether it can do what it promises."""

import sys
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import onnxruntime

from capsnet.errors import first_line
from capsnet.runtime.sessions.cuda import (
    CUDA,
    find_gpu,
    find_libraries,
    installed_runtimes,
    why_no_cuda,
)
from capsnet.runtime.sessions.threads import usable_cpus

__all__ = ["Finding", "examine"]

_PACKAGES = (
    *("capsnet-export", "torch", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu"),
    *("numpy", "einops", "safetensors"),
)
_WARNING, _FATAL = 2, 4  # onnxruntime's severities of its log, the first its default
_CPU = "CPUExecutionProvider"
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
    findings = [
        Finding("python", "good", f"{sys.version.split()[0]}, {usable_cpus()} usable CPUs"),
        *_packages(),
        _wheels(),
        Finding(
            "opset and IR",
            "good",
            f"onnx {onnx.__version__} writes up to opset {onnx.defs.onnx_opset_version()} and IR "
            f"{int(onnx.IR_VERSION)}; the toolkit exports opset 18 to 23",
        ),
        _gpu(gpu.names, gpu.driver, gpu.problem),
    ]
    libraries = find_libraries()
    findings += [_library(name, reason, bool(gpu.names)) for name, reason in libraries.items()]
    missing = any(libraries.values()) or bool(gpu.problem)
    available = onnxruntime.get_available_providers()
    findings += [
        _provider(name, expected=not missing) for name in available if name in (CUDA, _CPU)
    ]
    findings.append(_torch(cuda))
    reason = why_no_cuda() if cuda else ""
    if reason:
        findings.append(Finding("onnxruntime and CUDA", "problem", reason))
    return findings


def _packages() -> list[Finding]:
    findings = []
    for name in _PACKAGES:
        try:
            findings.append(Finding(name, "good", version(name)))
        except PackageNotFoundError:
            needed = not name.startswith("onnxruntime")
            findings.append(
                Finding(name, "problem", "not installed", f"pip install {name}")
                if needed
                else Finding(name, "note", "not installed")
            )
    return findings


def _wheels() -> Finding:
    found = installed_runtimes()
    if len(found) == 1:
        return Finding("onnxruntime wheels", "good", "one")
    if not found:
        return Finding("onnxruntime wheels", "note", "none under its usual names")
    what = " and ".join(found)
    return Finding(
        "onnxruntime wheels",
        "problem",
        f"{what} installed; two overwrite each other's files",
        "pip uninstall onnxruntime onnxruntime-gpu, then pip install onnxruntime-gpu",
    )


def _gpu(names: tuple[str, ...], driver: str | None, problem: str) -> Finding:
    if problem:
        return Finding("GPU", "note", problem)
    return Finding("GPU", "good", f"{', '.join(names)}; the driver supports CUDA {driver}")


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


def _provider(name: str, expected: bool) -> Finding:
    """Whether a provider that onnxruntime lists really creates a session, and computes."""
    subject = f"self-test on {name}"
    must = name == _CPU or expected
    started = time.perf_counter()
    onnxruntime.set_default_logger_severity(_FATAL)  # what fails here is said in the finding
    try:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _FATAL
        # Without TF32, which is less accurate, and without the fallback, which prints.
        asked = (name, {"use_tf32": "0"}) if name == CUDA else name
        session = onnxruntime.InferenceSession(
            _product(), options, providers=[asked], enable_fallback=0
        )
        taken = session.get_providers()[0]
        if taken != name:
            return Finding(
                subject,
                "problem" if must else "note",
                f"onnxruntime lists it, but made a session on {taken}",
                "see the libraries above" if must else "",
            )
        random = np.random.default_rng(0)
        feed = {key: random.random((64, 64), np.float32) for key in "ab"}
        [found] = session.run(None, feed)
        error = float(np.abs(found - feed["a"].astype(np.float64) @ feed["b"]).max())
    except Exception as failure:  # of whatever kind: it is what was looked for
        advice = "reinstall onnxruntime"
        return Finding(subject, "problem" if must else "note", first_line(failure), advice)
    finally:
        onnxruntime.set_default_logger_severity(_WARNING)
    took = f"{1e3 * (time.perf_counter() - started):.0f} ms, largest error {error:.1e}"
    if not error <= _ACCURATE:
        return Finding(subject, "problem", f"wrong numbers: {took}", "reinstall onnxruntime")
    return Finding(subject, "good", took)


def _torch(promised: bool) -> Finding:
    """torch's own view of CUDA: sessions on TorchScript and torch.export need it."""
    subject = "torch and CUDA"
    try:
        import torch
    except (ImportError, OSError) as error:
        return Finding(subject, "problem", first_line(error), "reinstall torch")
    if torch.cuda.is_available():
        found = f"CUDA {torch.version.cuda}, {torch.cuda.get_device_name()}"
        return Finding(subject, "good", found)
    found = "a CPU build: torch artifacts run on the CPU"
    if torch.version.cuda is not None:
        found = f"built for CUDA {torch.version.cuda}, finds no device"
    return Finding(subject, "problem" if promised else "note", found)


def _product() -> bytes:
    kind, shape = onnx.TensorProto.FLOAT, [64, 64]
    values = [onnx.helper.make_tensor_value_info(name, kind, shape) for name in "abc"]
    node = onnx.helper.make_node("MatMul", ["a", "b"], ["c"])
    graph = onnx.helper.make_graph([node], "self-test", values[:2], values[2:])
    opset = onnx.helper.make_opsetid("", 18)
    model = onnx.helper.make_model(graph, ir_version=10, opset_imports=[opset])
    content: bytes = model.SerializeToString()
    return content
