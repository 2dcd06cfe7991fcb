"""vlaprune-report: tables from a results folder.

vlaprune-report results/runs
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from vlaprune_bench.cli import command


def report(results: Annotated[Path, tyro.conf.Positional]) -> None:
    """Print success rates and costs of a results folder.

    Args:
        results: a folder that vlaprune-eval wrote.
    """
    from rich.console import Console

    from vlaprune_bench.report.tables import summarise, summary_table
    from vlaprune_bench.store import load_results

    episodes = load_results(results)
    console = Console()
    console.print(summary_table(summarise(episodes)))
    for warning in sorted({w for row in episodes.warnings for w in row}):
        console.print(f"[yellow]warning:[/] {warning}")


def run(argv: list[str]) -> None:
    tyro.cli(report, prog="vlaprune-report", args=argv)


main = command(run)
