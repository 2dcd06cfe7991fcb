"""Run a sweep: what is missing of its cells, in its results folder."""

from __future__ import annotations

from collections.abc import Sequence

from vlaprune_bench.rollout.launcher import Launcher
from vlaprune_bench.rollout.runner import run_cells
from vlaprune_bench.sweep.file import Sweep
from vlaprune_bench.sweep.plan import one_folder


def run_sweep(
    sweep: Sweep,
    command_line: Sequence[str],
    *,
    retry: bool = False,
    launcher: Launcher | None = None,
) -> int:
    """Run a sweep, or its failed episodes again.

    Args:
        sweep: expanded.
        command_line: kept beside the configurations.
        retry: run those that failed, and only those.
        launcher: where episodes run; by default on this machine.

    Returns:
        Exit code: 0, 1 where an episode ended in an error, 130 after Ctrl-C.

    Raises:
        UserError: something the user can put right.
    """
    one_folder(sweep.cells)
    return run_cells(sweep.cells, command_line, retry=retry, whole_folder=False, launcher=launcher)
