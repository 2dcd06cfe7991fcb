"""Is the scene of a trial the one the results folder knows? Compared before rows are added."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vlaprune_bench.types import SCENE, UserError

COLUMNS = (*SCENE, "scene_hash", "frames_hash")
"""What the guard reads of an episode's row."""


class SceneGuard:
    """Scenes by what determines them (`types.SCENE`), of any method, checkpoint or budget.

    Args:
        folder: of the results, for error sentences.
        rows: `COLUMNS` of the episodes it holds; those without a scene are passed over.
    """

    def __init__(self, folder: Path, rows: Iterable[Mapping[str, Any]] = ()) -> None:
        self._folder = folder
        self._scenes: dict[tuple[Any, ...], dict[int, str]] = {}
        """Scene hashes by trial, by everything else."""
        self._frames: dict[tuple[Any, ...], str] = {}
        for row in rows:
            if row["scene_hash"] is not None:
                self._scenes.setdefault(_place(row), {})[row["trial"]] = row["scene_hash"]
                if row["frames_hash"] is not None:
                    self._frames[*_place(row), row["trial"]] = row["frames_hash"]

    def first_trial(self, place: Mapping[str, Any]) -> int | None:
        """A trial whose scene is known where all but the trial is as in `place`: whoever opens the
        task compares it."""
        return min(self._scenes.get(_place(place), ()), default=None)

    def check(self, place: Mapping[str, Any], name: str, scene: str | None) -> None:
        """Refuse to put episodes of different scenes beside each other under one name.

        A scene seen for the first time is remembered: simulators of one run are compared, too.

        Args:
            place: the columns of `types.SCENE`.
            name: of the task.
            scene: its `scene_hash` here.

        Raises:
            UserError: this trial is known with another scene.
        """
        if scene is None:
            return
        trial = place["trial"]
        stored = self._scenes.setdefault(_place(place), {}).setdefault(trial, scene)
        if stored != scene:
            raise UserError(
                f"--output {self._folder} holds {name} trial {trial} with scene {stored}, "
                f"here it has scene {scene} (other versions of the simulator?): choose another "
                "folder, or run with the versions its rows name."
            )

    def compare_frames(self, place: Mapping[str, Any], frames: str | None) -> str | None:
        """What a row must say where a scene that is the same was drawn otherwise, or None.

        Not a reason to refuse: drivers differ by a pixel, and machines of a cluster by drivers.

        Args:
            place: the columns of `types.SCENE`.
            frames: its `frames_hash` here.
        """
        key = (*_place(place), place["trial"])
        if frames is None or frames == self._frames.setdefault(key, frames):
            return None
        return (
            "the first frames are not those of an earlier episode of this trial: drawn by another "
            "renderer or driver"
        )


def _place(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in SCENE if name != "trial")
