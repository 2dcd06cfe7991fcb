"""A small sweep on stand-ins of model and simulator."""

from dataclasses import replace

from vlaprune_bench.rollout.runner import run_cells
from vlaprune_bench.sweep.file import load_sweep

FILE = """
base: {task_ids: [0, 2], trials: 3, max_steps: 16, pruner: static}
grid: {pruner.keep: [0.25, 0.5]}
"""


def write(folder, text=FILE):
    path = folder / "toy.yaml"
    path.write_text(text)
    return path


def toy_sweep(folder, text=FILE, **overrides):
    # in this process: what is patched here does not reach others
    fixed = {"output": str(folder / "out"), "workers": 0}
    sweep = load_sweep(write(folder, text), overrides={**fixed, **overrides})
    return replace(sweep, name="toy")


def run_sweep(sweep, launcher, **options):
    """The exit code."""
    return run_cells(sweep.cells, ["vlaprune-sweep", "run"], launcher=launcher, **options).code
