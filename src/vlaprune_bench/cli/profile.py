"""vlaprune-profile: speed, memory and FLOPs of pruning methods on fixed inputs.

    vlaprune-profile
    vlaprune-profile --shape openvla-oft-7b --methods static adp fastv --keeps 0.5 0.25

Methods are called in turn with none, in one process and at batch size 1; the first rounds are
warm-up. Needs no simulator. Gains are those of calls that pruned.
"""

from __future__ import annotations

import sys
from dataclasses import field, make_dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from vlaprune_bench.cli import command
from vlaprune_bench.cli.eval import peek
from vlaprune_bench.profile.config import ProfileConfig
from vlaprune_bench.profile.run import profile
from vlaprune_bench.profile.table import gain_table, stage_table, warnings
from vlaprune_bench.pruning import load_plugin, methods


def parse(argv: list[str]) -> ProfileConfig:
    """argv to configuration.

    Raises:
        UserError: a value that cannot be.
    """
    plugin = peek(argv, "--plugin")
    if plugin is not None:
        load_plugin(Path(plugin))
    about = f"Python file that registers your own method. Methods: {', '.join(methods())}."
    command_line = make_dataclass(
        "CommandLine",
        [
            ("run", ProfileConfig, field(default=ProfileConfig())),
            ("plugin", Annotated[Path | None, tyro.conf.arg(help=about)], field(default=None)),
        ],
    )
    parsed: Any = tyro.cli(
        command_line,
        prog="vlaprune-profile",
        description=__doc__,
        args=argv,
        config=(tyro.conf.OmitArgPrefixes,),
    )
    return parsed.run


def run(argv: list[str]) -> None:
    config = parse(argv)
    config.pruners()  # an unknown method is told before anything heavy is imported
    from rich.console import Console

    console = Console()
    with console.status("") as status:
        rows = profile(config, tick=status.update)
    console.print(gain_table(rows), stage_table(rows))
    for warning in warnings(rows):
        console.print(f"[yellow]warning:[/] {warning}")
    console.print(f"rows are in {config.output / f'profile-{rows[0].profile_id}.parquet'}")


main = command(run)

if __name__ == "__main__":
    sys.exit(main())
