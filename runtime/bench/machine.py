"""What a benchmark ran on: speeds say nothing without it."""

import platform
from pathlib import Path

from capsnet.runtime.certificate import environment
from capsnet.runtime.sessions.cuda import find_gpu
from capsnet.runtime.sessions.threads import usable_cpus

__all__ = ["describe_machine"]


def describe_machine(cpuinfo: Path = Path("/proc/cpuinfo")) -> dict[str, str]:
    """Model of the processor, CPUs to use, GPUs where there are any, and versions.

    Args:
        cpuinfo: the system's file about its processors; without it, Python's own description.
    """
    try:
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    found = {"cpu": next(models, "") or platform.processor() or "unknown"}
    found["cpus"] = str(usable_cpus())
    if names := find_gpu().names:
        found["gpu"] = ", ".join(names)
    return found | environment()
