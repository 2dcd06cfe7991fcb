"""Where the kept tokens lie: on the thing to grasp, its goal and the hand, or anywhere?

    python scripts/where_kept.py --tasks 0 3 --method fastv static --keep 0.25 --picture out.jpg

Every pruned call of an episode is compared with a segmentation of the same frames, rendered beside
the episode: a visual token shows a thing where at least a tenth of its patch does. Printed is, for
each method, the share of kept tokens that show target, goal or hand, the same share of all tokens,
and their ratio: 1 is what picking at random gives.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import mujoco
import numpy as np
from experts.world import World
from PIL import Image

from vlaprune_bench.config import What
from vlaprune_bench.policies import load_policy
from vlaprune_bench.pruning import method_class
from vlaprune_bench.rollout.episode import Progress, run_episode
from vlaprune_bench.sim.assets import resolve_assets
from vlaprune_bench.sim.libero import LiberoTask
from vlaprune_bench.sim.tasks import TaskKey
from vlaprune_bench.types import CAMERAS, OPENVLA_PROTOCOL, EpisodeSpec, Observation
from vlaprune_bench.video import compose, dim_pruned

PARTS = ("target", "goal", "hand")
SHOWS = 0.1
"""Share of a patch that a thing must fill."""


class Segmenter:
    """Which visual tokens show what, in the running episode of a task."""

    def __init__(self, task: LiberoTask, grids: tuple[tuple[int, int], ...]) -> None:
        world = World(task)
        self._model, self._data = world._model, world._data
        self._size = OPENVLA_PROTOCOL.camera_size
        self._grids = grids
        self._renderer = mujoco.Renderer(self._model, self._size, self._size)
        self._renderer.enable_segmentation_rendering()
        self._option = mujoco.MjvOption()
        self._option.geomgroup[:] = [0, 1, 0, 0, 0, 0]  # as robosuite's frames: visual geoms
        _, target, goal = world.goal()
        self._part_G = np.full(self._model.ngeom + 1, -1)  # the last: no geom
        for geom in range(self._model.ngeom):
            names = self._bodies(self._model.geom_bodyid[geom])
            for part, found in enumerate(
                (
                    any(name.startswith(f"{target}_") for name in names),
                    any(goal.startswith(name.removesuffix("_main")) for name in names if name),
                    any(name.startswith("gripper0_") for name in names),
                )
            ):
                if found:
                    self._part_G[geom] = part

    def _bodies(self, body: int) -> list[str]:
        """Names of a body and those it hangs on, the world left out."""
        names = []
        while body:
            names.append(self._model.body(body).name)
            body = self._model.body_parentid[body]
        return names

    def tokens(self) -> np.ndarray:
        """(3, V) bool: which tokens show target, goal and hand."""
        shown = []
        for camera, (rows, columns) in zip(CAMERAS, self._grids, strict=True):
            self._renderer.update_scene(self._data, camera, self._option)
            ids_HW = self._renderer.render()[:, ::-1, 0]  # the protocol mirrors its frames
            part_HW = self._part_G[ids_HW]
            side = self._size * math.sqrt(OPENVLA_PROTOCOL.crop_area)
            lines = [
                np.round((self._size - side) / 2 + side * np.arange(n + 1) / n).astype(int)
                for n in (rows, columns)
            ]
            for r in range(rows):
                for c in range(columns):
                    patch = part_HW[lines[0][r] : lines[0][r + 1], lines[1][c] : lines[1][c + 1]]
                    shown.append([(patch == part).mean() >= SHOWS for part in range(3)])
        return np.array(shown).T

    def close(self) -> None:
        self._renderer.close()


class Call(NamedTuple):
    """One call of the policy."""

    frames: np.ndarray
    shown_PV: np.ndarray
    kept: list[int] | None
    step: int


class Watch:
    """Notes the calls of one episode."""

    def __init__(self, task: LiberoTask, grids: tuple[tuple[int, int], ...]) -> None:
        self._task, self._grids = task, grids
        self.calls: list[Call] = []

    def begin(self) -> None:
        """The scene stands."""
        self._segmenter = Segmenter(self._task, self._grids)

    def __call__(self, observation: Observation, episode: Progress) -> None:
        assert observation.images is not None
        kept = episode.measures[-1].kept_visual
        frames = dim_pruned(observation.images, kept, self._grids, OPENVLA_PROTOCOL.crop_area)
        self.calls.append(Call(frames, self._segmenter.tokens(), kept, episode.steps))

    def close(self) -> None:
        self._segmenter.close()


def run_calls(policy: Any, suite: str, index: int, trials: int) -> Iterator[Call]:
    """Every call of some episodes of a task, on the benchmark's init states."""
    protocol = OPENVLA_PROTOCOL
    budget = protocol.budgets[suite]
    with LiberoTask(TaskKey(suite, index, resolve_assets("lite", "lite"), protocol)) as task:
        for trial in range(trials):
            watch = Watch(task, policy.info.grids)
            run_episode(
                task,
                policy,
                EpisodeSpec(suite, index, trial, What.seed, protocol.name, budget),
                episode_seed=trial,
                execute_steps=protocol.execute_steps or policy.info.chunk,
                progress=Progress(),
                after_reset=watch.begin,
                watch=watch,
            )
            watch.close()
            yield from watch.calls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--suite", default="libero_spatial")
    parser.add_argument("--tasks", type=int, nargs="+", default=[0])
    parser.add_argument("--trials", type=int, default=1)
    parser.add_argument("--method", nargs="+", default=["random", "static", "fastv", "vla-pruner"])
    parser.add_argument("--keep", type=float, default=0.25)
    parser.add_argument("--checkpoint", default="tiny")
    parser.add_argument("--picture", type=Path, help="a row of frames of each method")
    parser.add_argument("--animation", type=Path, help="the methods' first episodes, side by side")
    args = parser.parse_args()
    episodes: list[list[np.ndarray]] = []
    print(f"{'method':12} {'calls':>5}  " + "  ".join(f"{part:>17}" for part in PARTS))
    for method in args.method:
        pruner = method_class(method)(keep=args.keep)
        policy = load_policy(args.checkpoint, pruner, suite=args.suite, device="cpu")
        calls: list[Call] = []
        for task in args.tasks:
            own = list(run_calls(policy, args.suite, task, args.trials))
            if not calls:
                first = own[: 1 + next((k for k, c in enumerate(own[1:]) if c.step == 0), len(own))]
                episodes.append([compose(c.frames, f"{method}   step {c.step}") for c in first])
            calls += own
        print(line(method, [call for call in calls if call.kept is not None]), flush=True)
    if args.picture:
        rows = [np.hstack([e[len(e) * k // 6] for k in (1, 3, 5)]) for e in episodes]
        Image.fromarray(np.vstack(rows)).save(args.picture, quality=85)
    if args.animation:
        length = max(len(e) for e in episodes)
        shown = [[e[min(k, len(e) - 1)] for e in episodes] for k in range(length)]
        images = [Image.fromarray(side_by_side(frames)) for frames in shown]
        hold = [600] * (length - 1) + [3000]
        images[0].save(
            args.animation, save_all=True, append_images=images[1:], duration=hold, loop=0
        )


def line(method: str, pruned: list[Call]) -> str:
    """What share of the kept tokens shows each part, and of all."""
    kept_P = np.concatenate([call.shown_PV[:, call.kept] for call in pruned], axis=1).mean(1)
    all_P = np.concatenate([call.shown_PV for call in pruned], axis=1).mean(1)
    shares = [f"{k:4.0%} of {a:4.0%} {k / a:4.1f}x" for k, a in zip(kept_P, all_P, strict=True)]
    return f"{method:12} {len(pruned):5}  " + "  ".join(f"{share:>17}" for share in shares)


def side_by_side(frames: list[np.ndarray]) -> np.ndarray:
    """Frames in two columns."""
    blank = np.zeros_like(frames[0])
    rows = [frames[k : k + 2] for k in range(0, len(frames), 2)]
    return np.vstack([np.hstack([*row, blank][:2]) for row in rows])


if __name__ == "__main__":
    main()
