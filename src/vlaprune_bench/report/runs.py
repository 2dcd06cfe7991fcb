"""Commands and configurations of the runs that made a results folder."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from vlaprune_bench.config import EvalConfig
from vlaprune_bench.files import read_text
from vlaprune_bench.types import N_TASKS, UserError

CHOOSE = ("suite", "dimension", "base_tasks", "task_ids", "trials", "scenes", "suite_reading")
"""Options that choose the tasks and trials of a perturbed suite."""


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
    suite, seed = config["suite"], config.get("seed", 7)
    if suite in N_TASKS:
        tasks, trials = config.get("task_ids") or range(N_TASKS[suite]), config.get("trials", 50)
    else:
        tasks, trials = _of_perturbed(config)
    return {(suite, task, trial, seed) for task in tasks for trial in range(trials)}


def _of_perturbed(config: dict[str, Any]) -> tuple[Sequence[int], int]:
    """Tasks and trials a run of a perturbed suite asks for; none where its data is not at hand."""
    given = {name: config[name] for name in CHOOSE if name in config}
    plain = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
    what = EvalConfig.of(**plain).what
    try:
        return what.tasks, what.n_trials
    except UserError as error:
        sentence = f"what runs of {what.suite} lack is not counted: {error}"
        warnings.warn(sentence, stacklevel=4)
        return (), 0
