"""Which episodes a certificate needs next: a sweep's schedule with a stopping rule."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence

import numpy as np

from vlaprune_bench.certify.bets import first_at, tells, wealth
from vlaprune_bench.certify.terms import Design, Scene
from vlaprune_bench.config import EvalConfig, digest
from vlaprune_bench.rollout.identity import Facts, identity
from vlaprune_bench.rollout.jobs import Job, Schedule
from vlaprune_bench.rollout.setup import Setup
from vlaprune_bench.types import EpisodeRow, EpisodeSpec, Status

Outcome = bool | None
"""Whether an episode solved its task; None: it ended in an error or a timeout."""


def outcome(status: str, success: bool | None) -> Outcome:
    """The outcome of a row."""
    return bool(success) if status == Status.OK else None


def path_of(design: Design, pairs: Sequence[tuple[Outcome, Outcome]]) -> np.ndarray:
    """Wealth after each scene.

    Args:
        design: the test.
        pairs: outcome of candidate and reference on the first scenes; the reference's is not read
            where it is not needed.

    Returns:
        (n,) float64.
    """
    lists = arrays(design, pairs)
    x = tells(*lists, design.budget, design.fraction, design.estimand)  # type: ignore[arg-type]
    return wealth(x, design.budget, design.size)


def arrays(
    design: Design, pairs: Sequence[tuple[Outcome, Outcome]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """R, C and Z, (n,) bool each: an error of the candidate is C = 0, of the reference R = 1."""
    reference = np.array([theirs is not False for _, theirs in pairs], bool)
    candidate = np.array([own is True for own, _ in pairs], bool)
    looked = np.array([scene.looked for scene in design.scenes[: len(pairs)]], bool)
    return reference, candidate, looked


def hopeless(design: Design, pairs: Sequence[tuple[Outcome, Outcome]]) -> bool:
    """Whether wealth cannot suffice any more, even if all the scenes still allowed were kept."""
    rest = design.most - len(pairs)
    best: list[tuple[Outcome, Outcome]] = [*pairs, *[(True, True)] * rest]
    return first_at(path_of(design, best), design.confidence) is None


def hopeless_at(design: Design, pairs: Sequence[tuple[Outcome, Outcome]]) -> int:
    """Number of scenes after which a hopeless test was hopeless first: how many were known by the
    time anybody looked must not tell."""
    return bisect_left(range(len(pairs)), True, key=lambda n: hopeless(design, pairs[:n]))


class Course(Schedule):
    """The episodes of a certificate, candidate after candidate, as far as they are known.

    Scenes are consumed in the order drawn, whichever comes in first: what is done ahead waits.

    Args:
        design: the test.
        cells: the reference, then the candidates in their order.
        facts: of checkpoint and assets.
        known: outcomes by episode id.
        setups: of the cells; None: nothing can be run, only what is known is looked at.
        ahead: scenes begun at once.
    """

    def __init__(
        self,
        design: Design,
        cells: Sequence[EvalConfig],
        facts: Facts,
        known: Mapping[str, Outcome],
        setups: Sequence[Setup] | None = None,
        ahead: int = 4,
    ) -> None:
        super().__init__(())
        self._design, self._cells, self._facts = design, cells, facts
        self._known, self._setups, self._ahead = dict(known), setups, ahead
        self._asked: set[str] = set()
        self._ids: dict[tuple[int, int], str] = {}
        self._pairs: list[tuple[Outcome, Outcome]] = []
        self._changed = True
        self.counted: list[list[tuple[str, str | None]]] = []
        """Of each decided candidate: episodes of candidate and reference, scene by scene."""
        self.path = np.zeros(0)
        """Wealth of the candidate that is not decided yet."""
        self.over = False
        self._advance()

    def __len__(self) -> int:
        self._advance()
        return super().__len__()

    def hear(self, row: EpisodeRow) -> None:
        """Take in an episode that has ended."""
        self._known[row.episode_id] = outcome(row.status, row.success)
        self._changed = True

    @property
    def candidate(self) -> int:
        """Number of the candidate that is tested now, from 0."""
        return len(self.counted)

    def _advance(self) -> None:
        """Consume what is known, decide what can be, and ask for what is needed next."""
        while self._changed and not self.over:
            self._changed = False
            self._consume()
            self.path = path_of(self._design, self._pairs)
            end = first_at(self.path, self._design.confidence)
            if end is None and not hopeless(self._design, self._pairs):
                self._request()
                return
            self.counted.append(self._episodes(end or hopeless_at(self._design, self._pairs)))
            self._forget_waiting()
            # the first that is not certified ends the sequence, as soon as that is sure
            self.over = end is None or self.candidate == len(self._cells) - 1
            self._pairs, self._changed = [], True

    def _consume(self) -> None:
        """Take scenes in their order, as long as all that is needed of each is known."""
        for number in range(len(self._pairs), self._design.most):
            own = self._id(self.candidate + 1, number)
            if own not in self._known:
                return
            theirs: Outcome = False
            if self._needs(number, self._known[own]):
                reference = self._id(0, number)
                if reference not in self._known:
                    return
                theirs = self._known[reference]
            self._pairs.append((self._known[own], theirs))

    def _needs(self, number: int, own: Outcome) -> bool:
        return self._design.needs_reference(self._design.scenes[number], own is True)

    def _request(self) -> None:
        if self._setups is None:
            return
        first = len(self._pairs)
        for number in range(first, min(first + self._ahead, self._design.most)):
            own = self._id(self.candidate + 1, number)
            self._ask(self.candidate + 1, number)
            known = own in self._known
            if self._design.always or (known and self._needs(number, self._known[own])):
                self._ask(0, number)

    def _ask(self, cell: int, number: int) -> None:
        episode = self._id(cell, number)
        if episode in self._known or episode in self._asked:
            return
        assert self._setups is not None
        self._asked.add(episode)
        self.put(Job(self._setups[cell], self._spec(cell, self._design.scenes[number])))

    def _forget_waiting(self) -> None:
        """Drop what nobody has begun."""
        for jobs in self._tasks.values():
            self._asked -= {job.episode_id for job in jobs}
        self._tasks.clear()

    def _episodes(self, end: int) -> list[tuple[str, str | None]]:
        """Ids of the first scenes' episodes; None where the reference was not needed."""
        found: list[tuple[str, str | None]] = []
        for number in range(end):
            own = self._id(self.candidate + 1, number)
            needed = self._needs(number, self._known[own])
            found.append((own, self._id(0, number) if needed else None))
        return found

    def _id(self, cell: int, number: int) -> str:
        key = cell, number
        if key not in self._ids:
            config = self._cells[cell]
            spec = self._spec(cell, self._design.scenes[number])
            self._ids[key] = digest(identity(config, spec, self._facts))
        return self._ids[key]

    def _spec(self, cell: int, scene: Scene) -> EpisodeSpec:
        what = self._cells[cell].what
        return EpisodeSpec(
            what.suite, scene.task, scene.trial, what.seed, what.evaluation.name, what.budget
        )
