"""Run what a certificate needs, and make it: a sweep with a stopping rule, on the same engine."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlaprune_bench.certify.certificate import Row, make, read_certificate
from vlaprune_bench.certify.course import Course, hopeless, outcome
from vlaprune_bench.certify.order import Candidate
from vlaprune_bench.certify.statement import page
from vlaprune_bench.certify.terms import Design
from vlaprune_bench.config import EvalConfig, method_options
from vlaprune_bench.pruning.none import NoPruning
from vlaprune_bench.rollout.display import Display
from vlaprune_bench.rollout.identity import Facts, known_facts
from vlaprune_bench.rollout.interrupt import INTERRUPTED
from vlaprune_bench.rollout.launcher import Launcher, Local
from vlaprune_bench.rollout.pool import count_workers
from vlaprune_bench.rollout.runner import Runner
from vlaprune_bench.rollout.setup import Setup
from vlaprune_bench.store import Store, read_episodes
from vlaprune_bench.types import EpisodeRow, UserError

LEAST_AHEAD, RAY_AHEAD = 4, 32


def certify(
    design: Design,
    candidates: Sequence[Candidate],
    order: str,
    path: Path,
    command_line: Sequence[str],
    *,
    launcher: Launcher | None = None,
    ahead: int | None = None,
) -> tuple[int, dict[str, Any] | None]:
    """Run the episodes a certificate needs and the results folder lacks, and write it.

    Args:
        design: the test.
        candidates: in their order.
        order: what orders them, in words.
        path: where the certificate goes; its page beside it, as Markdown.
        command_line: kept beside the configurations.
        launcher: where episodes run; by default on this machine.
        ahead: scenes begun at once; None: as many as suit the simulators.

    Returns:
        The exit code, and the certificate; None: interrupted.

    Raises:
        UserError: something the user can put right.
    """
    who = [describe(candidate) for candidate in candidates]
    if hopeless(design, []):
        raise UserError(
            f"--max-scenes, or the population, is {design.most} scenes: even if none was lost they "
            f"could not certify a budget of {design.budget:g} with confidence "
            f"{design.confidence:g}: give more scenes or a larger budget."
        )
    _refuse_other(path, design, who)
    first = candidates[0].config
    cells = [first.but(pruner=NoPruning()), *(one.config for one in candidates)]
    store = Store(first.storage.output)
    with store.writing() as set_aside, Display(cells, design.most) as display:
        for sentence in set_aside:
            display.warn(sentence)
        runner = Runner(store, display, launcher or Local())
        if ahead is None:
            workers, _ = count_workers(first.compute.workers)
            ahead = RAY_AHEAD if launcher else max(LEAST_AHEAD, 2 * workers)
        course = _play(runner, design, cells, command_line, ahead)
        store.compact()
        if not course.over:
            display.say("interrupted: what was finished is kept, the same command goes on")
            return INTERRUPTED, None
        made = make(design, who, order, _rows(store.folder, course))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(page(made), encoding="utf-8")
    return 0, made


def describe(candidate: Candidate) -> dict[str, Any]:
    """A candidate as plain data."""
    pruner = candidate.config.what.pruner
    return {
        "label": candidate.label,
        "method": pruner.name,
        "method_options": json.dumps(method_options(pruner)),
        "cost": candidate.cost,
    }


def _refuse_other(path: Path, design: Design, who: Sequence[dict[str, Any]]) -> None:
    """Refuse to write over the certificate of another design."""
    if not path.exists():
        return
    made = read_certificate(path)
    there = {**made["design"], "tasks": tuple(made["design"]["tasks"])}
    same = [{name: one.get(name) for name in who[0]} for one in made["candidates"]] == list(who)
    if Design(**there) != design or not same:
        raise UserError(
            f"--certificate {path} holds the certificate of other terms or candidates: give "
            "another file."
        )


def _play(
    runner: Runner,
    design: Design,
    cells: Sequence[EvalConfig],
    command_line: Sequence[str],
    ahead: int,
) -> Course:
    """Run what is missing; what earlier commands ran is taken as it is."""
    folder = runner.store.folder
    table, _ = read_episodes(folder, ["episode_id", "status", "success"])
    known = {r["episode_id"]: outcome(r["status"], r["success"]) for r in table.to_pylist()}
    facts: Facts | None = known_facts(folder, cells[0])
    if facts and runner.launcher.confirmed(cells[0], facts):
        course = Course(design, cells, facts, known)
        if course.over:
            runner.display.say("finished: nothing left to run")
            return course
    loaded = runner.load(cells, command_line)
    setups = [Setup(cell, loaded) for cell in cells]
    course = Course(design, cells, loaded.facts, known, setups, ahead)
    told = [(0, 0)]

    def hear(row: EpisodeRow) -> None:
        course.hear(row)
        len(course)  # consume it
        if (now := (course.candidate, len(course.path))) != told[0] and not course.over:
            told[0] = now
            runner.display.say(
                f"candidate {now[0] + 1} of {len(cells) - 1}: {now[1]} of at most {design.most} "
                f"scenes, wealth {course.path[-1] if now[1] else 1:.3g} of the "
                f"{1 / (1 - design.confidence):.3g} needed"
            )

    runner.play(course, hear)
    return course


def _rows(folder: Path, course: Course) -> list[list[tuple[Row, Row | None]]]:
    """The rows a course counted."""
    rows = rows_by_id(folder)
    return [
        [(rows[own], rows[theirs] if theirs else None) for own, theirs in pairs]
        for pairs in course.counted
    ]


def rows_by_id(place: Path) -> dict[str, Row]:
    """Every episode of a results folder or exported file, by id."""
    return {row["episode_id"]: row for row in read_episodes(place)[0].to_pylist()}
