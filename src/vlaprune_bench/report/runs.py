"""Commands and configurations of the runs that made a results folder."""

from __future__ import annotations

import warnings
from pathlib import Path

import yaml

from vlaprune_bench.files import read_text
from vlaprune_bench.types import N_TASKS, UserError


def read_runs(folder: Path) -> dict[str, str]:
    """Text of each `_runs/<run_id>.yaml`; one that cannot be read is named in a warning."""
    found = {}
    for path in sorted((folder / "_runs").glob("[!.]*.yaml")):
        try:
            text = read_text(path, "the configuration of a run")
            plan(text)
        except (UserError, yaml.YAMLError, ValueError, TypeError, LookupError) as error:
            why = " ".join(str(error).split()).rstrip(".")
            warnings.warn(f"{path} cannot be read ({why}): left out", stacklevel=3)
            continue
        found[path.stem] = text
    return found


def is_certifying(text: str) -> bool:
    """Whether a run's command was vlaprune-certify."""
    return text.startswith("# vlaprune-certify")


def plan(text: str) -> set[tuple[str, int, int, int]]:
    """The (suite, task, trial, seed) that a run's configuration asks for; a certificate's asks for
    as few as decide it."""
    if is_certifying(text):
        return set()
    config = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    if not isinstance(config, dict) or "suite" not in config:
        return set()
    suite = config["suite"]
    tasks = config.get("task_ids") or range(N_TASKS[suite])
    trials = range(config.get("trials", 50))
    return {(suite, task, trial, config.get("seed", 7)) for task in tasks for trial in trials}
