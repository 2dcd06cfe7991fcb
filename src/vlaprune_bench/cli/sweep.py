"""vlaprune-sweep: plan and run the cells of a sweep file, and only what is missing of them.

    vlaprune-sweep plan configs/sweeps/lookback.yaml
    vlaprune-sweep run configs/sweeps/lookback.yaml --smoke
    vlaprune-sweep status configs/sweeps/lookback.yaml
    vlaprune-sweep retry-errors configs/sweeps/lookback.yaml

The results folder is the state: the same command again goes on where the last one stopped.
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from vlaprune_bench.cli import command
from vlaprune_bench.config import OPTIONS, EvalConfig, nearest, to_dict
from vlaprune_bench.files import expand_paths
from vlaprune_bench.pruning import load_plugin
from vlaprune_bench.types import UserError

if TYPE_CHECKING:
    from vlaprune_bench.sweep.ray import RayLauncher

Action = Literal["plan", "run", "status", "retry-errors"]


@dataclass(frozen=True)
class Launching:
    """Where episodes run."""

    launcher: Literal["local", "ray"] = "local"
    """Where episodes run: on this machine, or on a Ray cluster."""
    address: str | None = None
    """The Ray cluster's: auto (of this node), HOST:PORT, or local (this machine alone)."""

    def open(self, plugin: Path | None) -> AbstractContextManager[RayLauncher | None]:
        """The cluster asked for, or None for this machine; `plugin` is sent to its nodes."""
        if self.launcher == "local":
            if self.address is not None:
                raise UserError(
                    f"--address is {self.address}; it is read with --launcher ray alone."
                )
            return nullcontext()
        from vlaprune_bench.sweep.ray import RayLauncher

        return RayLauncher(self.address or "auto", plugin)


@dataclass(frozen=True)
class SweepOptions:
    """What to do with a sweep."""

    action: Annotated[Action, tyro.conf.Positional]
    """plan (print it), run (what is missing), status, or retry-errors (those alone)."""
    file: Annotated[Path, tyro.conf.Positional]
    """The sweep's YAML file."""
    smoke: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """The sweep's small form: minutes, with the embedded checkpoint."""
    plugin: Path | None = None
    """Python file that registers your own method."""

    def __post_init__(self) -> None:
        expand_paths(self)


@dataclass(frozen=True)
class CommandLine:
    """A sweep, and options of an evaluation that win over the file's in every cell."""

    sweep: SweepOptions
    launching: Launching = Launching()
    run: EvalConfig = EvalConfig()


def parse(argv: list[str]) -> tuple[SweepOptions, Launching, dict[str, Any]]:
    """argv to what is asked, where it runs, and the options of the evaluation that were given.

    Raises:
        UserError: an unknown option.
    """
    parsed: Any
    parsed, unknown = tyro.cli(
        CommandLine,
        prog="vlaprune-sweep",
        description=__doc__,
        args=argv,
        config=(tyro.conf.OmitArgPrefixes,),
        return_unknown_args=True,
    )
    if unknown:
        own = [*fields(SweepOptions)[2:], *fields(Launching)]
        names = [*(f.name for f in own), *OPTIONS]
        known = [f"--{name.replace('_', '-')}" for name in names if name != "pruner"]
        raise UserError(f"unknown option {unknown[0]}{nearest(unknown[0], known)}.")
    values = to_dict(parsed.run)
    given = {name: values[name] for name in values if _is_given(name, argv)}
    return parsed.sweep, parsed.launching, given


def _is_given(option: str, argv: list[str]) -> bool:
    flags = (arg.split("=", 1)[0].replace("_", "-") for arg in argv)
    name = option.replace("_", "-")
    return any(flag in (f"--{name}", f"--no-{name}") for flag in flags)


def run(argv: list[str]) -> None:
    asked, launching, overrides = parse(argv)
    if asked.plugin is not None:
        load_plugin(asked.plugin)
    from vlaprune_bench.sweep.file import load_sweep

    sweep = load_sweep(asked.file, smoke=asked.smoke, overrides=overrides)
    if asked.action in ("plan", "status"):
        from rich.console import Console

        from vlaprune_bench.store import holder
        from vlaprune_bench.sweep.plan import make_plan, show, show_status

        plan = make_plan(sweep)
        if asked.action == "plan":
            show(plan, Console())
        else:
            show_status(plan, holder(plan.folder), Console())
        return
    from vlaprune_bench.report.summary import show_summary
    from vlaprune_bench.rollout.runner import run_cells

    retry = asked.action == "retry-errors"
    with launching.open(asked.plugin) as launcher:
        outcome = run_cells(sweep.cells, ["vlaprune-sweep", *argv], retry=retry, launcher=launcher)
    show_summary(sweep.folder, outcome.asked)
    raise SystemExit(outcome.code)


main = command(run)

if __name__ == "__main__":
    sys.exit(main())
