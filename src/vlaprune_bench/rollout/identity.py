"""What makes an episode the same episode, wherever and whenever it runs. No torch needed."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_type_hints

from vlaprune_bench.config import (
    OPTIONS,
    EvalConfig,
    What,
    canonical,
    digest,
    method_options,
    to_dict,
    without_pace,
)
from vlaprune_bench.measure.latencies import is_number, latencies, latency_identity
from vlaprune_bench.rollout.clock import Timing
from vlaprune_bench.sim.variants import Variant, parse
from vlaprune_bench.sim.variants import identity as variant_identity
from vlaprune_bench.types import (
    CONTROL_STEP_MS,
    DEFAULTS,
    IDENTITY,
    NO_OPTIONS,
    EpisodeRow,
    EpisodeSpec,
    UserError,
)


@dataclass(frozen=True)
class Facts:
    """The part of an episode's identity that the checkpoint and the assets at hand tell."""

    policy: str
    """openvla or openvla-oft."""
    checkpoint_hash: str
    assets_hash: str
    dtype: str
    chunk: int
    """Actions a call gives."""
    action_steps: int = 0
    """Of these, what the checkpoint says to execute; 0: it does not say."""
    unpinned: str = ""
    """Versions of the simulator that are not the pinned ones, JSON; empty: none."""
    policy_options: str = NO_OPTIONS
    """The policy's own, JSON."""
    served: str = ""
    """Method, its options and the attention backend of a policy that runs elsewhere, JSON; "": the
    configuration's."""


def specs(config: EvalConfig) -> list[EpisodeSpec]:
    """The episodes a configuration asks for, task by task, trials in order."""
    what = config.what
    protocol, budget = what.evaluation.name, what.budget  # once: they may look at files
    return [
        EpisodeSpec(what.suite, task, trial, what.seed, protocol, budget)
        for task in what.tasks
        for trial in range(what.n_trials)
    ]


def identity(config: EvalConfig, spec: EpisodeSpec, facts: Facts) -> dict[str, Any]:
    """What an episode is, as plain data; its digest is the episode's id.

    It has the columns of `types.IDENTITY`, but those that joined later and have their default.
    """
    what = config.what
    method, options = what.pruner.name, method_options(what.pruner)
    attention = config.compute.attention
    if facts.served:
        method, said, attention = json.loads(facts.served)
        options = json.loads(said)
    timing(what, facts)  # whatever is wrong with it is said before anything runs
    known = {
        **asdict(spec),
        "clock": what.clock,
        "latency": latency_identity(what.latency) if what.latency else "",
        "tick": what.tick,
        "scenes": what.scenes,
        "variants": edits(what),
        "suite_reading": what.suite_reading,
        "execute_steps": _named_steps(what, facts),
        "repeat": what.repeat,
        "method": method,
        "method_options": options,
        **asdict(facts),
        "attention": attention,
    }
    later = DEFAULTS[EpisodeRow]
    return {k: known[k] for k in IDENTITY if k not in later or known[k] != later[k]}


def edits(what: What) -> str:
    """What is edited of the scenes, JSON; empty: nothing. Scales of severities are part of it."""
    return variant_identity(parse_variants(what)) if what.variants else ""


def parse_variants(what: What) -> tuple[Variant, ...]:
    """The variants asked for, in order."""
    return tuple(parse(text) for text in what.variants)


def executed(what: What, facts: Facts) -> int:
    """Actions of a chunk that are executed before the policy is called again.

    Raises:
        UserError: more are asked for than a call gives.
    """
    if what.execute_steps is not None and what.execute_steps > facts.chunk:
        raise UserError(
            f"--execute-steps is {what.execute_steps}; a call of {what.checkpoint} gives "
            f"{facts.chunk} action{'s' * (facts.chunk > 1)}: give 1 to {facts.chunk}."
        )
    return min(_usual_steps(what, facts), facts.chunk)


def timing(what: What, facts: Facts) -> Timing:
    """How the calls of an episode take simulated time.

    Raises:
        UserError: the latency's file lacks the method, or a chunk is too short for the clock.
    """
    if what.clock == "stop" or what.latency is None:
        return Timing()
    method, keep = what.pruner.name, what.pruner.keep_ratio
    if facts.served:
        method, said, _ = json.loads(facts.served)
        keep = json.loads(said).get("keep")
    tables = {pruned: latencies(what.latency, method, keep, pruned) for pruned in (True, False)}
    found = Timing(what.clock, what.tick, tables[True], tables[False])
    if what.clock == "async":
        _check_overlap(what, facts, found)
    return found


def _check_overlap(what: What, facts: Facts, found: Timing) -> None:
    """A chunk must reach beyond the next call, or there is nothing to go on with."""
    steps = executed(what, facts)
    if steps >= facts.chunk:
        raise UserError(
            f"--clock is async; all {facts.chunk} actions of a chunk are executed before the next "
            "call, so nothing is left to go on with while it runs: give --execute-steps 1 to "
            f"{facts.chunk - 1}, or --clock hold."
        )
    most = found.most_steps()
    if is_number(str(what.latency)) and most >= facts.chunk:
        raise UserError(
            f"--latency is {what.latency}; a call takes up to {most} control steps of "
            f"{CONTROL_STEP_MS:g} ms, and its chunk of {facts.chunk} actions is over by then: give "
            "less, or --clock hold."
        )


def _usual_steps(what: What, facts: Facts) -> int:
    """Steps executed where the chunk is long enough."""
    by_protocol = what.execute_steps or what.evaluation.execute_steps
    return by_protocol or facts.action_steps or facts.chunk


def _named_steps(what: What, facts: Facts) -> int:
    """The executed steps as ids name them.

    Where a chunk is shorter than the protocol's number and all of it is executed, that number
    stands for it: it did before rows said what was executed, and ids stay.
    """
    steps, usual = executed(what, facts), what.evaluation.execute_steps
    return usual if usual and steps == facts.chunk < usual else steps


def what_runs(config: EvalConfig) -> str:
    """Which episodes a configuration asks for, before anything is loaded: equal for two that would
    run the same, whatever their options are called."""
    bare = config.but(pruner=config.what.pruner.canonical())
    anything = Facts("", "", "", "", chunk=sys.maxsize)
    known = identity(bare, specs(bare)[0], anything)
    return canonical([known, bare.what.tasks, bare.what.n_trials, settings(bare)])


def draw_seed(spec: EpisodeSpec) -> int:
    """Seed of an episode's random draws: a function of the episode alone, so that methods that
    draw at random repeat."""
    return int(digest(spec.named), 16)


def noise_seed(spec: EpisodeSpec) -> int:
    """Seed of what a policy itself draws: the same whatever method, budget or protocol."""
    return int(digest([spec.seed, spec.suite, spec.task, spec.trial]), 16)


def episode_ids(config: EvalConfig, facts: Facts) -> dict[tuple[int, int], str]:
    """Ids of all episodes of a configuration by task and trial: `digest(identity(...))`, fast.

    A plan has 100,000 of them: the text that is hashed is made once, with places for the numbers.
    """
    episodes = specs(config)
    data = identity(config, episodes[0], facts)
    text = canonical({**data, "task": "<task>", "trial": "<trial>"})
    before, between = text.split('"<task>"')
    between, after = between.split('"<trial>"')
    return {
        (spec.task, spec.trial): hashlib.sha256(
            f"{before}{spec.task}{between}{spec.trial}{after}".encode()
        ).hexdigest()[:12]
        for spec in episodes
    }


def settings(config: EvalConfig) -> dict[str, Any]:
    """The options of what is loaded, which facts follow from on one machine."""
    options = without_pace(to_dict(config))
    return {k: v for k, v in options.items() if not OPTIONS[k].metadata.get("cell")}


def facts_note(config: EvalConfig, facts: Facts, checkpoint: Path) -> tuple[str, str]:
    """Name and text of the note by which a later plan knows the facts without a model."""
    note = {
        "settings": settings(config),
        "facts": asdict(facts),
        "checkpoint_folder": str(checkpoint),
        "checkpoint_stamp": _stamp(checkpoint),
    }
    return _note_name(config), json.dumps(note, indent=1)


def known_facts(folder: Path, config: EvalConfig) -> Facts | None:
    """Facts an earlier run in this results folder found out, if they still hold.

    Returns:
        None: nothing ran there with these settings, the checkpoint's files have changed since, or
            the note was damaged or written by another version: they are found out anew.
    """
    path = folder / "_runs" / _note_name(config)
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
        checkpoint = Path(note["checkpoint_folder"])
        if checkpoint.is_dir() and _stamp(checkpoint) != note["checkpoint_stamp"]:
            return None
        facts = Facts(**note["facts"])
    except (FileNotFoundError, ValueError, LookupError, TypeError):
        return None
    kinds = get_type_hints(Facts)
    return facts if all(isinstance(getattr(facts, n), kinds[n]) for n in kinds) else None


def _note_name(config: EvalConfig) -> str:
    return f"facts-{digest(settings(config))}.json"


def _stamp(folder: Path) -> str:
    """Changes when a file of the folder does; contents are not read."""

    def files() -> Iterator[tuple[str, int, int]]:
        for path in sorted(folder.iterdir()):
            if path.exists():  # not a link that leads nowhere
                stat = path.stat()
                yield path.name, stat.st_size, stat.st_mtime_ns

    return digest(list(files()))
