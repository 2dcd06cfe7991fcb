"""The short table a run prints at its end, one row per checkpoint, suite and method."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from vlaprune_bench.config import flatten
from vlaprune_bench.measure.stats import wilson
from vlaprune_bench.report.table import si

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table


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
    """`summarise`'s rows for the terminal; what all rows share stands in the title.

    Options in which rows of one method differ have a column each, beside keep.
    """
    from rich import box
    from rich.table import Table

    names = ["checkpoint", "suite", "assets", "method"]
    shared = [name for name in names if summary[name].nunique() == 1]
    title = ", ".join(str(summary[name].iloc[0]) for name in shared)
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.caption = "success: 95 % Wilson interval; costs are per policy call"
    for name in (name for name in names if name not in shared):
        table.add_column(name, overflow="fold", no_wrap=name == "method")
    options = _varying_options(summary)
    columns = list(dict.fromkeys(name for row in options for name in row))
    for name in columns:
        table.add_column(name.replace("_", "_\n"), justify="right", no_wrap=True)
    for name in ("keep", "episodes", "success", "pruned\ncalls", "visual\ntokens", "FLOPs", "p50"):
        table.add_column(name, justify="right", no_wrap=True)
    for row, own in zip(summary.to_dict("records"), options, strict=True):
        errors = f" + {row['errors']} errors" if row["errors"] else ""
        table.add_row(
            *(row[name] for name in names if name not in shared),
            *(own.get(name, "") for name in columns),
            "" if math.isnan(row["keep"]) else f"{row['keep']:g}",
            f"{row['episodes']}{errors}",
            _rate(row) if row["episodes"] else "",
            f"{row['pruned_calls']:.0%}",
            f"{row['visual_tokens']:.0f}",
            si(row["total_tflops"] * 1e12),
            "" if math.isnan(row["latency_p50_ms"]) else f"{row['latency_p50_ms']:.0f} ms",
        )
    return table


def _varying_options(summary: pd.DataFrame) -> list[dict[str, str]]:
    """For each row the options, by their last name, in which rows of its method differ."""
    flat = [flatten(json.loads(text)) for text in summary.method_options]
    rows = list(zip(summary.method, flat, strict=True))
    found = []
    for method, own in rows:
        alike = [options for name, options in rows if name == method]
        differ = [k for k in own if k != "keep" and len({repr(o.get(k)) for o in alike}) > 1]
        found.append({name.rsplit(".", 1)[-1]: str(own[name]) for name in differ})
    return found


def _rate(row: dict[Any, Any]) -> str:
    low, high = row["success_low"], row["success_high"]
    return f"{row['success_rate']:.0%} [{100 * low:.0f}, {100 * high:.0f}]"
