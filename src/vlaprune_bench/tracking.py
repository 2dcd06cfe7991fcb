"""A Weights & Biases mirror of the episode rows, or nothing.

The parquet is the record. Whatever goes wrong here is said once and stops no run; rows that were
not mirrored are in the results folder like all others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from vlaprune_bench.config import EvalConfig, run_id, to_dict
from vlaprune_bench.types import EpisodeRow

INIT_S = 30.0
"""Wait so long for a run to be made."""
FINISH_S = 60.0
"""Wait so long for the last rows to be uploaded; `wandb sync` uploads what is left."""


class Tracker:
    """Mirrors rows of configurations that ask for it (`wandb: true`), one run for each.

    A run's id is its configuration's (`run_id`), so a command that goes on goes on with its run.
    `WANDB_MODE=offline` works without a network. Use as a context manager.

    Args:
        warn: is told what went wrong, once.
    """

    def __init__(self, warn: Callable[[str], None]) -> None:
        self.runs: dict[EvalConfig, Any] = {}
        self._warn = warn
        self._failed = False

    def log(self, config: EvalConfig, row: EpisodeRow) -> None:
        """Mirror one episode: its numbers as a step, its status beside them."""
        if not config.tracking.wandb or self._failed:
            return
        try:
            if config not in self.runs:
                self.runs[config] = _start(config)
            kinds = bool | int | float
            numbers = {k: float(v) for k, v in asdict(row).items() if isinstance(v, kinds)}
            self.runs[config].log({**numbers, "status": str(row.status)})
        except Exception as error:  # noqa: BLE001 - a mirror stops no run
            self._give_up(error)

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        try:
            while self.runs:
                self.runs.popitem()[1].finish(exit_code=0 if kind is None else 1)
        except Exception as error:  # noqa: BLE001 - a mirror stops no run
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        if self._failed:
            return
        self._failed = True
        why = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".")
        self._warn(
            f"Weights & Biases: {why}; no more rows are mirrored there, the results folder has all"
        )


def _start(config: EvalConfig) -> Any:
    """The run of a configuration, made or gone on with."""
    import wandb

    folder = config.storage.output / "_wandb"
    folder.mkdir(parents=True, exist_ok=True)
    wandb.setup(wandb.Settings(silent=True))  # a silent one does not ask for a key either
    run = wandb.init(
        project=config.tracking.wandb_project,
        entity=config.tracking.wandb_entity,
        group=config.tracking.wandb_group,
        id=run_id(config),
        name=f"{config.what.pruner.name}-{config.what.suite}-{run_id(config)}",
        config=to_dict(config),
        dir=folder,
        resume="allow",
        reinit="create_new",  # of many cells at once
        settings=wandb.Settings(
            console="off",
            x_disable_stats=True,
            init_timeout=INIT_S,
            finish_timeout=FINISH_S,
            finish_timeout_raises=True,
        ),
    )
    run.define_metric("success", summary="mean")
    return run
