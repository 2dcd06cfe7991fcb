"""Tables of results."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table


def wilson(successes: int, trials: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """Wilson's score interval of a success rate (95 % by default).

    Source: Wilson, JASA 22 (1927).

    Returns:
        Lower and upper bound, fractions of 1; (nan, nan) without trials.
    """
    if trials == 0:
        return math.nan, math.nan
    p = successes / trials
    scale = 1 / (1 + z**2 / trials)
    centre = scale * (p + z**2 / (2 * trials))
    half = scale * z * math.sqrt(p * (1 - p) / trials + z**2 / (4 * trials**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def summarise(episodes: pd.DataFrame) -> pd.DataFrame:
    """One row per checkpoint, suite and method with its options.

    Success rate counts the episodes with status ok; errors and timeouts have a column of their
    own and are no failures of the policy.

    Args:
        episodes: as `store.load_results` gives them.

    Returns:
        Columns checkpoint, suite, assets, method, keep, options, episodes, errors, success_rate
        with its interval (fractions), pruned_calls (fraction), visual_tokens, llm_prefill_tmacs,
        total_tflops (per call), latency_p50_ms.
    """
    import pandas as pd

    keys = ["checkpoint", "suite", "assets", "method", "keep", "method_options"]
    rows = []
    for key, group in episodes.groupby(keys, dropna=False, sort=True):
        ok = group[group.status == "ok"]
        successes = int(ok.success.sum())
        low, high = wilson(successes, len(ok))
        weights = group.calls / group.calls.sum()
        rows.append(
            {
                **dict(zip(keys, key, strict=True)),
                "episodes": len(ok),
                "errors": len(group) - len(ok),
                "success_rate": successes / len(ok) if len(ok) else math.nan,
                "success_low": low,
                "success_high": high,
                "pruned_calls": (group.pruned_call_fraction * weights).sum(),
                "visual_tokens": (group.visual_tokens_kept_mean * weights).sum(),
                "llm_prefill_tmacs": (group.llm_prefill_macs_mean * weights).sum() / 1e12,
                "total_tflops": (group.total_flops_mean * weights).sum() / 1e12,
                "latency_p50_ms": group.latency_p50_ms.median(),
            }
        )
    return pd.DataFrame(rows)


def summary_table(summary: pd.DataFrame) -> Table:
    """`summarise`'s rows for the terminal."""
    from rich.table import Table

    table = Table(title="success rate with its 95 % Wilson interval; cost per policy call")
    for name in ("checkpoint", "suite", "assets", "method", "keep"):
        table.add_column(name)
    for name in ("episodes", "errors", "success", "pruned calls", "visual tokens", "FLOPs", "p50"):
        table.add_column(name, justify="right")
    for row in summary.to_dict("records"):
        table.add_row(
            row["checkpoint"],
            row["suite"],
            row["assets"],
            row["method"],
            "" if math.isnan(row["keep"]) else f"{row['keep']:g}",
            str(row["episodes"]),
            str(row["errors"]),
            f"{row['success_rate']:.0%} [{row['success_low']:.0%}, {row['success_high']:.0%}]"
            if row["episodes"]
            else "",
            f"{row['pruned_calls']:.0%}",
            f"{row['visual_tokens']:.0f}",
            f"{_si(row['total_tflops'] * 1e12)}",
            f"{row['latency_p50_ms']:.0f} ms",
        )
    return table


def _si(flops: float) -> str:
    for unit, scale in (("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if flops >= scale:
            return f"{flops / scale:.3g} {unit}"
    return f"{flops:.0f}"
