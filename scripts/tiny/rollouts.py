"""Success of a checkpoint on placements that neither demonstrations nor the benchmark use."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from experts.world import SampledTask

from vlaprune_bench.config import What
from vlaprune_bench.policies import load_policy
from vlaprune_bench.pruning.none import NoPruning
from vlaprune_bench.rollout.episode import Progress, run_episode
from vlaprune_bench.sim.assets import resolve_assets
from vlaprune_bench.sim.tasks import TaskKey
from vlaprune_bench.types import EpisodeSpec, EvalProtocol

FIRST_PLACEMENT = 1_000_000
"""Held-out placements count from here; those of demonstrations stay below."""


def roll_out(
    checkpoint: Path,
    tasks: Iterable[tuple[str, int]],
    episodes: int,
    protocol: EvalProtocol,
    stop: Callable[[], bool] = lambda: False,
) -> list[dict[str, Any]] | None:
    """Run episodes without pruning, with lite assets.

    Args:
        checkpoint: folder.
        tasks: (suite, task index) pairs.
        episodes: of each task.
        protocol: how the policy is called.
        stop: asked before every episode.

    Returns:
        One row an episode: suite, task, trial, success, steps, and error: what it raised, which
        ended it without success ("" where nothing did). None: it was told to stop.
    """
    assets = resolve_assets("lite", "lite")
    policies: dict[str, Any] = {}
    rows = []
    for suite, index in tasks:
        if suite not in policies:
            policies[suite] = load_policy(
                str(checkpoint), NoPruning(), suite=suite, device="cpu", protocol=protocol
            )
        with SampledTask(TaskKey(suite, index, assets, protocol)) as task:
            for trial in range(FIRST_PLACEMENT, FIRST_PLACEMENT + episodes):
                if stop():
                    return None
                result = _episode(task, policies[suite], suite, index, trial, protocol)
                rows.append({"suite": suite, "task": index, "trial": trial, **result})
    return rows


def _episode(
    task: SampledTask, policy: Any, suite: str, index: int, trial: int, protocol: EvalProtocol
) -> dict[str, Any]:
    """Success, steps and error of one episode."""
    progress, error = Progress(), ""
    spec = EpisodeSpec(suite, index, trial, What.seed, protocol.name, protocol.budgets[suite])
    try:
        run_episode(
            task,
            policy,
            spec,
            episode_seed=trial,
            execute_steps=protocol.execute_steps or policy.info.chunk,
            progress=progress,
        )
    except Exception as raised:  # noqa: BLE001 - a simulation that blows up ends no training run
        error = f"{type(raised).__name__}: {raised}"
        print(f"{suite} {index}, placement {trial}: {error}", flush=True)
    return {"success": progress.success and not error, "steps": progress.steps, "error": error}
