"""The certificate: what was tested, from which rows, and what came of it; made and made again."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from vlaprune_bench.certify.bets import MEANING, N_BETS, first_at, upper_bound
from vlaprune_bench.certify.course import Outcome, arrays, hopeless, outcome, path_of
from vlaprune_bench.certify.statement import statement
from vlaprune_bench.certify.terms import Design
from vlaprune_bench.config import digest
from vlaprune_bench.files import read_text
from vlaprune_bench.types import EpisodeRow, Role, UserError, columns

Row = Mapping[str, Any]
Pair = tuple[Row, Row | None]
"""Row of the candidate and, where it was needed, of the reference on one scene."""
FORMAT = "vlaprune certificate 1"
SETTING = ["suite", "seed", *columns(Role.SETTING), "checkpoint", "checkpoint_trained", "assets"]
"""What all rows of a certificate share."""
METHOD = columns(Role.METHOD)
ASSUMED = (
    "the design (candidates and their order, budget, confidence, estimand, draw) was fixed before "
    "any of the outcomes was known",
    "an episode is a function of its scene and setting, or its randomness is independent from "
    "scene to scene",
    "an error or timeout of the candidate counts as not solved, one of the reference as solved",
)
FIXED = (
    "the scenes are the population, in an order drawn evenly from all orders: nothing is said of "
    "other scenes, tasks or robots"
)
FRESH = (
    "each scene's task is drawn evenly and its objects by LIBERO's own placement: what is said "
    "holds for such scenes"
)


def row_digest(row: Row, names: Sequence[str]) -> str:
    """Hash of what a row says in these columns."""
    return digest({name: row[name] for name in names})


def make(
    design: Design,
    candidates: Sequence[Mapping[str, Any]],
    order: str,
    found: Sequence[Sequence[Pair]],
    names: Sequence[str] | None = None,
) -> dict[str, Any]:
    """The certificate as plain data: a function of design, candidates and rows alone.

    Args:
        design: the test.
        candidates: label, method, method_options and cost of each, in their order.
        order: what orders them, in words.
        found: rows of each candidate that was tested, in the order drawn.
        names: columns that digests cover; None: all there are.

    Raises:
        UserError: rows of other scenes or settings.
    """
    names = list(names or [f.name for f in fields(EpisodeRow)])
    rows = [row for pairs in found for pair in pairs for row in pair if row is not None]
    setting = {name: rows[0][name] for name in SETTING}
    tested = []
    for candidate, pairs in zip(candidates, found, strict=False):
        _check(design, setting, candidate, pairs)
        tested.append({**candidate, **_decide(design, pairs), "rows": _listed(pairs, names)})
    untested = [{**c, "decision": "not tested"} for c in candidates[len(found) :]]
    certified = [one["label"] for one in tested if one["decision"] == "certified"]
    made = {
        "format": FORMAT,
        "decision": f"{certified[-1]} certified" if certified else "nothing certified",
        "statement": "",
        "setting": setting,
        "design": asdict(design),
        "estimand": MEANING[design.estimand],
        "population": design.population,
        "reference": "none",
        "order": order,
        "bets": f"mixture of {N_BETS}",
        "assumptions": [*ASSUMED, FIXED if design.size else FRESH],
        "candidates": tested + untested,
        "columns": names,
        "versions": sorted({row["versions"] for row in rows}),
        "hardware": sorted({row["device"] for row in rows}),
        "git_revisions": sorted({str(row["git_revision"]) for row in rows}),
    }
    made["statement"] = statement(made)
    return json.loads(json.dumps(made))  # as it will be read


def _outcome(row: Row | None) -> Outcome:
    return False if row is None else outcome(row["status"], row["success"])


def _decide(design: Design, pairs: Sequence[Pair]) -> dict[str, Any]:
    """What a candidate's rows show."""
    outcomes = [(_outcome(own), _outcome(theirs)) for own, theirs in pairs]
    path = path_of(design, outcomes)
    reference, candidate, looked = arrays(design, outcomes)
    ran = np.array([theirs is not None for _, theirs in pairs], bool)
    lost = ran & reference & ~candidate
    kept = ran & looked & reference & candidate
    end = first_at(path, design.confidence)
    if end is None and not hopeless(design, outcomes):
        raise ValueError(f"{len(pairs)} scenes decide nothing yet")
    limit = upper_bound(
        reference,
        candidate,
        looked,
        design.confidence,
        design.fraction,
        design.estimand,  # type: ignore[arg-type]
        design.size,
    )
    return {
        "decision": "not certified" if end is None else "certified",
        "scenes": len(pairs),
        "scenes_allowed": design.most,
        "candidate_episodes": len(pairs),
        "reference_episodes": int(ran.sum()),
        "candidate_solved": int(candidate.sum()),
        "lost": int(lost.sum()),
        "kept_where_looked": int(kept.sum()),
        "candidate_errors": sum(own is None for own, _ in outcomes),
        "reference_errors": sum(theirs is None for _, theirs in outcomes),
        "wealth_needed": 1 / (1 - design.confidence),
        "wealth_most": float(path.max()) if len(path) else 1.0,
        "loss_below": limit,
        "wealth": [float(value) for value in path],
    }


def _listed(pairs: Sequence[Pair], names: Sequence[str]) -> list[dict[str, Any]]:
    listed = []
    for own, theirs in pairs:
        entry = {"task": own["task"], "trial": own["trial"], "candidate": _named(own, names)}
        listed.append({**entry, "reference": theirs and _named(theirs, names)})
    return listed


def _named(row: Row, names: Sequence[str]) -> dict[str, Any]:
    return {
        "episode_id": row["episode_id"],
        "solved": outcome(row["status"], row["success"]),
        "digest": row_digest(row, names),
    }


def _check(
    design: Design, setting: Row, candidate: Mapping[str, Any], pairs: Sequence[Pair]
) -> None:
    """Refuse rows of other scenes than were drawn, of other settings or methods."""
    for scene, (own, theirs) in zip(design.scenes, pairs, strict=False):
        for row, method in ((own, candidate), (theirs, {"method": "none"})):
            if row is None:
                continue
            said = f"episode {row['episode_id']} ({row['method']})"
            if (row["task"], row["trial"]) != (scene.task, scene.trial):
                raise UserError(
                    f"{said} is of task {row['task']} trial {row['trial']}, where task "
                    f"{scene.task} trial {scene.trial} was drawn: these are rows of other scenes."
                )
            for name in SETTING:
                if row[name] != setting[name]:
                    raise UserError(
                        f"{said} has {name} {row[name]}, others have {setting[name]}: a "
                        "certificate is of one setting."
                    )
            if any(row[name] != method[name] for name in METHOD if name in method):
                raise UserError(f"{said} is not of the method {method['method']} as certified.")
        hashes = {row["scene_hash"] for row in (own, theirs) if row and row["scene_hash"]}
        if len(hashes) > 1:
            raise UserError(
                f"episode {own['episode_id']} and that of the reference on task {scene.task} trial "
                f"{scene.trial} have scenes {' and '.join(sorted(hashes))}: these are rows of "
                "other scenes, not of the same one."
            )


def read_certificate(path: Path) -> dict[str, Any]:
    """A certificate's data.

    Raises:
        UserError: it is none.
    """
    try:
        made = json.loads(read_text(path, "CERTIFICATE"))
    except ValueError as error:
        raise UserError(f"{path} is no certificate: it is not JSON ({error}).") from error
    if not isinstance(made, dict) or made.get("format") != FORMAT:
        raise UserError(f"{path} is no certificate: its `format` must be {FORMAT!r}.")
    return made


def verify(path: Path, rows: Mapping[str, Row], place: Path) -> str:
    """Make a certificate anew from its rows.

    Args:
        path: of the certificate.
        rows: those at hand, by episode id.
        place: where they are from.

    Returns:
        Its statement.

    Raises:
        UserError: a row is missing or was changed, or something else comes out.
    """
    made = read_certificate(path)
    try:
        found = [
            [_pair(entry, made["columns"], rows, path, place) for entry in one["rows"]]
            for one in made["candidates"]
            if "rows" in one
        ]
        design = Design(**{**made["design"], "tasks": tuple(made["design"]["tasks"])})
        who = [
            {name: one[name] for name in ("label", "method", "method_options", "cost")}
            for one in made["candidates"]
        ]
        again = make(design, who, made["order"], found, made["columns"])
    except (LookupError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}: {error}).") from error
    if different := _difference(made, again):
        raise UserError(
            f"{path} does not follow from its rows: {different} comes out otherwise when made anew."
        )
    return str(made["statement"])


def _pair(
    entry: Mapping[str, Any], names: Sequence[str], rows: Mapping[str, Row], path: Path, place: Path
) -> Pair:
    found: list[Row | None] = []
    for who in ("candidate", "reference"):
        said = entry[who]
        if said is None:
            found.append(None)
            continue
        name = f"episode {said['episode_id']} ({who}, task {entry['task']} trial {entry['trial']})"
        row = rows.get(said["episode_id"])
        if row is None:
            raise UserError(f"{place} lacks {name}, which {path} counts.")
        if row_digest(row, names) != said["digest"]:
            now = outcome(row["status"], row["success"])
            how = f": solved was {said['solved']}, is {now}" if now != said["solved"] else ""
            raise UserError(f"{place}: {name} is not the row that {path} was made from{how}.")
        found.append(row)
    assert found[0] is not None
    return found[0], found[1]


def _difference(one: Any, two: Any, where: str = "") -> str | None:
    """Where two certificates differ; numbers may in the ninth digit."""
    if isinstance(one, dict) and isinstance(two, dict):
        keys = dict.fromkeys([*one, *two])
        parts = [(f"{where}.{k}".lstrip("."), one.get(k), two.get(k)) for k in keys]
        if one.keys() != two.keys():
            return next(name for name, a, b in parts if (a is None) != (b is None) or a != b)
    elif isinstance(one, list) and isinstance(two, list) and len(one) == len(two):
        parts = [(f"{where}[{k}]", a, b) for k, (a, b) in enumerate(zip(one, two, strict=True))]
    else:
        numbers = isinstance(one, float) and isinstance(two, float)
        alike = math.isclose(one, two, rel_tol=1e-9) if numbers else one == two
        return None if alike else where
    return next((d for name, a, b in parts if (d := _difference(a, b, name))), None)
