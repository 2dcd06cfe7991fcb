"""Run an expert where an evaluation would run a policy."""

from __future__ import annotations

from vlaprune_bench.experts.tasks import make_expert
from vlaprune_bench.experts.world import World
from vlaprune_bench.sim.libero import LiberoTask


def solve(task: LiberoTask, trial: int) -> int | None:
    """Control steps until the task's predicate is true, or None where the budget ends first."""
    task.reset(trial)
    world = World(task)
    expert = make_expert(task.suite, task.task, world)
    for step in range(task.budget):
        _, success = task.step(expert.act(world).clip(-1.0, 1.0), look=False)
        if success:
            return step + 1
    return None
