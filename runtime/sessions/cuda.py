"""Whether onnxruntime can use CUDA here and, if not, what is missing and how to get it.

onnxruntime drops a provider that fails to load with no more than a line in its log, and lists it as
available all the same. So all that the provider needs is looked for before it is asked for.
onnxruntime itself is imported only where it is asked: what the driver and the installed packages
say can be read without it.
"""

import contextlib
import ctypes
import functools
import importlib.util
import io
import os
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = ["CPU", "CUDA", "Gpu", "find_gpu", "find_libraries", "installed_runtimes", "why_no_cuda"]

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
_RUNTIMES = ("onnxruntime", "onnxruntime-gpu")


@dataclass(frozen=True)
class Gpu:
    """What the NVIDIA driver says.

    Attributes:
        names: of the devices.
        driver: the newest CUDA version that the driver supports, such as ``"13.0"``.
        problem: why there is no device to use; empty where there is one.
    """

    names: tuple[str, ...]
    driver: str | None
    problem: str


def installed_runtimes() -> dict[str, str]:
    """Versions of the installed onnxruntime distributions; two of them overwrite each other."""
    found = {}
    for name in _RUNTIMES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def find_gpu() -> Gpu:
    """Ask the driver for devices."""
    name = "libcuda.so.1" if os.name == "posix" else "nvcuda.dll"
    try:
        driver = ctypes.CDLL(name)
    except OSError:
        return Gpu((), None, f"there is no NVIDIA driver on this machine ({name} was not found)")
    code = driver.cuInit(0)
    if code != 0:
        return Gpu((), None, f"the NVIDIA driver finds no usable GPU (cuInit says {code})")
    number, count, names = ctypes.c_int(), ctypes.c_int(), []
    driver.cuDriverGetVersion(ctypes.byref(number))
    driver.cuDeviceGetCount(ctypes.byref(count))
    for index in range(count.value):
        device, text = ctypes.c_int(), ctypes.create_string_buffer(256)
        driver.cuDeviceGet(ctypes.byref(device), index)
        driver.cuDeviceGetName(text, len(text), device)
        names.append(text.value.decode())
    supported = f"{number.value // 1000}.{number.value % 1000 // 10}"
    problem = "" if names else "the NVIDIA driver finds no GPU; CUDA_VISIBLE_DEVICES may hide it"
    return Gpu(tuple(names), supported, problem)


def find_libraries() -> dict[str, str | None]:
    """Load the CUDA libraries that onnxruntime was built for.

    Those of NVIDIA's wheels are found without any path being set.

    Returns:
        For each library None where it was loaded, else the loader's reason. Empty where onnxruntime
        was built without CUDA.
    """
    import onnxruntime

    built_for = getattr(onnxruntime, "cuda_version", "")
    if not built_for or os.name != "posix":
        return {}
    major = int(built_for.split(".")[0])
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find
        onnxruntime.preload_dlls()
    _why_not_loaded(f"libnvrtc.so.{major}")  # cuDNN looks for it where it compiles kernels
    names = (
        *(f"lib{part}.so.{major}" for part in ("cudart", "cublasLt", "cublas")),
        f"libcufft.so.{11 if major == 12 else 12}",
        "libcurand.so.10",
        "libcudnn.so.9",
    )
    return {name: _why_not_loaded(name) for name in names}


@functools.cache
def why_no_cuda() -> str:
    """Why onnxruntime cannot use CUDA here, and what to do; empty where it can."""
    import onnxruntime

    runtimes = installed_runtimes()
    available = onnxruntime.get_available_providers()
    if CUDA not in available:
        if len(runtimes) > 1:
            return (
                "onnxruntime and onnxruntime-gpu are both installed and overwrite each other; "
                "pip uninstall both, then pip install onnxruntime-gpu"
            )
        return (
            f"this onnxruntime has only {', '.join(available)}; "
            "install the GPU build: pip install onnxruntime-gpu"
        )
    gpu = find_gpu()
    if gpu.problem:
        return gpu.problem
    built_for = getattr(onnxruntime, "cuda_version", "")
    if built_for and gpu.driver and int(gpu.driver.split(".")[0]) < int(built_for.split(".")[0]):
        return (
            f"the NVIDIA driver supports CUDA {gpu.driver}, this onnxruntime was built for "
            f"{built_for}; update the driver, or install an onnxruntime-gpu for CUDA {gpu.driver}"
        )
    missing = {name: reason for name, reason in find_libraries().items() if reason is not None}
    if missing:
        return (
            f"onnxruntime needs {', '.join(missing)}, which cannot be loaded "
            f"({next(iter(missing.values()))}); pip install 'onnxruntime-gpu[cuda,cudnn]'"
        )
    return ""


def _why_not_loaded(name: str) -> str | None:
    """Load a library; the loader's reason where that fails."""
    reasons = []
    for place in (name, *_in_wheels(name)):
        try:
            ctypes.CDLL(place)
        except OSError as error:
            reasons.append(str(error))
        else:
            return None
    return reasons[0]


def _in_wheels(name: str) -> list[str]:
    """Where NVIDIA's wheels lie, if not beside onnxruntime, which looks nowhere else."""
    spec = importlib.util.find_spec("nvidia")
    folders = (spec and spec.submodule_search_locations) or ()
    return [str(path) for folder in folders for path in Path(folder).glob(f"*/lib/{name}")]
