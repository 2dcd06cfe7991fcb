"""Episodes per hour with one simulator process and with several.

    python -m benchmarks.bench_workers [--workers 2] [--trials 16] [--steps 220] [--turns 3]

The policy costs nothing: random actions, so the simulators are all there is to wait for. Runs of
one and of several workers take turns, and both see the same load of the machine. Everything counts
but the start of the processes and the opening of tasks, seconds that a real run pays once for
hundreds of episodes; lite assets, real rows written to a temporary folder. CPU seconds an episode
say on a busy machine, too, whether the process in the middle is in the way.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, cast

import numpy as np

from tests.fakes import INFO, FakePolicy
from vlaprune_bench.config import EvalConfig
from vlaprune_bench.measure.machine import usable_cores
from vlaprune_bench.rollout.identity import specs
from vlaprune_bench.rollout.jobs import Job
from vlaprune_bench.rollout.pool import Process, Processes
from vlaprune_bench.rollout.scene_guard import SceneGuard
from vlaprune_bench.rollout.server import Server
from vlaprune_bench.rollout.setup import Loaded, Setup
from vlaprune_bench.sim.assets import resolve_assets
from vlaprune_bench.sim.gl import choose_gl
from vlaprune_bench.store import Store
from vlaprune_bench.types import Status

AIM = 1.7
"""Episodes per hour of two workers over those of one, on two cores."""


def cpu_s(server: Server) -> float:
    """CPU time its workers have taken, seconds."""
    pids = [cast(Process, slot.worker).pid for slot in server.slots]
    ticks = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(fields[11]) + int(fields[12]) for fields in ticks) / os.sysconf("SC_CLK_TCK")


def rate(config: EvalConfig, workers: int) -> dict[str, float]:
    """Episodes per hour, and CPU seconds of an episode, from when every worker has ended its first
    to when the last is given out."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        loaded = Loaded(INFO, resolve_assets(config.what.assets, "lite"), choose_gl(), Path(folder))
        setup = Setup(config, loaded)
        jobs = [Job(setup, spec) for spec in specs(config)]
        left, ended, started, ours, theirs = len(jobs), 0, 0.0, 0.0, 0.0
        policy: Any = FakePolicy()
        with Server(policy, SceneGuard(store.folder), Processes(), workers) as server:
            for _, row, calls in server.run(jobs, lambda: False):
                assert row.status == Status.OK, row.error
                store.append(row, calls)
                left -= 1
                ended += bool(started)
                played = [slot for slot in server.slots if slot.played]
                if len(played) == workers and not started:
                    started, ours, theirs = time.monotonic(), time.process_time(), cpu_s(server)
                if left <= workers:
                    break
            return {
                "per hour": 3600 * ended / (time.monotonic() - started),
                "in the middle": (time.process_time() - ours) / ended,
                "of workers": (cpu_s(server) - theirs) / ended,
            }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--trials", type=int, default=16, help="episodes of a run")
    parser.add_argument("--steps", type=int, default=220, help="control steps of an episode")
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    if options.trials < 4 * options.workers:  # the first and the last of a worker do not count
        parser.error(f"--trials is {options.trials}; it must be 4 a worker at least.")
    print(f"{usable_cores()} cores; random actions, lite assets, {options.steps} steps")
    print(f"{'workers':>7} {'episodes/h':>11}   CPU s an episode: workers, in the middle")
    ratios = []
    for _ in range(options.turns):
        rates = []
        for workers in (1, options.workers):
            config = EvalConfig.of(
                task_ids=(0,),
                trials=min(50, options.trials),
                max_steps=options.steps,
                assets="lite",
            )
            found = rate(config, workers)
            rates.append(found["per hour"])
            cpu = f"{found['of workers']:.2f}, {found['in the middle']:.3f}"
            print(f"{workers:7} {rates[-1]:11.0f}   {cpu}", flush=True)
        ratios.append(rates[1] / rates[0])
    aim = f" (aim: at least {AIM}x on two cores)" if options.workers == 2 else ""
    print(f"ratio: {np.median(ratios):.2f}x, median of {options.turns}{aim}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
