"""Success of a checkpoint on placements that neither demonstrations nor the benchmark use."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from experts.world import SampledTask

from vlaprune_bench.config import What
from vlaprune_bench.policies import load_policy
from vlaprune_bench.pruning.none import NoPruning
from vlaprune_bench.rollout.episode import Progress, run_episode
from vlaprune_bench.sim.assets import resolve_assets
from vlaprune_bench.sim.tasks import TaskKey
from vlaprune_bench.types import OPENVLA_PROTOCOL, EpisodeSpec

FIRST_PLACEMENT = 1_000_000
"""Held-out placements count from here; those of demonstrations stay below."""


def roll_out(
    checkpoint: Path, tasks: Iterable[tuple[str, int]], episodes: int
) -> list[dict[str, Any]]:
    """Run episodes without pruning, with lite assets.

    Args:
        checkpoint: folder.
        tasks: (suite, task index) pairs.
        episodes: of each task.

    Returns:
        One row an episode: suite, task, trial, success, steps.
    """
    protocol = OPENVLA_PROTOCOL
    assets = resolve_assets("lite", "lite")
    rows = []
    for suite, index in tasks:
        policy = load_policy(str(checkpoint), NoPruning(), suite=suite, device="cpu")
        budget = protocol.budgets[suite]
        with SampledTask(TaskKey(suite, index, assets, protocol)) as task:
            for trial in range(FIRST_PLACEMENT, FIRST_PLACEMENT + episodes):
                progress = Progress()
                spec = EpisodeSpec(suite, index, trial, What.seed, protocol.name, budget)
                run_episode(
                    task,
                    policy,
                    spec,
                    episode_seed=trial,
                    execute_steps=protocol.execute_steps or policy.info.chunk,
                    progress=progress,
                )
                result = {"success": progress.success, "steps": progress.steps}
                rows.append({"suite": suite, "task": index, "trial": trial, **result})
    return rows
