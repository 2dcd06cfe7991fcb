"""Throughput of the simulator: the reference loop against ours.

    make bench-sim BENCH="--assets DIR --steps 72 --tasks libero_10:3 libero_goal:6"

Two processes take turns, one with LIBERO's own environment as the OpenVLA-OFT evaluation runs it
(two cameras rendered at every step), one with `LiberoTask`; so both see the same load of the
machine. A scripted open-loop policy plays the same actions in both. Figures are per second of CPU
time (user and system, all threads) and exclude resets; each is the median over several turns.

"reset, new" makes a scene the process has not had yet, "reset, known" restores its snapshot. Memory
is what is resident; "of it private" leaves out the pages of libraries that all workers share: what
one worker more costs.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

TASKS = ("libero_10:3", "libero_goal:6", "libero_spatial:4", "libero_object:0")
CHUNK, SIZE = 8, 256
STAY = np.array([0, 0, 0, 0, 0, 0, -1.0])
TARGETS = {"chunk of 8": 8.0, "every step": 1.2, "no rendering": 2.5}
"""How the policy looks, and what the ratio should be at least, on average over tasks."""


def scripted(steps: int) -> np.ndarray:
    """Down, close, up, sideways: the arm moves and touches things."""
    t = np.linspace(0, 2 * np.pi, steps)
    zero = np.zeros(steps)
    return np.stack(
        [0.5 * np.sin(t), 0.3 * np.cos(t), -0.6 * np.cos(t / 2), zero, 0.2 * np.sin(2 * t), zero,
         np.where(t < np.pi, -1.0, 1.0)],
        axis=1,
    )  # fmt: skip


class Reference:
    """The evaluation loop of OpenVLA-OFT; only what it does for the simulator."""

    def __init__(self, suite: str, index: int, assets: str) -> None:
        from vlaprune_bench.sim.suites import load_init_states
        from vlaprune_bench.sim.tasks import get_task

        info = get_task(suite, index)
        self.init_states = load_init_states(info.init_states_file)
        from libero.libero.envs import OffScreenRenderEnv

        self.env = OffScreenRenderEnv(
            bddl_file_name=str(info.bddl_file), camera_heights=SIZE, camera_widths=SIZE
        )
        self.env.seed(0)

    def reset(self, trial: int) -> None:
        """Timed on its own: the hard reset and the init state, before settling."""
        self.env.reset()
        self.env.set_init_state(self.init_states[trial])

    def settle(self) -> None:
        for _ in range(10):
            self.env.step(STAY.tolist())

    def close(self) -> None:
        self.env.close()

    def play(self, mode: str, actions: np.ndarray) -> None:
        render = mode != "no rendering"
        for name in ("agentview_image", "robot0_eye_in_hand_image"):
            # off in robosuite's own way, to compare physics with physics
            self.env.env._observables[name]._enabled = render
        for action in actions:
            self.env.step(action.tolist())


class Ours:
    def __init__(self, suite: str, index: int, assets: str) -> None:
        from vlaprune_bench.sim.assets import resolve_assets
        from vlaprune_bench.sim.libero import LiberoTask
        from vlaprune_bench.sim.tasks import TaskKey

        self.task = LiberoTask(TaskKey(suite, index, resolve_assets(assets, "real")))
        self.task.fingerprint(0)  # opens: compiles the model, checks the fast path
        assert (self.task.sim, self.task.self_check) == ("fast", "passed"), self.task.self_check

    def reset(self, trial: int) -> None:
        self.task.fingerprint(trial)

    def settle(self) -> None:
        self.task.reset(0)

    def close(self) -> None:
        self.task.close()

    def play(self, mode: str, actions: np.ndarray) -> None:
        every = {"chunk of 8": CHUNK, "every step": 1, "no rendering": len(actions) + 1}[mode]
        for k, action in enumerate(actions):
            self.task.step(action, look=(k + 1) % every == 0)


def serve(pipe: Connection, kind: str, suite: str, index: int, assets: str) -> None:
    """One side: does what it is told and answers with CPU seconds."""
    if kind == "reference":
        import mujoco  # noqa: F401 - before us, so that we leave its settings alone

    from vlaprune_bench.sim.package import import_libero, quiet

    import_libero()
    import libero.libero

    libero.libero._assets_path_cache = assets
    with quiet():
        side: Any = {"reference": Reference, "ours": Ours}[kind](suite, index, assets)
    while True:
        name, *arguments = pipe.recv()
        if name == "memory":
            pipe.send(memory())
        elif name == "stop":
            side.close()
            return
        else:
            with quiet():
                start = time.process_time()
                getattr(side, name)(*arguments)
                pipe.send(time.process_time() - start)


def memory() -> dict[str, float]:
    """MiB of this process now: resident, and the part no other worker shares."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    kib = {line.split()[0].rstrip(":"): int(line.split()[1]) for line in lines}
    return {"memory": kib["Rss"] / 1024, "of it private": kib["Anonymous"] / 1024}


def ask(pipe: Connection, *what: Any) -> Any:
    pipe.send(what)
    return pipe.recv()


def bench_task(suite: str, index: int, assets: str, steps: int, turns: int) -> dict[str, Any]:
    """All figures of one task."""
    context = multiprocessing.get_context("spawn")
    pipes, workers = {}, []
    for kind in ("reference", "ours"):
        pipes[kind], theirs = context.Pipe()
        worker = context.Process(
            target=serve, args=(theirs, kind, suite, index, assets), daemon=True
        )
        worker.start()
        workers.append(worker)
    took: dict[tuple[str, str], list[float]] = {}

    def turn(kind: str, what: str, *call: Any, each: int = 1) -> None:
        took.setdefault((kind, what), []).append(ask(pipes[kind], *call) / each)

    actions = scripted(steps)
    for k in range(turns):
        turn("reference", "reset", "reset", k)
        turn("ours", "reset", "reset", k + 1)
        turn("ours", "restore", "reset", 0)
        ask(pipes["reference"], "settle")
        for mode in TARGETS:
            ask(pipes["ours"], "settle")
            # the reference renders every step, whatever the policy looks at: fewer will do
            played = actions if mode == "no rendering" else actions[: max(CHUNK, steps // 3)]
            turn("reference", mode, "play", mode, played, each=len(played))
            turn("ours", mode, "play", mode, actions, each=steps)
    memory = {kind: ask(pipe, "memory") for kind, pipe in pipes.items()}
    for pipe, worker in zip(pipes.values(), workers, strict=True):
        pipe.send(("stop",))
        worker.join(20)
    return {
        "cpu": {key: float(np.median(values)) for key, values in took.items()},
        "memory": memory,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--assets", default="", help="folder of the published LIBERO assets")
    parser.add_argument("--tasks", nargs="+", default=TASKS, help="suite:index")
    parser.add_argument("--steps", type=int, default=72, help="control steps a turn")
    parser.add_argument("--turns", type=int, default=3)
    arguments = parser.parse_args()
    os.environ.setdefault("LP_NUM_THREADS", "0")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from vlaprune_bench.sim.assets import resolve_assets

    assets = str(resolve_assets(arguments.assets or "auto", "real").path)
    header = f"{'task':18} {'what':13} {'reference':>10} {'ours':>10} {'ratio':>7}"
    print(f"control steps and resets per CPU second, memory in MiB; assets: {assets}\n\n{header}")
    ratios: dict[str, list[float]] = {}
    for name in arguments.tasks:
        suite, index = name.split(":")
        found = bench_task(suite, int(index), assets, arguments.steps, arguments.turns)
        cpu = found["cpu"]
        rows = [(what, 1 / cpu["reference", what], 1 / cpu["ours", what]) for what in TARGETS]
        rows.append(("reset, new", 1 / cpu["reference", "reset"], 1 / cpu["ours", "reset"]))
        rows.append(("reset, known", 1 / cpu["reference", "reset"], 1 / cpu["ours", "restore"]))
        for what, reference, ours in rows:
            ratios.setdefault(what, []).append(ours / reference)
            print(f"{name:18} {what:13} {reference:10.2f} {ours:10.1f} {ours / reference:6.1f}x")
        for what, reference in found["memory"]["reference"].items():
            ours = found["memory"]["ours"][what]
            ratios.setdefault(what, []).append(ours / reference)
            print(f"{name:18} {what:13} {reference:10.0f} {ours:10.0f} {ours / reference:6.2f}x")
        sys.stdout.flush()
    print("\nmean over tasks")
    aims = {what: f"at least {ratio:g}x" for what, ratio in TARGETS.items()}
    aims |= {"reset, known": "at least 200 a second", "of it private": "at most 0.5x"}
    for what, values in ratios.items():
        target = f"  (aim: {aims[what]})" if what in aims else ""
        print(f"{'':18} {what:13} {'':10} {'':10} {np.mean(values):6.2f}x{target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
