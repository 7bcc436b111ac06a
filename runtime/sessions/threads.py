"""How many threads to use."""

import os
from pathlib import Path

__all__ = ["usable_cpus"]


def usable_cpus(root: Path = Path("/")) -> int:
    """CPUs that this process may really use.

    Threads beyond that wait for each other: what all of the machine's CPUs could do is of no use to
    a process that is bound to some of them, or that its control group (a container's limit) stops
    after its share of every period.

    Args:
        root: of the file system that describes the system.

    Returns:
        The CPUs of the process's affinity, where the system tells, else all; at most the whole CPUs
        of the smallest quota above it; at least 1.
    """
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([cpus, *(int(quota) for quota in _quotas(root))]))


def _quotas(root: Path) -> list[float]:
    """CPUs that each control group above this process grants, of versions 2 and 1."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    quotas = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
        group = Path(path.lstrip("/"))
        for place in (mount / group, *(mount / parent for parent in group.parents)):
            quotas += _quota(place, 1 if controllers else 2)
    return quotas


def _quota(group: Path, version: int) -> list[float]:
    try:
        if version == 2:
            limit, period = (group / "cpu.max").read_text(encoding="ascii").split()
        else:
            limit, period = (
                (group / f"cpu.cfs_{name}_us").read_text(encoding="ascii").strip()
                for name in ("quota", "period")
            )
        return [] if limit in ("max", "-1") else [int(limit) / int(period)]
    except (OSError, ValueError):
        return []  # the group has no limit of its own, or is not visible from here
