"""How long calls take, as somebody measured it elsewhere: a number, a profile, or quantiles.

A CSV has the columns `quantile` (0.5 is the median) and `latency_ms`, and may have `method`, `keep`
and `pruned` (true or false); a column that is not there, or a field left empty, means any. Calls of
a method that did not prune take the rows of `none` where the file has none of their own.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vlaprune_bench.files import user_path
from vlaprune_bench.types import UserError

if TYPE_CHECKING:
    import pandas as pd

NEEDED = ("quantile", "latency_ms")
OPTIONAL = ("method", "keep", "pruned")
OF_PROFILE = {
    "latency_total_p50_ms": 0.5,
    "latency_total_p90_ms": 0.9,
    "latency_total_p99_ms": 0.99,
}
"""Quantiles a profile has."""


@dataclass(frozen=True)
class Quantiles:
    """A distribution of latencies by some of its quantiles, straight lines between them; below the
    first and above the last it is flat."""

    shares: tuple[float, ...]
    """In [0, 1], ascending."""
    ms: tuple[float, ...]

    def at(self, share: float) -> float:
        """The latency below which so many calls are, ms."""
        return float(np.interp(share, self.shares, self.ms))


NOTHING = Quantiles((0.5,), (0.0,))


def is_number(latency: str) -> bool:
    """Whether a latency is a number of ms, and no file."""
    try:
        float(latency)
    except ValueError:
        return False
    return True


def latency_name(latency: str) -> str:
    """A latency as equal ones are written.

    Raises:
        UserError: it is neither a number of ms from 0 on nor a file.
    """
    right = "give ms from 0 on, a profile's parquet, or a CSV of quantiles"
    if is_number(latency):
        if not (math.isfinite(float(latency)) and float(latency) >= 0):
            raise UserError(f"--latency is {latency}; {right}.")
        return f"{float(latency):g}"
    if Path(latency).suffix not in (".csv", ".parquet"):
        raise UserError(f"--latency is {latency}; {right}.")
    if not user_path(latency).is_file():
        raise UserError(f"--latency is {latency}; there is no such file: {right}.")
    return latency


def latency_title(latency: str) -> str:
    """A latency in words: "80 ms", or the file."""
    return f"{latency} ms" if is_number(latency) else latency


def latency_identity(latency: str) -> str:
    """What stands for a latency in an episode's identity: a file's bytes, wherever it lies."""
    if is_number(latency):
        return latency
    return _file(user_path(latency), _stamp(latency))[0]


def latencies(latency: str, method: str, keep: float | None, pruned: bool) -> Quantiles:
    """The distribution of a method's calls.

    Args:
        latency: a number of ms, or a file.
        method: its name.
        keep: its keep ratio; None: it has none.
        pruned: of calls that prune, or of those that do not.

    Raises:
        UserError: the file cannot be read, or does not say it, or says it more than once.
    """
    if is_number(latency):
        return Quantiles((0.5,), (float(latency),))
    rows = _file(user_path(latency), _stamp(latency))[1]
    found = rows[_of(rows.method, method) & _of(rows.keep, keep) & _of(rows.pruned, pruned)]
    if not len(found) and not pruned:
        found = rows[_of(rows.method, "none") & _of(rows.pruned, False)]
    asked = method + ("" if keep is None else f" keep {keep:g}")
    if not len(found):
        known = sorted({_name(row.method, row.keep) for row in rows.itertuples()})
        raise UserError(
            f"--latency is {latency}; it has no {'' if pruned else 'un'}pruned calls of {asked}; "
            f"it has: {', '.join(known)}."
        )
    found = found.sort_values("quantile")
    if found["quantile"].duplicated().any():
        raise UserError(
            f"--latency is {latency}; it says quantiles of {asked} more than once, as of several "
            "devices or options: leave one."
        )
    return Quantiles(tuple(found["quantile"].astype(float)), tuple(found.latency_ms.astype(float)))


def _of(column: pd.Series, value: object) -> pd.Series:
    """Which rows are about a value, or about any."""
    if isinstance(value, float):
        return column.isna() | np.isclose(column.astype(float), value)
    return column.isna() | (column == value)


def _name(method: object, keep: object) -> str:
    name = method if isinstance(method, str) else "any method"
    return name if keep is None or keep != keep else f"{name} keep {keep:g}"


def _stamp(latency: str) -> tuple[int, int]:
    try:
        stat = user_path(latency).stat()
    except OSError as error:
        raise UserError(f"--latency is {latency}; it cannot be read: {error.strerror}.") from error
    return stat.st_size, stat.st_mtime_ns


@cache
def _file(path: Path, stamp: tuple[int, int]) -> tuple[str, pd.DataFrame]:
    """Digest and rows of a file; `stamp` changes with it."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    rows = _profile(path) if path.suffix == ".parquet" else _csv(path)
    sound = rows.latency_ms.ge(0) & rows.latency_ms.lt(math.inf) & rows["quantile"].between(0, 1)
    if not len(rows) or not sound.all():
        raise UserError(
            f"--latency is {path}; each row must have a quantile from 0 to 1 and a latency_ms from "
            "0 on."
        )
    falling = rows.sort_values("quantile").groupby([*OPTIONAL], dropna=False).latency_ms.diff() < 0
    if falling.any():
        raise UserError(f"--latency is {path}; a higher quantile must not be a shorter latency.")
    return f"file {digest}", rows


def _csv(path: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        rows = pd.read_csv(path, comment="#", skipinitialspace=True)
    except (ValueError, OSError) as error:
        why = " ".join(str(error).split()).rstrip(".")
        raise UserError(f"--latency is {path}; it cannot be read: {why}.") from error
    missing = [name for name in NEEDED if name not in rows]
    extra = [name for name in rows if name not in (*NEEDED, *OPTIONAL)]
    if missing or extra:
        raise UserError(
            f"--latency is {path}; its columns are {', '.join(map(str, rows))}; it must have "
            f"{' and '.join(NEEDED)}, and may have {', '.join(OPTIONAL)}."
        )
    empty = pd.Series(None, rows.index, dtype=object)
    for name in (*NEEDED, "keep"):
        given = rows.get(name, empty)
        rows[name] = pd.to_numeric(given, errors="coerce").astype(float)
        _refuse(path, name, given[rows[name].isna() & given.notna()], "a number")
    given = rows.get("pruned", empty)
    rows["pruned"] = given.astype(str).str.lower().map({"true": True, "false": False})
    rows["pruned"] = rows["pruned"].astype(object)
    _refuse(path, "pruned", given[rows["pruned"].isna() & given.notna()], "true or false")
    rows["method"] = rows.get("method", empty).astype(object)
    return rows


def _refuse(path: Path, name: str, wrong: pd.Series, right: str) -> None:
    if len(wrong):
        raise UserError(f"--latency is {path}; its {name} is {wrong.iloc[0]}; it must be {right}.")


def _profile(path: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        profile = pd.read_parquet(path)
        kept = profile[["method", "keep", *OF_PROFILE]]
    except (ValueError, OSError, KeyError) as error:
        why = " ".join(str(error).split()).rstrip(".")
        raise UserError(f"--latency is {path}; it is no profile of ours: {why}.") from error
    rows = kept.melt(["method", "keep"], [*OF_PROFILE], "quantile", "latency_ms")
    rows["quantile"] = rows["quantile"].map(OF_PROFILE).astype(float)
    # a profile times the calls that pruned, and those of none
    rows["pruned"] = rows.method.map(lambda method: None if method == "none" else True)
    return rows.dropna(subset="latency_ms").astype({"keep": float, "pruned": object})
