"""How many CPU cores there are for this process, and for each of several beside each other."""

from __future__ import annotations

import math
import os
from pathlib import Path

QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""What a container may use of the CPUs that it sees (cgroup v2); missing outside of one."""


def cores() -> int:
    """CPU cores that this process may use, by its affinity and its container's quota; at least 1.

    `os.cpu_count()` counts those of the whole machine.
    """
    if hasattr(os, "sched_getaffinity"):
        allowed = len(os.sched_getaffinity(0))
    else:
        allowed = os.cpu_count() or 1
    return max(1, min(allowed, _quota(allowed)))


def thread_limits(processes: int) -> dict[str, str]:
    """Environment variables for one of so many processes that train beside each other: threads of
    its products, and processes that compile for it, are its share of the cores, and threads sleep
    while they wait. What the environment has already stays."""
    share = str(max(1, cores() // processes))
    limits = {
        "OMP_NUM_THREADS": share,
        "OMP_WAIT_POLICY": "PASSIVE",  # by default they spin, on cores that others could use
        "TORCHINDUCTOR_COMPILE_THREADS": share,
    }
    return {name: os.environ.get(name, value) for name, value in limits.items()}


def _quota(without: int) -> int:
    """How many cores the container's quota allows, rounded up. Without a quota: `without`."""
    if not QUOTA.is_file():
        return without
    limit, period = QUOTA.read_text().split()
    return without if limit == "max" else math.ceil(int(limit) / int(period))
