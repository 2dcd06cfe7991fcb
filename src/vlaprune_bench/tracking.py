"""A Weights & Biases mirror of the episode rows, or nothing."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from vlaprune_bench.config import EvalConfig, run_id, to_dict
from vlaprune_bench.types import EpisodeRow


class Tracker:
    """Mirrors rows where `--wandb` asks for it; the parquet stays the record.

    Use as a context manager. `WANDB_MODE=offline` works without a network.
    """

    def __init__(self, config: EvalConfig) -> None:
        self.run: Any = None
        if config.wandb:
            import wandb

            self.run = wandb.init(
                project=config.wandb_project,
                name=f"{config.pruner.name}-{config.suite}-{run_id(config)}",
                config=to_dict(config),
            )

    def log(self, row: EpisodeRow) -> None:
        """Mirror one episode: its numbers as a step, status and success included."""
        if self.run is not None:
            numbers = {k: v for k, v in asdict(row).items() if isinstance(v, bool | int | float)}
            self.run.log({**numbers, "status": row.status})

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        if self.run is not None:
            self.run.finish(exit_code=0 if kind is None else 1)
