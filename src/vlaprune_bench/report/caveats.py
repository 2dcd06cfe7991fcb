"""What the reader of a report must know before believing it, as sentences."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

from vlaprune_bench.report.cells import PAIR, Results
from vlaprune_bench.report.compare import Pairs
from vlaprune_bench.report.runs import is_certifying
from vlaprune_bench.types import Role, columns

if TYPE_CHECKING:
    import pandas as pd


def caveats(results: Results, found: list[Pairs], absent: list[int]) -> list[str]:
    """Warnings about a results folder, the gravest first.

    Args:
        results: the folder.
        found: of `compare.pairs`.
        absent: missing episodes of each cell.
    """
    episodes = results.episodes
    return [
        *_certified(results),
        *_own_warnings(episodes),
        *_losses(results, absent),
        *_idle(results),
        *_mixtures(results),
        *_pairing(results, found),
        *_unlike_pairs(found),
        *_latency(episodes),
        *_runs(results),
    ]


def _certified(results: Results) -> Iterator[str]:
    """Rows whose choice depended on outcomes: their rates and pairs are no sample."""
    ran = set(results.episodes.run_id.unique())
    if any(name in ran and is_certifying(text) for name, text in results.runs.items()):
        yield (
            "vlaprune-certify ran here: which episodes there are depends on outcomes (none runs "
            "where a candidate failed), so rates and paired differences are no fair sample; read "
            "the certificate"
        )


def _own_warnings(episodes: pd.DataFrame) -> Iterator[str]:
    """What the rows themselves say."""
    counts = episodes.warnings.explode().dropna().value_counts()
    for sentence, count in counts.items():
        yield f"{sentence} ({count} of {len(episodes)} episodes)"


def _losses(results: Results, absent: list[int]) -> Iterator[str]:
    """Episodes that are not there, or ended otherwise than by success or failure."""
    for status, count in results.episodes.status.value_counts().items():
        if status != "ok":
            yield f"{count} episodes have status {status}: they count in no rate"
    if any(absent):
        cells = sum(count > 0 for count in absent)
        yield f"{sum(absent)} episodes are missing in {cells} of {len(absent)} cells"
    for index, group in results.groups.items():
        doubles = int(group.duplicated([*PAIR, "checkpoint"]).sum())
        if doubles:
            label = results.cells[index].label
            yield f"{label}: {doubles} episodes were measured more than once; rates count each"


def _idle(results: Results) -> Iterator[str]:
    """Methods that never pruned: their rows are those of none under another name."""
    for cell in results.cells:
        if cell.method == "none":
            continue
        made = results.episodes_of(cell).query("calls > 0")
        most = made.groupby("suite").pruned_call_fraction.max()
        idle = [suite for suite in most.index if most[suite] == 0]
        if idle:
            where = "" if len(idle) == len(most) else f" in {', '.join(idle)}"
            yield f"{cell.label}: not one call{where} was pruned: it ran as none does"


MIXED = {
    "assets": "asset sets",
    "device": "devices",
    "dtype": "precisions",
    "attention": "attention backends",
    "protocol": "protocols",
    "gl_backend": "renderers",
    "git_revision": "source revisions",
    "sim": "simulator paths",
}
"""What should be one thing, in words; other columns of provenance go by their names."""
ELSEWHERE = {"run_id", "batch_size", "workers", "self_check", "started_at", "versions"}
"""Columns of provenance that may differ, or that another sentence is about."""


def _mixtures(results: Results) -> Iterator[str]:
    """What should be one thing and is several."""
    episodes = results.episodes
    for column in dict.fromkeys([*MIXED, *columns(Role.PROVENANCE)]):
        values = sorted(map(str, episodes[column].dropna().unique()))
        if len(values) > 1 and column not in ELSEWHERE:
            yield f"mixed {MIXED.get(column, column.replace('_', ' '))}: {', '.join(values)}"
    yield from _unlike(episodes)
    for name, found in versions_seen(episodes).items():
        if len(found) > 1:
            yield f"mixed versions of {name}: {', '.join(found)}"
    if (episodes.budget != "protocol").any():
        yield "some episodes had another budget than their protocol's"


def _unlike(episodes: pd.DataFrame) -> Iterator[str]:
    """One name for several things, and what nobody can look up or has compared."""
    for kind, group in episodes.groupby("assets"):
        if group.assets_hash.nunique() > 1:
            hashes = ", ".join(sorted(group.assets_hash.unique()))
            yield f"mixed versions of the {kind} assets: {hashes}"
    for checkpoint, group in episodes.groupby("checkpoint"):
        if group.checkpoint_hash.nunique() > 1:
            yield f"{checkpoint} stands for {group.checkpoint_hash.nunique()} different checkpoints"
    if any(str(revision).endswith("-dirty") for revision in episodes.git_revision.unique()):
        yield "some episodes ran from a source tree with changes that were not committed"
    unchecked = int(((episodes.sim == "fast") & episodes.self_check.isna()).sum())
    if unchecked:
        yield (
            f"{unchecked} episodes took the fast simulator path where it was not compared with "
            "robosuite's (no self_check)"
        )


def versions_seen(episodes: pd.DataFrame) -> dict[str, list[str]]:
    """Package versions that occur, by package."""
    found: dict[str, set[str]] = {}
    for text in episodes.versions.unique():
        for name, version in json.loads(text).items():
            found.setdefault(name, set()).add(str(version or "not installed"))
    return {name: sorted(values) for name, values in sorted(found.items())}


def _pairing(results: Results, found: list[Pairs]) -> Iterator[str]:
    """Comparisons that cannot be made, or are not what they seem."""
    compared = {pair.cell.index for pair in found}
    alone = [c.label for c in results.cells if c.method != "none" and c.index not in compared]
    if alone:
        yield f"no run of none in the same setting for {some(alone)}: not compared"
    if unpaired := [pair.unpaired for pair in found if pair.unpaired]:
        yield (
            f"{sum(unpaired)} episodes in {len(unpaired)} cells have no finished partner of none: "
            "not compared"
        )


DIFFER = {
    "scene_hash": "began in different scenes than none did",
    "frames_hash": "saw other first frames of the same scene than none did (renderer or driver)",
    "instruction": "had another instruction than none had",
}
"""What is wrong with pairs that differ in a column of `BEGIN`."""


def _unlike_pairs(found: list[Pairs]) -> Iterator[str]:
    """Pairs whose episodes did not begin alike."""
    for pair in found:
        for column, count in pair.differ.items():
            yield f"{pair.cell.label}: {count} of {len(pair.frame)} pairs {DIFFER[column]}"


def some(names: list[str], limit: int = 5) -> str:
    """The first of some names, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _latency(episodes: pd.DataFrame) -> Iterator[str]:
    sizes = sorted(int(size) for size in episodes.batch_size.unique())
    if sizes != [1]:
        yield (
            f"batch sizes are {', '.join(map(str, sizes))}: latency is reported from batch size 1 "
            f"alone ({int((episodes.batch_size == 1).sum())} of {len(episodes)} episodes)"
        )
    crowded = (episodes.workers > 1) & episodes.device.str.startswith("cpu")
    if crowded.any():
        yield (
            f"{int(crowded.sum())} episodes ran on a CPU beside other simulators (workers above "
            "1): their latency is that of a busy machine"
        )


def _runs(results: Results) -> Iterator[str]:
    ran = set(results.episodes.run_id.unique())
    empty = sorted(set(results.runs) - ran)
    if empty:
        yield f"runs with a configuration and no episode: {some(empty)}"
    unknown = sorted(ran - set(results.runs))
    if unknown:
        yield f"the configuration of these runs is not in the folder: {some(unknown)}"
