"""What is to be certified: terms fixed before any data, and the scenes they draw."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from vlaprune_bench.certify.bets import ESTIMANDS
from vlaprune_bench.config import EvalConfig, nearest
from vlaprune_bench.files import expand_paths
from vlaprune_bench.types import UserError

INIT_STATES = 50
"""Fixed init states of a task; trials from here on are placements of LIBERO's own."""
FRESH_SCENES = 1000
"""Fresh scenes a candidate may take, where nothing else is said."""
FRESH_FRACTION = 0.3
"""Share of the scenes the candidate solved that the reference runs, where nothing else is said."""


@dataclass(frozen=True)
class Terms:
    """Options of a certificate, as given."""

    keeps: tuple[float, ...] = ()
    """Keep ratios of the candidates, tested from the mildest on; empty: the method as it stands."""
    budget: float = 0.05
    """Share of what works that may be lost, between 0 and 1: certified is that less is."""
    confidence: float = 0.95
    """Confidence of the certificate, between 0 and 1."""
    estimand: str = "conditional"
    """What is lost: conditional, of the scenes the reference solves; or joint, of all scenes
    (weaker)."""
    reference_fraction: float | None = None
    """Share of the scenes a candidate solved that the reference runs, too (it runs on all it
    failed), above 0 and at most 1. By default 0.3 with fresh scenes; 1 with fixed ones, always."""
    max_scenes: int | None = None
    """Scenes each candidate may take. By default all fixed ones, or 1000 fresh ones."""
    draw: int = 0
    """Which draw of scenes: another number is another order, or other fresh scenes."""
    ahead: int | None = None
    """Scenes begun before those drawn earlier are done: more of them keep more simulators busy and
    cost so many episodes at the end. By default two a simulator, at least 4 (on Ray 32)."""
    profile: Path | None = None
    """Folder of vlaprune-profile: candidates are ordered by the latency it measured. By default by
    FLOPs, which fall with the keep ratio."""

    def __post_init__(self) -> None:
        expand_paths(self)
        for name, value in (("budget", self.budget), ("confidence", self.confidence)):
            if not 0 < value < 1:
                raise UserError(
                    f"--{name} is {value:g}; it must lie between 0 and 1, neither of them included."
                )
        if self.estimand not in ESTIMANDS:
            raise UserError(f"--estimand is {self.estimand}{nearest(self.estimand, ESTIMANDS)}.")
        q = self.reference_fraction
        if q is not None and not 0 < q <= 1:
            raise UserError(f"--reference-fraction is {q:g}; it must be above 0 and at most 1.")
        if q is not None and self.estimand == "joint":
            raise UserError(
                f"--reference-fraction is {q:g}; with --estimand joint the reference runs where a "
                "candidate failed and nowhere else: leave it out."
            )
        for name, number, least in (
            ("max-scenes", self.max_scenes, 1),
            ("ahead", self.ahead, 1),
            ("draw", self.draw, 0),
        ):
            if number is not None and number < least:
                raise UserError(f"--{name} is {number}; it must be at least {least}.")

    def design(self, config: EvalConfig) -> Design:
        """The design of these terms for an evaluation.

        Raises:
            UserError: they do not fit it.
        """
        what = config.what
        if what.pruner.name == "none":
            raise UserError("--method is none; name the method to certify against none.")
        if what.repeat:
            raise UserError(f"--repeat is {what.repeat}; a certificate is made of repeat 0.")
        fresh = what.scenes == "fresh"
        if fresh and what.trials != INIT_STATES:
            raise UserError(
                f"--trials is {what.trials}; fresh scenes are drawn without end: give --max-scenes."
            )
        size = None if fresh else len(what.tasks) * what.n_trials
        if size is not None and self.reference_fraction not in (None, 1.0):
            raise UserError(
                f"--reference-fraction is {self.reference_fraction:g}; with fixed scenes it must "
                "be 1 (--scenes fresh takes less)."
            )
        if size is not None and (self.max_scenes or 0) > size:
            raise UserError(
                f"--max-scenes is {self.max_scenes}; there are {size} fixed scenes "
                f"({len(what.tasks)} tasks x {what.n_trials})."
            )
        usual = FRESH_FRACTION if fresh and self.estimand == "conditional" else 1.0
        return Design(
            self.estimand,
            self.budget,
            self.confidence,
            self.reference_fraction or usual,
            what.suite,
            what.tasks,
            what.n_trials,
            size,
            self.max_scenes or size or FRESH_SCENES,
            self.draw,
        )


@dataclass(frozen=True)
class Scene:
    """A scene that was drawn."""

    task: int
    trial: int
    looked: bool
    """Z: whether the reference runs even where the candidate solved it."""


@dataclass(frozen=True)
class Design:
    """Everything the outcome depends on besides the episodes: fixed before any data."""

    estimand: str
    budget: float
    confidence: float
    fraction: float
    """q."""
    suite: str
    tasks: tuple[int, ...]
    trials: int
    """Fixed init states of a task that belong to the population."""
    size: int | None
    """Scenes of a fixed population; None: fresh ones without end."""
    most: int
    """Scenes a candidate may take."""
    draw: int

    @cached_property
    def scenes(self) -> list[Scene]:
        """The scenes in the order drawn: the same on every machine, for every candidate.

        Fixed ones are all pairs of task and trial, ordered by hash; fresh ones have a task drawn
        evenly and a trial of its own, far from any other draw's.
        """
        if self.size is not None:
            pairs = [(task, trial) for task in self.tasks for trial in range(self.trials)]
            pairs.sort(key=lambda pair: self._hash("order", *pair))
        else:
            pairs = []
            for number in range(self.most):
                task = self.tasks[self._hash("task", number) % len(self.tasks)]
                pairs.append((task, INIT_STATES + self._hash("trial", number) % (2**31 - 50)))
        return [
            Scene(task, trial, self._hash("look", task, trial) < self.fraction * 2**64)
            for task, trial in pairs[: self.most]
        ]

    def _hash(self, *what: object) -> int:
        """64 bits that follow from the draw, and from nothing a library may change."""
        text = " ".join(map(str, (self.suite, self.draw, *what)))
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")

    def needs_reference(self, scene: Scene, solved: bool) -> bool:
        """Whether a scene tells nothing without the reference, once the candidate ran it."""
        return not solved or (scene.looked and self.estimand == "conditional")

    @property
    def always(self) -> bool:
        """Whether every scene needs the reference, whatever the candidate does."""
        return self.fraction == 1 and self.estimand == "conditional"

    @property
    def population(self) -> str:
        """Where scenes are from, in words."""
        if self.size is None:
            return f"fresh scenes of {len(self.tasks)} tasks of {self.suite}, without end"
        tasks = f"{len(self.tasks)} tasks x {self.trials}"
        return f"the {self.size} fixed scenes of {self.suite} ({tasks})"


def with_keep(config: EvalConfig, keep: float) -> EvalConfig:
    """An evaluation with its method at another keep ratio.

    Raises:
        UserError: the method has no such option.
    """
    from vlaprune_bench.profile.config import at_keep

    if not 0 < keep <= 1:
        raise UserError(f"--keeps has {keep:g}; each must be above 0 and at most 1.")
    made = at_keep(config.what.pruner, keep)
    if made is None:
        raise UserError(
            f"--keeps is {keep:g}; {config.what.pruner.name} has no keep ratio: leave it out."
        )
    return config.but(pruner=made)
