"""What makes an episode the same episode, wherever and whenever it runs. No torch needed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vlaprune_bench.config import EvalConfig, canonical, digest, method_options
from vlaprune_bench.types import EpisodeSpec


@dataclass(frozen=True)
class Facts:
    """The part of an episode's identity that the checkpoint and the assets at hand tell."""

    policy: str
    """openvla or openvla-oft."""
    checkpoint_hash: str
    assets_hash: str
    dtype: str
    options: str = "{}"
    """Of the policy's own, JSON; see `PolicyInfo.options`."""


def specs(config: EvalConfig) -> list[EpisodeSpec]:
    """The episodes a configuration asks for, task by task, trials in order."""
    return [
        EpisodeSpec(config.suite, task, trial, config.seed, config.protocol, config.budget)
        for task in config.tasks
        for trial in range(config.trials)
    ]


def identity(config: EvalConfig, spec: EpisodeSpec, facts: Facts) -> dict[str, Any]:
    """What an episode is, as plain data; its digest is the episode's id."""
    return {
        **asdict(spec),
        "scenes": config.scenes,
        "execute_steps": config.executed,
        "method": config.pruner.name,
        "method_options": method_options(config.pruner),
        **{k: v for k, v in asdict(facts).items() if (k, v) != ("options", "{}")},
        "attention": config.attention,
    }


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
    """The options that facts follow from, on one machine."""
    names = ("checkpoint", "suite", "policy", "cameras", "unnorm_key", "device", "dtype", "assets")
    return {name: getattr(config, name) for name in names}


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
        None: nothing ran there with these settings, or the checkpoint's files have changed since.
    """
    path = folder / "_runs" / _note_name(config)
    if not path.is_file():
        return None
    note = json.loads(path.read_text())
    checkpoint = Path(note["checkpoint_folder"])
    if checkpoint.is_dir() and _stamp(checkpoint) != note["checkpoint_stamp"]:
        return None
    return Facts(**note["facts"])


def _note_name(config: EvalConfig) -> str:
    return f"facts-{digest(settings(config))}.json"


def _stamp(folder: Path) -> str:
    """Changes when a file of the folder does; contents are not read."""

    def files() -> Iterator[tuple[str, int, int]]:
        for path in sorted(folder.iterdir()):
            stat = path.stat() if path.exists() else path.lstat()  # a link to nothing
            yield path.name, stat.st_size, stat.st_mtime_ns

    return digest(list(files()))
