"""Stored videos: which there are, where a page finds them, and two methods side by side."""

from __future__ import annotations

import base64
import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlaprune_bench.config import nearest
from vlaprune_bench.report.build import Report
from vlaprune_bench.report.cells import PAIR, Cell
from vlaprune_bench.report.charts import full_label
from vlaprune_bench.types import UserError

if TYPE_CHECKING:
    import pandas as pd

FRAMES = 48
"""First frames a page shows, at most."""


def find_videos(results: Path) -> dict[str, Path]:
    """Videos of a results folder by episode id: a video's name ends with it."""
    paths = sorted((results / "_videos").glob("[!.]*.mp4"))
    return {path.stem.rpartition("-")[2]: path for path in paths}


def links(report: Report, folder: Path) -> dict[str, str]:
    """Links to videos by episode id, for a page that will lie in `folder`."""
    return {
        name: Path(os.path.relpath(path.absolute(), folder)).as_posix()
        for name, path in find_videos(report.results.folder).items()
    }


def partners(report: Report) -> dict[str, str]:
    """Of each episode that a method lost and `none` won: the id of that of `none`."""
    found: dict[str, str] = {}
    for pair in report.pairs:
        found |= dict(zip(pair.losses.episode_id, pair.losses.episode_id_none, strict=True))
    return found


def first_frames(report: Report) -> list[tuple[str, str]]:
    """The first frame of one film for each change of the scenes, nominal ones first; of `none`
    where it was filmed, for its pictures have no dimmed patches.

    Returns:
        What is changed, and the picture as a `data:` address. Nothing, where nothing is changed.
    """
    there, chosen = find_videos(report.results.folder), {}
    for change, episodes in report.robustness.seen:
        filmed = [name for name in episodes.episode_id if name in there]
        if filmed and change.name not in chosen:
            chosen[change.name] = there[filmed[0]]
    if not report.robustness.tables:
        return []
    return [(name, _picture(path)) for name, path in list(chosen.items())[:FRAMES]]


def _picture(path: Path) -> str:
    """The first frame of a film, ready for a page."""
    from PIL import Image

    from vlaprune_bench.video import first_frame

    out = io.BytesIO()
    Image.fromarray(first_frame(path)).save(out, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}"


def find_cell(report: Report, name: str, flag: str) -> Cell:
    """The cell of that label, or of that method where it has one cell.

    Raises:
        UserError: there is none, or several.
    """
    cells = report.results.cells
    labels = {full_label(report, cell): cell for cell in cells}
    if name in labels:
        return labels[name]
    found = [cell for cell in cells if name in (cell.method, cell.label)]
    if len(found) == 1:
        return found[0]
    if found:
        several = ", ".join(repr(full_label(report, cell)) for cell in found)
        raise UserError(f"{flag} is {name}, which has {len(found)} cells; give one of {several}.")
    raise UserError(f"{flag} is {name}{nearest(name, labels)}.")


@dataclass(frozen=True)
class Wanted:
    """Which episodes two videos are put side by side of."""

    suite: str | None = None
    task: int | None = None
    trial: int | None = None
    outcome: str = "all"
    """all; lost or gained: the left or the right alone solved it; failed: neither did."""

    def of(self, pairs: pd.DataFrame) -> pd.DataFrame:
        """The rows wanted; with columns of `PAIR`, success and success_right."""
        for column in ("suite", "task", "trial"):
            value = getattr(self, column)
            if value is not None:
                pairs = pairs[pairs[column] == value]
        left, right = pairs.success, pairs.success_right
        masks = {"lost": left & ~right, "gained": right & ~left, "failed": ~left & ~right}
        return pairs if self.outcome == "all" else pairs[masks[self.outcome]]


def pair_videos(
    report: Report, left: Cell, right: Cell, wanted: Wanted, folder: Path
) -> list[Path]:
    """Write two methods' videos of each episode side by side.

    Args:
        report: of the folder.
        left: one method's cell.
        right: the other's.
        wanted: which episodes; those that lack one of the videos are left out.
        folder: where to write.

    Raises:
        UserError: no such episode has both videos, or a video cannot be read.
    """
    from vlaprune_bench.video import side_by_side

    there = find_videos(report.results.folder)
    pairs = wanted.of(report.results.shared(left, right, "_right"))
    pairs = pairs[pairs.episode_id.isin(there) & pairs.episode_id_right.isin(there)]
    if not len(pairs):
        names = f"{full_label(report, left)} and {full_label(report, right)}"
        raise UserError(
            f"no episode asked for has a video of both {names}; run both with --video query or all."
        )
    written = []
    for row in pairs.sort_values(PAIR).to_dict("records"):
        path = folder / _name(row, left.method, right.method)
        side_by_side([there[row["episode_id"]], there[row["episode_id_right"]]], path)
        written.append(path)
    return written


def _name(row: dict[Any, Any], left: str, right: str) -> str:
    episode = f"{row['suite']}-task{row['task']}-trial{row['trial']}"
    ids = f"{row['episode_id']}-{row['episode_id_right']}"
    return f"{episode}-{left}-{right}-{ids}.mp4"
