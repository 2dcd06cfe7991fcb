"""Is the scene of a trial the one the results folder knows? Compared before rows are added."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vlaprune_bench.config import EvalConfig
from vlaprune_bench.store import Store, load_results
from vlaprune_bench.types import PROTOCOLS, UserError

if TYPE_CHECKING:
    from vlaprune_bench.sim.libero import LiberoTask


class StoredScenes:
    """Scene of each (task, trial) a results folder holds, of any method, checkpoint or budget."""

    def __init__(self, config: EvalConfig, store: Store, assets_hash: str) -> None:
        self._folder = store.folder
        self._opened: LiberoTask | None = None
        self._scenes: dict[tuple[int, int], str] = {}
        if not store.done():
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
        keys = zip(rows.task, rows.trial, strict=True)
        self._scenes = dict(zip(keys, rows.scene_hash, strict=True))

    def check_task(self, task: LiberoTask) -> None:
        """Compare the first stored scene of a task, once it was opened; a reset must follow.

        Raises:
            UserError: as `check`.
        """
        if task is self._opened:
            return
        self._opened = task
        trial = min((k for index, k in self._scenes if index == task.task), default=None)
        if trial is not None:
            self.check(task, trial, task.fingerprint(trial))

    def check(self, task: LiberoTask, trial: int, scene: str | None) -> None:
        """Refuse to put episodes of different scenes beside each other under one name.

        Raises:
            UserError: the folder holds this trial with another scene.
        """
        stored = self._scenes.get((task.task, trial), scene)
        if stored != scene:
            raise UserError(
                f"--output {self._folder} holds {task.name} trial {trial} with scene {stored}, "
                f"here it has scene {scene} (other versions of the simulator?): choose another "
                "folder, or run with the versions its rows name."
            )
