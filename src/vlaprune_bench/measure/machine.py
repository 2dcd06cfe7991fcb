"""What this process may use of the machine: its container's limits count."""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import Literal

SMALL_BYTES = 2**27
"""Weights of a model that is faster with one thread than with two on a machine with other work."""


def usable_cores() -> int:
    """Cores this process may use: its affinity, and the quota of its control group."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    quota = _control_group("cpu.max").split()
    if len(quota) == 2 and quota[0] != "max":
        cores = min(cores, max(1, int(quota[0]) // int(quota[1])))
    return cores


def model_threads(asked: int | Literal["auto"], weight_bytes: int, workers: int) -> int | None:
    """CPU threads for a model; None: leave what torch has.

    Small products gain nothing from a second thread and lose much where another process wants its
    core: a model of less than `SMALL_BYTES` gets one.

    Args:
        asked: a number, or auto.
        weight_bytes: size of the weights as stored.
        workers: simulator processes beside the model.
    """
    if asked != "auto":
        return asked
    if "OMP_NUM_THREADS" in os.environ:
        return None
    return 1 if weight_bytes < SMALL_BYTES else max(1, usable_cores() - workers)


def total_mib() -> float:
    """Memory of the machine, or of the control group where that has less, MiB."""
    mib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**20
    limit = _control_group("memory.max").strip()
    return min(mib, int(limit) / 2**20) if limit.isdecimal() else mib


def available_mib() -> float:
    """Memory that can still be taken: of the machine, the control group, the process, MiB."""
    meminfo = Path("/proc/meminfo")
    mib = min(total_mib(), process_limit_mib())
    if meminfo.is_file():  # what the kernel would give, file caches included
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        mib = min(mib, int(lines["MemAvailable"].split()[0]) / 2**10)
    limit, used = _control_group("memory.max").strip(), _control_group("memory.current").strip()
    if limit.isdecimal() and used.isdecimal():
        stat = dict(line.split() for line in _control_group("memory.stat").splitlines())
        free = int(limit) - int(used) + int(stat.get("inactive_file", 0))  # caches give way
        mib = min(mib, free / 2**20)
    return mib


def process_limit_mib() -> float:
    """What the process's own limits (`ulimit -d`, `-v`) leave to it, MiB; files that are mapped
    count there. Infinite where there is none."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return float("inf")
    used = dict(line.split(":", 1) for line in status.read_text().splitlines())
    left = [float("inf")]
    for kind, key in ((resource.RLIMIT_DATA, "VmData"), (resource.RLIMIT_AS, "VmSize")):
        limit = resource.getrlimit(kind)[0]
        if limit != resource.RLIM_INFINITY:
            left.append(limit / 2**20 - int(used[key].split()[0]) / 2**10)
    return min(left)


def _control_group(name: str) -> str:
    """A file of this container's control group (version 2), or "" where there is none."""
    path = Path("/sys/fs/cgroup") / name
    return path.read_text() if path.is_file() else ""
