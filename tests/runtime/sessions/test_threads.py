"""The number of threads follows what the process may really use."""

import os

import pytest

from capsnet.runtime.sessions.threads import usable_cpus


@pytest.fixture
def system(tmp_path, monkeypatch):
    """A made-up system of 16 CPUs; writes its files."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)

    def write(files):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return write


V1 = {"proc/self/cgroup": "4:memory:/a\n3:cpu,cpuacct:/a/b\n"}


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({}, 16),
        ({"proc/self/cgroup": "0::/\n"}, 16),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, 16),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "350000 100000\n"}, 3),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "9900000 100000\n"}, 16),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "200000 100000\n"}, 2),
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/cpu.max": "800000 100000\n",
                "sys/fs/cgroup/a/b/cpu.max": "400000 100000\n",
            },
            4,
        ),
        (
            V1
            | {
                "sys/fs/cgroup/cpu/a/b/cpu.cfs_quota_us": "600000\n",
                "sys/fs/cgroup/cpu/a/b/cpu.cfs_period_us": "100000\n",
            },
            6,
        ),
        (
            V1
            | {
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            16,
        ),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "nonsense\n"}, 16),
    ],
    ids=[
        "no groups",
        "no limit",
        "max",
        "three and a half",
        "half",
        "more than there are",
        "above",
        "nested",
        "version 1",
        "version 1 without a limit",
        "nonsense",
    ],
)
def test_quota_of_every_group_above_the_process_counts(system, files, cpus):
    assert usable_cpus(system(files)) == cpus


def test_affinity_counts(system, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5})
    assert usable_cpus(system({})) == 2


def test_system_without_affinity_counts_all(system, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert usable_cpus(system({})) == 7
