"""Is the scene of a trial the one the results folder knows? Compared before rows are added."""

from __future__ import annotations

from vlaprune_bench.config import EvalConfig
from vlaprune_bench.store import Store, load_results
from vlaprune_bench.types import PROTOCOLS, UserError


class StoredScenes:
    """Scene of each (task, trial) a results folder holds, of any method, checkpoint or budget.

    Without a folder (`store` is None, as on the nodes of a cluster) none is known at first.
    """

    def __init__(self, config: EvalConfig, store: Store | None, assets_hash: str) -> None:
        self._folder = store.folder if store else config.output
        self._scenes: dict[tuple[int, int], str] = {}
        self._frames: dict[tuple[int, int], str] = {}
        if store is None or not store.done():
            return
        rows = load_results(store.folder).dropna(subset=["scene_hash"])
        same = {
            "suite": config.suite,
            "scenes": config.scenes,
            "env_seed": PROTOCOLS[config.protocol].env_seed,
            "assets_hash": assets_hash,
        }
        for column, value in same.items():
            rows = rows[rows[column] == value]
        keys = list(zip(rows.task, rows.trial, strict=True))
        self._scenes = dict(zip(keys, rows.scene_hash, strict=True))
        drawn = zip(keys, rows.frames_hash, strict=True)
        self._frames = {key: frames for key, frames in drawn if isinstance(frames, str)}

    def first_trial(self, task: int) -> int | None:
        """A trial of a task whose scene is known: whoever opens the task compares it."""
        return min((trial for index, trial in self._scenes if index == task), default=None)

    def check(self, task: int, trial: int, name: str, scene: str | None) -> None:
        """Refuse to put episodes of different scenes beside each other under one name.

        A scene seen for the first time is remembered: simulators of one run are compared, too.

        Args:
            task: index within the suite.
            trial: of the task.
            name: of the task.
            scene: its `scene_hash` here.

        Raises:
            UserError: this trial is known with another scene.
        """
        if scene is None:
            return
        stored = self._scenes.setdefault((task, trial), scene)
        if stored != scene:
            raise UserError(
                f"--output {self._folder} holds {name} trial {trial} with scene {stored}, "
                f"here it has scene {scene} (other versions of the simulator?): choose another "
                "folder, or run with the versions its rows name."
            )

    def compare_frames(self, task: int, trial: int, frames: str | None) -> str | None:
        """What a row must say where a scene that is the same was drawn otherwise, or None.

        Not a reason to refuse: drivers differ by a pixel, and machines of a cluster by drivers.

        Args:
            task: index within the suite.
            trial: of the task.
            frames: its `frames_hash` here.
        """
        if frames is None or frames == self._frames.setdefault((task, trial), frames):
            return None
        return (
            "the first frames are not those of an earlier episode of this trial: drawn by another "
            "renderer or driver"
        )
