"""A simulator without MuJoCo that fails on demand, and a worker process that runs it.

    python -m tests.rollout.fake_sim FD     # instead of vlaprune_bench.rollout.worker

Its faults stand in the environment variable FAKE_FAULTS: JSON, "task:trial:step" to what happens
there; step "reset" is the reset, and the key "start" is the process. FAKE_DRIFT changes its scenes,
FAKE_DRIVER its frames.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import resource
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from vlaprune_bench.types import Observation, UserError

FAULTS = "FAKE_FAULTS"


def hang():
    """Native code that never comes back and keeps the interpreter's lock."""
    ctypes.PyDLL(None).sleep(3600)


def run_out_of_memory():
    """What a limit on the address space does to a worker that grows."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + 2**26
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    np.ones(2**27)


def complain():
    raise UserError("--assets is nowhere; give a folder.")


def fail():
    raise RuntimeError("qpos is not finite")


def leave():
    print("native code: out of luck", file=sys.stderr, flush=True)
    os._exit(3)


DO = {
    "hang": hang,
    "memory": run_out_of_memory,
    "segfault": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "complain": complain,
    "fail": fail,
    "leave": leave,
}


class FakeTask:
    """Stands in for LiberoTask: a hand in a scene of its own for each (task, trial)."""

    sim, self_check = "fast", "passed"

    def __init__(self, key):
        self.task, self.name = key.task, f"task_{key.task}"
        self.instruction = f"do task {key.task}"
        self.init_state_hash = self.scene_hash = self.frames_hash = None
        self._faults = json.loads(os.environ.get(FAULTS, "{}"))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def fingerprint(self, trial):
        text = f"{self.task} {trial} {os.environ.get('FAKE_DRIFT')}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def reset(self, trial):
        self.trial, self.steps = trial, 0
        self._fault("reset")
        self.init_state_hash, self.scene_hash = f"{trial:x}", self.fingerprint(trial)
        self.frames_hash = os.environ.get("FAKE_DRIVER", "driver") + str(trial)
        self.position = np.array([self.task, trial, 0.0])
        return self._see(True)

    def step(self, action, look):
        self._fault(self.steps)
        self.steps += 1
        self.position = self.position + action[:3]
        return self._see(look), bool(self.position[2] > 3)

    def _fault(self, step):
        what = self._faults.get(f"{self.task}:{self.trial}:{step}")
        if what:
            DO[what]()

    def _see(self, look):
        images = np.zeros((2, 8, 8, 3), np.uint8) if look else None
        return Observation(self.position, np.array([0.0, 0, 0, 1]), np.zeros(2), images)


def install():
    """Put it where a worker looks for the simulator, in this process."""
    sys.modules["vlaprune_bench.sim.libero"] = SimpleNamespace(LiberoTask=FakeTask)


if __name__ == "__main__":
    install()
    from vlaprune_bench.rollout.worker import main

    start = json.loads(os.environ.get(FAULTS, "{}")).get("start")
    if start:
        DO[start]()
    main(sys.argv)
