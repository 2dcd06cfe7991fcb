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

An episode's columns have roles, and what follows from a column follows from its role alone:
`pair` (which episode it is), `setting` (what must be equal before two methods are compared) and
`method` are hashed to `episode_id`; a report's cell is a method in a setting, and two episodes are
compared where their `pair` is equal. `name` names what those identify or follows from it,
`measured` is an outcome, `provenance` is when, where and by what it was measured. Columns marked
`scene` determine the scene an episode begins in.
"""


def table(title: str, kind: type) -> str:
    names = ["column", "type", "unit", *(["role"] if kind is EpisodeRow else []), "meaning"]
    rows = [f"\n## {title}\n", _row(names), _row(["---"] * len(names))]
    for f in fields(kind):
        what, about = str(f.type).replace(" | None", ", null"), f.metadata
        role = [", ".join([about["role"], *(["scene"] * about["scene"])])] if about["role"] else []
        rows.append(_row([f"`{f.name}`", what, about["unit"], *role, about["doc"]]))
    return "\n".join(rows) + "\n"


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def page() -> str:
    rows = table("Episodes", EpisodeRow) + table("Policy calls", CallRow)
    return HEAD + rows + table("Profiles (`vlaprune-profile`)", ProfileRow)


if __name__ == "__main__":
    (Path(__file__).parents[1] / "docs" / "results.md").write_text(page(), encoding="utf-8")
