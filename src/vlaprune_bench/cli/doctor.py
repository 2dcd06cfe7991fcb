"""vlaprune-doctor: what works on this machine, and the command that mends what does not.

Each line is ok, a warning (works, but something is missing or unlike the protocol) or a problem.
Exit code: 0 where all is ok, 1 with warnings, 2 with problems.
"""

from __future__ import annotations

import tyro

from vlaprune_bench.cli import command
from vlaprune_bench.doctor.checks import check_all


def doctor(quick: bool = False) -> None:
    """Check Python, packages, renderer, simulator, assets, GPU, hub, disk and memory.

    Args:
        quick: leave out what takes more than a few seconds: the simulator and its frames.
    """
    levels = check_all(quick)
    raise SystemExit(2 if "problem" in levels else 1 if "warning" in levels else 0)


def run(argv: list[str]) -> None:
    tyro.cli(doctor, prog="vlaprune-doctor", description=__doc__, args=argv)


main = command(run)

if __name__ == "__main__":
    main()
