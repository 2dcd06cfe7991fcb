"""A results folder for others: one parquet file of episodes, one of calls, the configurations, and
a dataset card in the Hugging Face form. It is laid out as a results folder is, and read as one.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from vlaprune_bench.report.build import Report
from vlaprune_bench.report.caveats import versions_seen
from vlaprune_bench.report.table import markdown
from vlaprune_bench.types import CallRow, EpisodeRow, Role, UserError, columns

if TYPE_CHECKING:
    import pandas as pd


def export(report: Report, file: Path, force: bool = False) -> Path:
    """Write the episodes and calls of a report and a card about them; videos stay where they are.

    Args:
        report: of the folder; calls that cannot be read are named in a warning.
        file: the parquet file; calls go to `_calls` beside it, configurations to `_runs`, and the
            card is README.md.
        force: overwrite what is there.

    Returns:
        The card.

    Raises:
        UserError: a file is there already or cannot be written, or its folder would count an
            episode twice.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from vlaprune_bench.store import calls_path, copy_calls, schema

    made_card, calls = file.with_name("README.md"), calls_path(file)
    _check_name(file)
    for path in (file, calls, made_card):
        if path.exists() and not force:
            raise UserError(f"{path} is there already; give another file, or --force to overwrite.")
    _refuse_doubles(report, file)
    kinds = schema(EpisodeRow)
    table = pa.Table.from_pandas(
        report.results.episodes[kinds.names], schema=kinds, preserve_index=False
    )
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        for sentence in copy_calls(report.results.place, calls):
            warnings.warn(sentence, stacklevel=2)
        pq.write_table(table, file, compression="zstd")
        for run, text in report.results.runs.items():
            (file.parent / "_runs").mkdir(exist_ok=True)
            (file.parent / "_runs" / f"{run}.yaml").write_text(text, encoding="utf-8")
        made_card.write_text(card(report, file), encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"the file to export to is {file}; it cannot be written ({error.strerror})."
        ) from error
    return made_card


def _check_name(file: Path) -> None:
    if file.suffix != ".parquet" or file.name.startswith((".", "_", "episode-", "merged-")):
        raise UserError(
            f"the file to export to is {file}; its name must end in .parquet, and not begin with "
            "`_`, a dot, `episode-` or `merged-`: readers would miss it or take it for a run's."
        )


def _refuse_doubles(report: Report, file: Path) -> None:
    """A folder is read as one table: none of these episodes may lie there already."""
    from vlaprune_bench.store import part_files, read_episodes

    own = set(report.results.episodes.episode_id)
    for other in part_files(file.parent):
        there = read_episodes(other, ["episode_id"])[0]["episode_id"].to_pylist()
        if other.name != file.name and own & set(there):
            raise UserError(
                f"the file to export to is {file}; {other.name} beside it holds the same episodes, "
                "and the folder would count them twice: give a folder of its own."
            )


def card(report: Report, file: Path) -> str:
    """The dataset card.

    Args:
        report: of the folder.
        file: the parquet file, its calls beside it where there are any.
    """
    from vlaprune_bench.store import calls_path

    calls = calls_path(file).relative_to(file.parent) if calls_path(file).exists() else None
    configs = f"{{config_name: default, data_files: {file.name}}}"
    if calls:
        configs += f", {{config_name: calls, data_files: {calls}}}"
    episodes = report.results.episodes
    size = next((text for limit, text in _SIZES if len(episodes) < limit), "1M<n<10M")
    about_calls = f", one per policy call of `{calls}`." if calls else "; calls are left out."
    lines = [
        "---",
        "license: apache-2.0",
        "task_categories: [robotics]",
        "tags: [libero, vision-language-action, token-pruning, vlaprune-bench]",
        f"size_categories: [{size}]",
        f"configs: [{configs}]",
        "---",
        "",
        "# Rollouts of pruned VLA policies in LIBERO",
        "",
        f"{len(episodes)} episodes of {len(report.results.cells)} configurations in "
        f"{', '.join(report.results.suites)}, run from {episodes.started_at.min()} to "
        f"{episodes.started_at.max()} with vlaprune-bench. One row per episode of `{file.name}`"
        + about_calls,
        "",
        "`vlaprune-report FOLDER` prints the tables below again; `load_results(FOLDER)` and "
        "`load_calls(FOLDER)` of `vlaprune_bench` read the rows. Videos are left out.",
        "",
    ]
    if report.warnings:
        lines += ["## Warnings", "", *(f"- {sentence}" for sentence in report.warnings), ""]
    lines += ["## Results", "", markdown(report.overview.success), markdown(report.overview.cost)]
    if report.paired.rows:
        lines.append(markdown(report.paired))
    lines += ["## How it was made", "", *_provenance(episodes)]
    lines += _columns("Columns", EpisodeRow)
    lines += _columns("Columns of calls", CallRow) if calls else []
    return "\n".join(lines) + "\n"


def _provenance(episodes: pd.DataFrame) -> Iterator[str]:
    for column in (*columns(Role.SETTING), "checkpoint", "assets", "device"):
        values = ", ".join(sorted(map(str, episodes[column].unique())))
        yield f"- {column}: {values}"
    found = versions_seen(episodes).items()
    yield "- versions: " + "; ".join(f"{name} {', '.join(numbers)}" for name, numbers in found)


def _columns(title: str, row: type) -> list[str]:
    lines = ["", f"## {title}", "", "| column | type | unit | meaning |"]
    lines.append("| --- | --- | --- | --- |")
    for f in fields(row):
        kind = str(f.type).replace(" | None", ", null")
        lines.append(f"| `{f.name}` | {kind} | {f.metadata['unit']} | {f.metadata['doc']} |")
    return lines


_SIZES = ((1000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
