"""The report as one HTML file that needs nothing else: no server, no network.

Tables are rendered here; pictures are drawn by plotly.js, which is inlined once; the list of
episodes is data that the page's script shows a hundred rows at a time.
"""

from __future__ import annotations

import html
import json
import math
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlaprune_bench.measure.stats import Rate
from vlaprune_bench.report.build import Report
from vlaprune_bench.report.caveats import versions_seen
from vlaprune_bench.report.cells import TITLES, Results
from vlaprune_bench.report.charts import Chart, charts, full_label
from vlaprune_bench.report.gallery import first_frames, links, partners
from vlaprune_bench.report.interactive import plotly
from vlaprune_bench.report.published import published_tables
from vlaprune_bench.report.table import Column, Table, show
from vlaprune_bench.types import UserError

if TYPE_CHECKING:
    import pandas as pd

SHORT = 36
"""Text up to this long does not break in a table, characters."""


def write_page(report: Report, path: Path, sentences: list[str]) -> None:
    """Write the page.

    Args:
        report: what to show.
        path: the file; videos are linked relative to it.
        sentences: warnings of reading the folder, beside the report's own.

    Raises:
        UserError: the file cannot be written.
    """
    text = page(report, path.absolute().parent, sentences)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"--html is {path}; it must be a file that can be written ({error.strerror})."
        ) from error


def page(report: Report, folder: Path, sentences: list[str]) -> str:
    """The page as text; `folder` is where it will lie."""
    import jinja2
    from plotly.offline import get_plotlyjs

    results = report.results
    here = files("vlaprune_bench.report") / "templates"
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["cell"] = table_cell
    template = environment.from_string((here / "page.html.j2").read_text(encoding="utf-8"))
    overview = report.overview
    data = episode_data(report, folder)
    return template.render(
        title=results.folder.absolute().name or "results",
        shared=overview.shared.removeprefix(": "),
        totals=_totals(results),
        warnings=[*sentences, *report.warnings],
        decisions=report.decisions,
        summary=[t for t in _summary(report) if t.rows],
        waiting=report.waiting.tables,
        robustness=report.robustness.tables,
        frames=first_frames(report),
        sweeps=report.sweeps,
        tasks=overview.tasks,
        beside=report.beside,
        published=published_tables(),
        cells=_cells(results),
        hardware=_hardware(results.episodes),
        versions=versions_seen(results.episodes),
        groups=_groups(charts(report)),
        films=bool(data["videos"]),
        data=_script(data),
        css=(here / "page.css").read_text(encoding="utf-8"),
        js=(here / "page.js").read_text(encoding="utf-8"),
        plotly=get_plotlyjs().replace("</script", "<\\/script"),
    )


def _summary(report: Report) -> list[Table]:
    overview = report.overview
    return [overview.success, overview.cost, report.paired, report.noise.table, report.trials]


def _script(data: Any) -> str:
    """JSON that may stand in a script element."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c")


def _clean(data: Any) -> Any:
    """The same data with null for nan, which JSON does not know."""
    if isinstance(data, dict):
        return {key: _clean(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_clean(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def table_cell(row: dict[str, Any], column: Column) -> str:
    """One table cell: its text, and what it is sorted by."""
    value = row.get(column.key)
    text = html.escape(show(value, column.kind)).replace("\n", "<br>")
    key = value.value if isinstance(value, Rate) else value
    if key is None or (isinstance(key, float) and math.isnan(key)):
        key = ""
    head, bracket, tail = text.partition(" [")
    if bracket and column.right:
        text = f'{head} <span class="interval">[{tail}</span>'
    kind = "number" if column.right else "text short" if len(text) <= SHORT else "text"
    return f'<td class="{kind}" data-sort="{html.escape(str(key))}">{text}</td>'


def _totals(results: Results) -> list[tuple[str, str]]:
    episodes = results.episodes
    ok = int((episodes.status == "ok").sum())
    return [
        ("episodes", f"{len(episodes):,}"),
        ("errors", f"{len(episodes) - ok:,}"),
        ("cells", f"{len(results.cells):,}"),
        ("suites", ", ".join(TITLES.get(suite, suite) for suite in results.suites)),
        ("run", f"{episodes.started_at.min()[:10]} to {episodes.started_at.max()[:10]}"),
    ]


def _cells(results: Results) -> list[dict[str, Any]]:
    """Of each cell: its setting, all its options, and command and configuration of its runs."""
    found = []
    for cell in results.cells:
        episodes = results.episodes_of(cell)
        runs = sorted(episodes.run_id.unique())
        found.append(
            {
                "label": cell.label,
                "index": cell.index,
                "setting": cell.setting,
                "options": cell.options,
                "checkpoints": sorted(episodes.checkpoint.unique()),
                "revisions": sorted(map(str, episodes.git_revision.dropna().unique())),
                "runs": [(run, results.runs.get(run, "(not in the folder)")) for run in runs],
            }
        )
    return found


def _hardware(episodes: pd.DataFrame) -> list[dict[str, Any]]:
    """Where the episodes ran, by device."""
    names = ["device", "dtype", "attention", "gl_backend", "batch_size"]
    counts = episodes.groupby(names, dropna=False).size().reset_index(name="episodes")
    return [{str(k): v for k, v in row.items()} for row in counts.to_dict("records")]


def episode_data(report: Report, folder: Path) -> dict[str, Any]:
    """The list of episodes, column by column, small enough for a page.

    Args:
        report: the report.
        folder: where the page will lie.

    Returns:
        Columns of equal length with codes into `cells`, `suites` and `statuses`; `videos`, `errors`
        and `beside` (the video of none, where none won what this episode lost) by position; `pair`
        is 1 where only none solved the episode, 2 where only the method did.
    """
    results = report.results
    episodes = results.episodes.assign(place=results.episodes.suite.map(results.suites.index))
    episodes = episodes.sort_values(["cell", "place", "task", "trial", "seed"])
    marks = _marks(report)
    ids = episodes.episode_id.tolist()
    statuses = sorted(episodes.status.unique())
    errors = episodes.error.tolist()
    success = episodes.success.astype(object).where(episodes.status == "ok", False)
    return {
        "cells": [full_label(report, cell) for cell in results.cells],
        "suites": [TITLES.get(suite, suite) for suite in results.suites],
        "statuses": statuses,
        "id": ids,
        "cell": episodes.cell.tolist(),
        "suite": episodes.place.tolist(),
        "task": episodes.task.tolist(),
        "trial": episodes.trial.tolist(),
        "seed": episodes.seed.tolist(),
        "status": episodes.status.map(statuses.index).tolist(),
        "success": success.astype(int).tolist(),
        "steps": episodes.steps.tolist(),
        "calls": episodes.calls.tolist(),
        "pruned": _numbers(episodes.pruned_call_fraction, 3),
        "ms": _numbers(episodes.latency_p50_ms, 2),
        "pair": [marks.get(name, 0) for name in ids],
        **_films(report, folder, ids),
        "errors": {k: str(error) for k, error in enumerate(errors) if isinstance(error, str)},
    }


def _marks(report: Report) -> dict[str, int]:
    """By id, which episodes only none (1) or only the method (2) solved."""
    marks: dict[str, int] = {}
    for pair in report.pairs:
        marks |= dict.fromkeys(pair.losses.episode_id, 1) | dict.fromkeys(pair.gains.episode_id, 2)
    return marks


def _films(report: Report, folder: Path, ids: list[str]) -> dict[str, dict[int, str]]:
    """Links to the videos of episodes, and to those of none beside them, by position."""
    there, rivals = links(report, folder), partners(report)
    beside = [rivals.get(name) for name in ids]
    return {
        "videos": {k: there[name] for k, name in enumerate(ids) if name in there},
        "beside": {k: there[name] for k, name in enumerate(beside) if name in there},
    }


def _numbers(values: pd.Series, digits: int) -> list[float | None]:
    rounded = values.astype(float).round(digits)
    return rounded.astype(object).where(rounded.notna(), None).tolist()


def _groups(made: list[Chart]) -> list[dict[str, Any]]:
    """Charts by group, each as what plotly draws."""
    groups: dict[str, list[Chart]] = {}
    for chart in made:
        groups.setdefault(chart.group, []).append(chart)
    return [
        {
            "title": title,
            "note": own[0].note,
            "name": own[0].name,
            "variants": [chart.variant for chart in own],
            "figures": _script(_clean([plotly(chart) for chart in own])),
        }
        for title, own in groups.items()
    ]
