"""Runs a toy sweep again and again, each time in a fork that is killed at a random moment.

    python -m tests.sweep.kill_server FOLDER KILLS

Prints how each fork ended; the episodes a run reported stand in FOLDER/reported.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

from tests.sweep import toys
from vlaprune_bench.rollout import display
from vlaprune_bench.store import write
from vlaprune_bench.sweep.run import run_sweep

TEXT = """
base: {task_ids: [0, 1, 2, 3, 4], trials: 20, max_steps: 16, pruner: static}
grid: {pruner.keep: [0.25, 0.5]}
"""


def run(folder: Path, seed: int) -> int:
    """One run in a fork: told apart by `seed`, some episodes fail, parts are merged often."""
    rng = random.Random(seed)
    reported = os.open(folder / "reported", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    act = toys.CountingPolicy.act

    def sometimes_failing(self, memory, observation, eef_poses):
        if rng.random() < 0.05:
            raise RuntimeError("bad luck")
        return act(self, memory, observation, eef_poses)

    toys.CountingPolicy.act = sometimes_failing
    write.Store.__init__.__defaults__ = (7,)  # merge_at
    show = display.Display.show

    def report(self, cell, row):
        show(self, cell, row)
        os.write(reported, f"{row.episode_id}\n".encode())

    display.Display.show = report
    with open(os.devnull, "w") as sys.stdout:
        return run_sweep(toys.toy_sweep(folder, TEXT), [], retry=seed % 5 == 4)


def main(folder: Path, kills: int) -> None:
    checkpoint = folder / "checkpoint"
    checkpoint.mkdir()
    toys.install(checkpoint)
    toys.write(folder, TEXT)
    random.seed(0)
    for attempt in range(kills):
        child = os.fork()
        if child == 0:
            os._exit(run(folder, attempt))
        time.sleep(random.uniform(0.02, 0.2))
        os.kill(child, signal.SIGKILL)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    child = os.fork()
    if child == 0:
        os._exit(run(folder, 3))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
