"""All episodes in one parquet file, with a dataset card in the Hugging Face form."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from vlaprune_bench.report.build import Report
from vlaprune_bench.report.caveats import versions_seen
from vlaprune_bench.report.table import markdown
from vlaprune_bench.types import EpisodeRow, Role, UserError, columns


def export(report: Report, file: Path, force: bool = False) -> Path:
    """Write the episodes of a report and a card about them.

    Args:
        report: of the folder.
        file: the parquet file; the card is README.md beside it.
        force: overwrite what is there.

    Returns:
        The card.

    Raises:
        UserError: a file is there already or cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from vlaprune_bench.store import schema

    made_card = file.with_name("README.md")
    for path in (file, made_card):
        if path.exists() and not force:
            raise UserError(f"{path} is there already; give another file, or --force to overwrite.")
    kinds = schema(EpisodeRow)
    table = pa.Table.from_pandas(
        report.results.episodes[kinds.names], schema=kinds, preserve_index=False
    )
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, file, compression="zstd")
        made_card.write_text(card(report, file.name), encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"the file to export to is {file}; it cannot be written ({error.strerror})."
        ) from error
    return made_card


def card(report: Report, name: str) -> str:
    """The dataset card.

    Args:
        report: of the folder.
        name: of the parquet file.
    """
    episodes = report.results.episodes
    size = next((text for limit, text in _SIZES if len(episodes) < limit), "1M<n<10M")
    lines = [
        "---",
        "license: apache-2.0",
        "task_categories: [robotics]",
        "tags: [libero, vision-language-action, token-pruning, vlaprune-bench]",
        f"size_categories: [{size}]",
        f"configs: [{{config_name: default, data_files: {name}}}]",
        "---",
        "",
        "# Rollouts of pruned VLA policies in LIBERO",
        "",
        f"{len(episodes)} episodes of {len(report.results.cells)} configurations in "
        f"{', '.join(report.results.suites)}, run from {episodes.started_at.min()} to "
        f"{episodes.started_at.max()} with vlaprune-bench. One row per episode of `{name}`.",
        "",
    ]
    if report.warnings:
        lines += ["## Warnings", "", *(f"- {sentence}" for sentence in report.warnings), ""]
    lines += ["## Results", "", markdown(report.overview.success), markdown(report.overview.cost)]
    if report.paired.rows:
        lines.append(markdown(report.paired))
    lines += ["## How it was made", ""]
    for column in (*columns(Role.SETTING), "checkpoint", "assets", "device"):
        values = ", ".join(sorted(map(str, episodes[column].unique())))
        lines.append(f"- {column}: {values}")
    found = (
        f"{package} {', '.join(numbers)}" for package, numbers in versions_seen(episodes).items()
    )
    lines += [f"- versions: {'; '.join(found)}", "", "## Columns", ""]
    lines += ["| column | type | unit | meaning |", "| --- | --- | --- | --- |"]
    for f in fields(EpisodeRow):
        kind = str(f.type).replace(" | None", ", null")
        lines.append(f"| `{f.name}` | {kind} | {f.metadata['unit']} | {f.metadata['doc']} |")
    return "\n".join(lines) + "\n"


_SIZES = ((1000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
