"""How many threads to use."""

import os

__all__ = ["usable_cpus"]


def usable_cpus() -> int:
    """CPUs that this process may really use: its affinity, where the system tells, else all."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
