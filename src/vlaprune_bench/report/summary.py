"""What a run prints at its end: a short table, one row per cell and suite, and where things lie."""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlaprune_bench.measure.stats import wilson
from vlaprune_bench.report.cells import gather, mean_over_calls, usual
from vlaprune_bench.report.table import si

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table


LOG_WIDTH = 160
"""Columns of a table that goes to a file or a pipe."""


def show_summary(folder: Path, ids: Collection[str] | None = None) -> None:
    """Print the table over what a results folder holds, and where things lie.

    Args:
        folder: of the results.
        ids: of these episodes alone; None: of all.
    """
    from rich.console import Console

    from vlaprune_bench.store import load_results, read_episodes

    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, LOG_WIDTH)
    there = set(read_episodes(folder, ["episode_id"])[0]["episode_id"].to_pylist())
    if not (there if ids is None else there & set(ids)):
        console.print(f"no episode was finished; {folder} has none of them", soft_wrap=True)
        return
    rows = load_results(folder)
    if ids is not None:
        rows = rows[rows.episode_id.isin(list(ids))]
    console.print(summary_table(summarise(rows)))
    lines = [f"parquet: {folder} (vlaprune_bench.load_results reads the folder)"]
    videos = sorted((folder / "_videos").glob("[!.]*.mp4"))
    if videos:
        lines.append(f"video: {videos[0]}" + f" and {len(videos) - 1} more" * (len(videos) > 1))
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True, markup=False)


def summarise(episodes: pd.DataFrame) -> pd.DataFrame:
    """One row per cell of the report and suite.

    Success rate counts the episodes with status ok; errors and timeouts have a column of their
    own and are no failures of the policy.

    Args:
        episodes: as `store.load_results` gives them.

    Returns:
        The parts of the setting, then columns suite, method, keep, options, episodes, errors,
        success_rate with its interval (fractions), pruned_calls (fraction), visual_tokens,
        llm_prefill_tmacs, total_tflops (per call), latency_p50_ms.
    """
    import pandas as pd

    results = gather(episodes)
    rows = []
    for cell in results.cells:
        for suite, group in results.episodes_of(cell).groupby("suite", sort=True):
            ok = group[group.status == "ok"]
            successes = int(ok.success.sum())
            low, high = wilson(successes, len(ok))
            rows.append(
                {
                    **cell.setting,
                    "suite": suite,
                    "method": cell.method,
                    "keep": cell.keep,
                    "options": cell.varying,
                    "episodes": len(ok),
                    "errors": len(group) - len(ok),
                    "success_rate": successes / len(ok) if len(ok) else math.nan,
                    "success_low": low,
                    "success_high": high,
                    "pruned_calls": mean_over_calls(group, "pruned_call_fraction"),
                    "visual_tokens": mean_over_calls(group, "visual_tokens_kept_mean"),
                    "llm_prefill_tmacs": mean_over_calls(group, "llm_prefill_macs_mean") / 1e12,
                    "total_tflops": mean_over_calls(group, "total_flops_mean") / 1e12,
                    "latency_p50_ms": group.latency_p50_ms.median(),
                }
            )
    return pd.DataFrame(rows)


def summary_table(summary: pd.DataFrame) -> Table:
    """`summarise`'s rows for the terminal; what all rows share stands in the title."""
    from rich import box
    from rich.table import Table

    title, shown = _shared(summary)
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.caption = "success: 95 % Wilson interval; costs are per policy call"
    for name in shown:
        table.add_column(name.replace("_", "\n"), overflow="fold", no_wrap=name == "method")
    for name in ("keep", "episodes", "success", "pruned\ncalls", "visual\ntokens", "FLOPs", "p50"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in summary.to_dict("records"):
        table.add_row(*(str(row[name]) for name in shown), *_figures(row))
    return table


def _shared(summary: pd.DataFrame) -> tuple[str, list[str]]:
    """What all rows share, in words, and the columns that say how they differ."""
    names = list(summary.columns[: summary.columns.get_loc("keep")])
    differ = [name for name in names if summary[name].nunique() != 1]
    first = {str(name): value for name, value in summary.iloc[0].items()}
    shared = [str(first[n]) for n in names if n not in differ and not usual(n, first)]
    return ", ".join(shared), differ + (["options"] if summary.options.any() else [])


def _figures(row: dict[Any, Any]) -> list[str]:
    """The numbers of a row of `summarise` as text."""
    errors = f" + {row['errors']} errors" if row["errors"] else ""
    return [
        "" if math.isnan(row["keep"]) else f"{row['keep']:g}",
        f"{row['episodes']}{errors}",
        _rate(row),
        "" if math.isnan(row["pruned_calls"]) else f"{row['pruned_calls']:.0%}",
        "" if math.isnan(row["visual_tokens"]) else f"{row['visual_tokens']:.0f}",
        "" if math.isnan(row["total_tflops"]) else si(row["total_tflops"] * 1e12),
        "" if math.isnan(row["latency_p50_ms"]) else f"{row['latency_p50_ms']:.0f} ms",
    ]


def _rate(row: dict[Any, Any]) -> str:
    if not row["episodes"]:
        return ""
    low, high = row["success_low"], row["success_high"]
    return f"{row['success_rate']:.0%} [{100 * low:.0f}, {100 * high:.0f}]"
