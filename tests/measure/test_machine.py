"""Cores and memory: a container's limits count."""

import os
import resource

import pytest

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


@pytest.mark.parametrize("kind", [resource.RLIMIT_DATA, resource.RLIMIT_AS])
def test_a_limit_on_the_process_counts(monkeypatch, kind):
    assert machine.process_limit_mib() > 0
    limits = {kind: 2**40}
    monkeypatch.setattr(
        resource, "getrlimit", lambda k: (limits.get(k, resource.RLIM_INFINITY), -1)
    )
    before = machine.process_limit_mib()
    assert 0 < before < 2**20
    held = bytearray(64 * 2**20)
    assert machine.process_limit_mib() < before - 32
    limits[kind] = 2**20
    assert machine.available_mib() < 1
    del held
