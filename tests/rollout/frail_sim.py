"""A worker with the real simulator, whose GL context dies in the midst of one episode.

python -m tests.rollout.frail_sim FD     # instead of vlaprune_bench.rollout.worker
"""

import sys

from vlaprune_bench.rollout.worker import main
from vlaprune_bench.sim.libero import LiberoTask

DIES = (1, 0, 9)
"""Task, trial and step before which it does."""

step = LiberoTask.step


def frail(self, action, look):
    if (self.task, self._trial, self.steps) == DIES:
        self._environment.env.env.sim._render_context_offscreen.gl_ctx.free()
    return step(self, action, look)


def reset(self, trial, _reset=LiberoTask.reset):
    self._trial = trial
    return _reset(self, trial)


if __name__ == "__main__":
    LiberoTask.step, LiberoTask.reset = frail, reset
    main(sys.argv)
