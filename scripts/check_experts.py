"""Count what the scripted experts solve, undisturbed or as `make_demos` runs them; writes nothing.

python scripts/check_experts.py --suite libero_goal --trials 12           # undisturbed
python scripts/check_experts.py --suite libero_goal --trials 12 --noise
"""

from __future__ import annotations

import argparse

import make_demos
import numpy as np
from experts.tasks import make_expert, tasks_with_expert
from experts.world import SampledTask, World
from scipy.spatial.transform import Rotation

from vlaprune_bench.sim.assets import resolve_assets
from vlaprune_bench.sim.tasks import TaskKey


def solve(env: SampledTask, seed: int, noisy: bool) -> tuple[int | None, float]:
    """Steps until the goal holds (None: never), and the largest turn from home, rad."""
    env.reset(seed)
    world = World(env)
    expert = make_expert(env.suite, env.task, world)
    noise = make_demos.Noise(np.random.default_rng([seed, env.task]))
    home, most = world.hand_turn, 0.0
    for step in range(env.budget):
        action = np.clip(expert.act(world), -1.0, 1.0)
        if expert.done:
            break
        _, success = env.step(noise(action) if noisy else action, look=False)
        most = max(most, float(Rotation.from_matrix(home @ world.hand_turn.T).magnitude()))
        if success:
            return step + 1, most
    return None, most


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--suite", action="append", choices=(*make_demos.SUITES, make_demos.LONG_SUITE)
    )
    parser.add_argument("--task", action="append", type=int, help="default: every task")
    parser.add_argument("--trials", type=int, default=12, help="placements a task")
    parser.add_argument("--noise", action="store_true", help="disturb, as demonstrations are")
    parser.add_argument("--assets", default="lite", help="lite, real, or a folder")
    args = parser.parse_args()
    for suite in args.suite or make_demos.SUITES:
        for task in args.task or tasks_with_expert(suite):
            with SampledTask(TaskKey(suite, task, resolve_assets(args.assets, "lite"))) as env:
                runs = [solve(env, seed, args.noise) for seed in range(args.trials)]
            steps = [step for step, _ in runs if step is not None]
            turned = np.median([most for _, most in runs])
            failed = [seed for seed, (step, _) in enumerate(runs) if step is None]
            print(
                f"{suite} {task}: {len(steps)} of {args.trials}, "
                f"{np.mean(steps) if steps else np.nan:.0f} steps, turned {turned:.2f} rad, "
                f"failed {failed}",
                flush=True,
            )


if __name__ == "__main__":
    main()
