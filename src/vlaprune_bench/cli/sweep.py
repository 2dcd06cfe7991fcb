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
from vlaprune_bench.config import nearest
from vlaprune_bench.pruning import load_plugin
from vlaprune_bench.types import UserError

if TYPE_CHECKING:
    from vlaprune_bench.sweep.ray import RayLauncher

Action = Literal["plan", "run", "status", "retry-errors"]


@dataclass(frozen=True)
class CommandLine:
    """What to do with a sweep; options here win over the file's in every cell."""

    action: Annotated[Action, tyro.conf.Positional]
    """plan (print it), run (what is missing), status, or retry-errors (those alone)."""
    file: Annotated[Path, tyro.conf.Positional]
    """The sweep's YAML file."""
    smoke: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """The sweep's small form: minutes, with the embedded checkpoint."""
    plugin: Path | None = None
    """Python file that registers your own method."""
    output: Path | None = None
    """Results folder; by default results/sweeps/NAME (results/smoke/NAME with --smoke)."""
    checkpoint: str | None = None
    """A folder, a Hugging Face hub id, or an embedded one."""
    trials: int | None = None
    """Trials per task."""
    task_ids: tuple[int, ...] | None = None
    """Tasks of the suite to run, from 0."""
    max_steps: int | None = None
    """Control steps per episode."""
    device: str | None = None
    """cpu, cuda, cuda:N or auto."""
    dtype: str | None = None
    """float32, bfloat16, float16 or auto."""
    assets: str | None = None
    """Simulator assets: real, lite, a folder, or auto."""
    workers: int | Literal["auto"] | None = None
    """Simulator processes beside the policy's, or auto; 0: in its own process."""
    batch: int | None = None
    """Episodes a policy call may serve; latency is a claim only at 1."""
    episode_timeout: float | None = None
    """Seconds a simulator may be silent before its episode ends with status timeout."""
    launcher: Literal["local", "ray"] = "local"
    """Where episodes run: on this machine, or on a Ray cluster."""
    address: str | None = None
    """The Ray cluster's: auto (of this node), HOST:PORT, or local (this machine alone)."""
    wandb: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Mirror episode rows to Weights & Biases: one run per cell, grouped by the file's name."""
    wandb_project: str | None = None
    """Project name on Weights & Biases."""
    wandb_entity: str | None = None
    """User or team on Weights & Biases."""

    @property
    def overrides(self) -> dict[str, Any]:
        """Options of the evaluation that were given."""
        own = ("action", "file", "smoke", "plugin", "launcher", "address")
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in own}
        plain = {k: str(v) if isinstance(v, Path) else v for k, v in values.items()}
        return {
            k: list(v) if isinstance(v, tuple) else v
            for k, v in plain.items()
            if v is not None and v is not False
        }


def parse(argv: list[str]) -> CommandLine:
    """argv to what is asked.

    Raises:
        UserError: an unknown option.
    """
    parsed: Any
    parsed, unknown = tyro.cli(
        CommandLine,
        prog="vlaprune-sweep",
        description=__doc__,
        args=argv,
        return_unknown_args=True,
    )
    if unknown:
        known = [f"--{f.name.replace('_', '-')}" for f in fields(CommandLine)[2:]]
        raise UserError(f"unknown option {unknown[0]}{nearest(unknown[0], known)}.")
    return parsed


def run(argv: list[str]) -> None:
    asked = parse(argv)
    if asked.plugin is not None:
        load_plugin(asked.plugin)
    from vlaprune_bench.sweep.file import load_sweep

    sweep = load_sweep(asked.file, smoke=asked.smoke, overrides=asked.overrides)
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
    from vlaprune_bench.sweep.run import run_sweep

    with _launcher(asked) as launcher:
        code = run_sweep(
            sweep,
            ["vlaprune-sweep", *argv],
            retry=asked.action == "retry-errors",
            launcher=launcher,
        )
    raise SystemExit(code)


def _launcher(asked: CommandLine) -> AbstractContextManager[RayLauncher | None]:
    """The cluster asked for, or None for this machine."""
    if asked.launcher == "local":
        if asked.address is not None:
            raise UserError(f"--address is {asked.address}; it is read with --launcher ray alone.")
        return nullcontext()
    from vlaprune_bench.sweep.ray import RayLauncher

    return RayLauncher(asked.address or "auto", asked.plugin)


main = command(run)

if __name__ == "__main__":
    sys.exit(main())
