"""Cores and memory: a container's limits count."""

import os

from vlaprune_bench.measure import machine


def test_auto_sees_a_containers_limits(monkeypatch):
    group = {
        "cpu.max": "150000 50000\n",
        "memory.max": f"{3 * 2**30}\n",
        "memory.current": f"{2 * 2**30}\n",
        "memory.stat": f"anon 5\ninactive_file {2**29}\n",
    }
    monkeypatch.setattr(machine, "_control_group", lambda name: group[name])
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))
    assert machine.usable_cores() == 3
    assert machine.available_mib() == 1536
    group["cpu.max"], group["memory.max"] = "max 100000", "max"
    assert machine.usable_cores() == 64
    assert machine.available_mib() > 0
