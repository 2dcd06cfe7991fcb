"""Write demonstrations by scripted experts, one parquet file a task; resumable.

    python scripts/make_demos.py --out DEMOS                          # three suites, lite assets
    python scripts/make_demos.py --out DEMOS --suite libero_spatial --task 3 --demos 120

Placements are sampled as LIBERO's reset does, under seeds of our own: never the benchmark's init
states. Part of the demonstrations is disturbed: noise goes into the actions executed, the actions
recorded are the expert's own. Only demonstrations that end in success are kept.

One row is one frame, as the policy receives it, with the expert's actions from there on:

    suite, task, instruction    which task
    demo, seed, step, n_steps   which demonstration, its placement, the frame's step, its length
    agentview_jpeg, wrist_jpeg  256 x 256 (--protocol lerobot: 360 x 360), quality 95
    eef_pos, eef_quat (xyzw), gripper_qpos    as the observation has them
    actions                     8 x 7, flattened: this step's and the next seven
    target_pos, goal_pos        where the thing to grasp is now, and where it is to go
    holding                     whether the hand has it
"""

from __future__ import annotations

import argparse
import io
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from experts.tasks import make_expert, tasks_with_expert
from experts.world import SampledTask, World
from PIL import Image

from vlaprune_bench.sim.assets import resolve_assets
from vlaprune_bench.sim.tasks import TaskKey
from vlaprune_bench.types import PROTOCOLS, Observation

SUITES = ("libero_spatial", "libero_object", "libero_goal")
LONG_SUITE = "libero_10"
"""Only some of its tasks have an expert, so it is made when asked for."""
CHUNK = 8
QUALITY = 95
NOISY_SHARE = 0.6
SIGMA = 0.4
TURN_SIGMA = 0.15
"""As `SIGMA`, of the rotation: against the expert's corrections the hand turns 0.1 to 0.2 rad."""
BURST_CHANCE, BURST_STEPS = 0.06, (4, 12)
SAVE_EVERY = 5
JPEGS = ("agentview_jpeg", "wrist_jpeg")


class Noise:
    """Bursts of a push in one direction and a turn about one axis, shaken."""

    def __init__(self, rng: np.random.Generator, turns: float = TURN_SIGMA) -> None:
        """`turns` is the size of the turns in action units; 0: pushes only."""
        self._rng = rng
        self._on = rng.random() < NOISY_SHARE
        self._left = 0
        self._sigma = np.array([SIGMA] * 3 + [turns] * 3)
        self._push = np.zeros(6)

    def __call__(self, action: np.ndarray) -> np.ndarray:
        """The action to execute."""
        rng = self._rng
        if self._on and self._left == 0 and rng.random() < BURST_CHANCE:
            self._left = int(rng.integers(*BURST_STEPS))
            self._push = self._sigma * rng.standard_normal(6)
        if self._left == 0:
            return action
        self._left -= 1
        shaken = action.copy()
        shaken[:6] += self._push + 0.5 * self._sigma * rng.standard_normal(6)
        return np.clip(shaken, -1.0, 1.0)


def jpeg(frame: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def frame_row(observation: Observation, step: int) -> dict[str, Any]:
    assert observation.images is not None
    return {
        "step": step,
        **{name: jpeg(image) for name, image in zip(JPEGS, observation.images, strict=True)},
        "eef_pos": observation.eef_pos.tolist(),
        "eef_quat": observation.eef_quat.tolist(),
        "gripper_qpos": observation.gripper_qpos.tolist(),
    }


def demonstrate(
    env: SampledTask, seed: int, every: int, every_near: int
) -> list[dict[str, Any]] | None:
    """The frames of one demonstration, or None where the expert failed."""
    observation = env.reset(seed)
    world = World(env)
    expert = make_expert(env.suite, env.task, world)
    rng = np.random.default_rng([seed, env.task])
    noise, phase = Noise(rng), int(rng.integers(every))
    rows: list[dict[str, Any]] = []
    actions: list[np.ndarray] = []
    solved = False
    for step in range(env.budget):
        action = np.clip(expert.act(world), -1.0, 1.0)
        if observation.images is not None:
            about = {
                "target_pos": expert.target.tolist(),
                "goal_pos": expert.place.tolist(),
                "holding": bool(expert.holding),
            }
            rows.append(frame_row(observation, step) | about)
        actions.append(action)
        if expert.done:
            break
        gap = every_near if expert.near else every
        look = (step + 1 - phase) % gap == 0
        observation, success = env.step(noise(action), look)
        solved |= success
    if not solved:
        return None
    rest = actions[-1] * np.array([0, 0, 0, 0, 0, 0, 1.0])
    chunks = np.array(actions + [rest] * CHUNK)
    for row in rows:
        row["actions"] = chunks[row["step"] : row["step"] + CHUNK].ravel().tolist()
        row["n_steps"] = len(actions)
    return rows


def save(path: Path, table: pa.Table) -> None:
    """Write a whole file, or none."""
    packed = {name: "NONE" if name in JPEGS else "ZSTD" for name in table.column_names}
    packed |= {
        f"{name}.list.element": "ZSTD"
        for name, kind in zip(table.column_names, table.schema.types, strict=True)
        if pa.types.is_list(kind)
    }
    temporary = path.with_suffix(".part")
    pq.write_table(table, temporary, compression=packed, row_group_size=512, use_dictionary=False)
    os.replace(temporary, path)


def make_task(suite: str, task: int, args: argparse.Namespace) -> None:
    """Bring a task's file up to `args.demos` demonstrations."""
    demos, folder = args.demos, args.out
    path = folder / suite / f"task{task:02d}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pq.read_table(path) if path.is_file() else None
    kept, seed = 0, 0
    if table is not None:
        kept = max(table["demo"].to_pylist()) + 1
        seed = max(table["seed"].to_pylist()) + 1
    if kept >= demos:
        return
    fresh: list[dict[str, Any]] = []
    before, first_seed, start, steps = kept, seed, time.perf_counter(), 0
    with SampledTask(
        TaskKey(suite, task, resolve_assets(args.assets, "lite"), PROTOCOLS[args.protocol])
    ) as env:
        head = {"suite": suite, "task": task, "instruction": env.instruction}
        while kept < demos:
            if seed - first_seed >= 20 and kept - before < (seed - first_seed) // 4:
                raise RuntimeError(f"{suite} task {task}: the expert fails most placements.")
            rows = demonstrate(env, seed, args.every, args.every_near)
            if rows is not None:
                fresh += [head | {"demo": kept, "seed": seed} | row for row in rows]
                steps += rows[0]["n_steps"]
                kept += 1
            seed += 1
            if fresh and (kept == demos or (rows and kept % SAVE_EVERY == 0)):
                new = pa.Table.from_pylist(fresh)
                table = new if table is None else pa.concat_tables([table, new])
                save(path, table)
                fresh = []
    made, tried, hours = kept - before, seed - first_seed, (time.perf_counter() - start) / 3600
    print(
        f"{suite} {task}: {made} kept of {tried} ({made / tried:.0%}), "
        f"{steps / made:.0f} steps each, {made / hours:.0f} an hour, "
        f"{path.stat().st_size / 1e6:.0f} MB",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder to write below")
    parser.add_argument(
        "--suite", action="append", choices=(*SUITES, LONG_SUITE), help="default: all three"
    )
    parser.add_argument("--task", action="append", type=int, help="default: every task")
    parser.add_argument("--demos", type=int, default=60, help="demonstrations a task")
    parser.add_argument("--assets", default="lite", help="lite, real, or a folder")
    parser.add_argument(
        "--protocol", default="openvla", choices=PROTOCOLS, help="whose cameras look: their size"
    )
    parser.add_argument("--every", type=int, default=8, help="steps between frames")
    parser.add_argument("--every-near", type=int, default=4, help="around grasp and release")
    args = parser.parse_args()
    for suite in args.suite or SUITES:
        for task in args.task or tasks_with_expert(suite):
            make_task(suite, task, args)


if __name__ == "__main__":
    main()
