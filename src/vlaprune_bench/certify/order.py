"""Candidates, from the mildest to the boldest: an order of cost that is fixed before any data."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlaprune_bench.certify.terms import Terms, with_keep
from vlaprune_bench.config import EvalConfig, method_options
from vlaprune_bench.types import UserError

BY_FLOPS = "keep ratio: by arithmetic the FLOPs of a pruned call fall with it, all else equal"


@dataclass(frozen=True)
class Candidate:
    """A setting to certify."""

    config: EvalConfig
    cost: float | None
    """What it is ordered by; None: it is the only one."""

    @property
    def label(self) -> str:
        """Method and keep ratio."""
        pruner = self.config.what.pruner
        return pruner.name + ("" if pruner.keep_ratio is None else f" {pruner.keep_ratio:g}")


def candidates(config: EvalConfig, terms: Terms) -> tuple[list[Candidate], str]:
    """The candidates of a certificate, and what orders them.

    Raises:
        UserError: they have no order of cost.
    """
    found = [with_keep(config, keep) for keep in terms.keeps] or [config]
    if len(set(terms.keeps)) < len(terms.keeps):
        raise UserError(
            f"--keeps is {' '.join(f'{k:g}' for k in terms.keeps)}; each may be named once: equal "
            "candidates have no order of cost."
        )
    if terms.profile is not None:
        costs = [_latency(terms.profile, one) for one in found]
        basis = "median latency of a pruned call, ms, by vlaprune-profile"
        if len(set(costs)) < len(costs):
            raise UserError(
                f"--profile is {terms.profile}; two candidates cost the same there, so they have "
                "no order of cost."
            )
        ranked = sorted(zip(costs, found, strict=True), key=lambda pair: -pair[0])
        return [Candidate(one, cost) for cost, one in ranked], basis
    if not terms.keeps:
        return [Candidate(config, None)], "one candidate"
    found.sort(key=lambda one: -(_keep(one)))
    return [Candidate(one, _keep(one)) for one in found], BY_FLOPS


def _keep(config: EvalConfig) -> float:
    keep = config.what.pruner.keep_ratio
    assert keep is not None
    return keep


def _latency(folder: Path, config: EvalConfig) -> float:
    """What a profile measured for a candidate, ms: the newest row."""
    import pyarrow.parquet as pq

    pruner = config.what.pruner
    rows: list[dict[str, Any]] = []
    for path in sorted(folder.glob("*.parquet")) if folder.is_dir() else [folder]:
        try:
            rows += pq.read_table(path).to_pylist()
        except (OSError, ValueError) as error:
            why = " ".join(str(error).split()).rstrip(".")
            raise UserError(f"--profile is {folder}; {path.name} cannot be read: {why}.") from error
    own = [
        row
        for row in rows
        if row.get("method") == pruner.name
        and json.loads(row["method_options"]) == method_options(pruner)
        and row.get("latency_total_p50_ms") is not None
    ]
    if not own:
        label = Candidate(config, None).label
        raise UserError(
            f"--profile is {folder}; it has no row of {label} with these options, so candidates "
            f"have no order of cost: vlaprune-profile --methods {pruner.name} measures it."
        )
    return float(max(own, key=lambda row: row["started_at"])["latency_total_p50_ms"])
