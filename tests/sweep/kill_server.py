"""Runs a toy sweep again and again, each time in a fork that is killed at a random moment.

    python -m tests.sweep.kill_server FOLDER KILLS [WORKERS]

With workers, two of those are killed before each fork is. Prints how each fork ended, "worker" for
each of those killed, and "orphan" for each that outlived its fork; the episodes a run reported
stand in FOLDER/reported.
"""

import os
import random
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

from tests.fakes import LOADED, FakeLauncher, FakePolicy, FakePool
from tests.rollout import fake_sim
from tests.sweep import toys
from vlaprune_bench.store import write

TEXT = """
base: {task_ids: [0, 1, 2, 3, 4], trials: 20, max_steps: 16, pruner: static}
grid: {pruner.keep: [0.25, 0.5]}
"""


class Launcher(FakeLauncher):
    """Notes its workers and the episodes that were written; some episodes fail."""

    def __init__(self, folder: Path, seed: int, workers: int):
        pids = os.open(folder / "pids", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        self._reported = os.open(folder / "reported", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        rng = random.Random(seed)

        def sometimes_failing(method, memory):
            if rng.random() < (0.01 if workers else 0.05):
                raise RuntimeError("bad luck")

        super().__init__(
            lambda: FakePolicy(sometimes_failing),
            FakePool(after_start=lambda process: os.write(pids, f"{process.pid}\n".encode())),
            loaded=replace(LOADED, checkpoint=folder / "checkpoint"),
        )

    def run(self, *args):
        for done in super().run(*args):
            yield done
            os.write(self._reported, f"{done[1].episode_id}\n".encode())


def run(folder: Path, seed: int, workers: int) -> int:
    """One run in a fork: told apart by `seed`, some episodes fail, parts are merged often."""
    write.Store.__init__.__defaults__ = (7,)  # merge_at
    fake_sim.install()
    with open(os.devnull, "w") as sys.stdout:
        sweep = toys.toy_sweep(folder, TEXT, workers=workers)
        return toys.run_sweep(sweep, Launcher(folder, seed, workers), retry=seed % 5 == 4)


def kill_workers(folder: Path, run: int) -> int:
    """Kill two workers of a run (its process id) at random moments; returns how many there were."""
    killed = 0
    while killed < 2 and not gone(run):
        time.sleep(random.uniform(0.02, 0.3))
        pids = [int(pid) for pid in (folder / "pids").read_text().split()]
        alive = [pid for pid in pids if not gone(pid)]
        if alive:
            os.kill(random.choice(alive), signal.SIGKILL)
            print("worker", flush=True)
            killed += 1
    return killed


def gone(pid: int) -> bool:
    """Whether a process has ended (one that nobody has reaped yet has)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def look_for_orphans(folder: Path) -> None:
    for pid in (folder / "pids").read_text().split():
        left = 500
        while not gone(int(pid)) and left:
            left -= 1
            time.sleep(0.02)
        if not left:
            print("orphan", flush=True)


def main(folder: Path, kills: int, workers: int = 0) -> None:
    (folder / "checkpoint").mkdir()
    random.seed(0)
    attempt, killed = 0, 0
    while killed < kills:
        (folder / "pids").write_text("")
        child = os.fork()
        if child == 0:
            os._exit(run(folder, attempt, workers))
        if workers:
            killed += kill_workers(folder, child)
        time.sleep(random.uniform(0.02, 0.2))
        os.kill(child, signal.SIGKILL)
        end = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(end, flush=True)
        killed += end == -signal.SIGKILL
        attempt += 1
        look_for_orphans(folder)
    child = os.fork()
    if child == 0:
        os._exit(run(folder, 3, workers))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
