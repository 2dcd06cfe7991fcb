"""Write docs/results.md from the row classes: python scripts/make_results_docs.py"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from vlaprune_bench.profile.rows import ProfileRow
from vlaprune_bench.types import CallRow, EpisodeRow

HEAD = """# Columns of the results

Made by `scripts/make_results_docs.py` from `types.py`; a test keeps the two equal. A column's text
and unit also stand in the parquet schema.

A results folder holds `episode-*.parquet` (`vlaprune_bench.load_results(folder)` gives the table),
`_calls/` (`load_calls(folder)`), `_runs/` (configuration and command of each run) and `_videos/`.
Rows from before a column joined are read at its default. Others (`pandas.read_parquet(folder)`)
take the columns of one file for those of all: they see every column once a run of the version that
brought it has begun in the folder.
"""


def table(title: str, kind: type) -> str:
    lines = [f"\n## {title}\n", "| column | type | unit | meaning |", "| --- | --- | --- | --- |"]
    for f in fields(kind):
        kind_name = str(f.type).replace(" | None", ", null")
        lines.append(f"| `{f.name}` | {kind_name} | {f.metadata['unit']} | {f.metadata['doc']} |")
    return "\n".join(lines) + "\n"


def page() -> str:
    rows = table("Episodes", EpisodeRow) + table("Policy calls", CallRow)
    return HEAD + rows + table("Profiles (`vlaprune-profile`)", ProfileRow)


if __name__ == "__main__":
    (Path(__file__).parents[1] / "docs" / "results.md").write_text(page(), encoding="utf-8")
