"""One configuration on a loaded policy: its episodes, and the row each becomes."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from vlaprune_bench.config import EvalConfig, digest, method_options, run_id
from vlaprune_bench.rollout.episode import Progress, run_episode
from vlaprune_bench.rollout.identity import Facts, identity, specs
from vlaprune_bench.rollout.provenance import git_revision, versions
from vlaprune_bench.rollout.scenes import StoredScenes
from vlaprune_bench.store import Store
from vlaprune_bench.types import PROTOCOLS, CallRow, EpisodeRow, EpisodeSpec, Status, UserError

if TYPE_CHECKING:
    from vlaprune_bench.rollout.runner import SwappablePolicy
    from vlaprune_bench.sim.assets import AssetSet
    from vlaprune_bench.sim.libero import LiberoTask


def evaluate(config: EvalConfig, command_line: list[str]) -> int:
    """Run what is missing in the results folder; see `runner.run_cells`."""
    from vlaprune_bench.rollout.runner import run_cells

    return run_cells([config], command_line)


@dataclass
class Engine:
    """One configuration on a loaded policy: what its episodes share."""

    config: EvalConfig
    store: Store
    policy: SwappablePolicy
    assets: AssetSet
    gl_backend: str
    shapes_seen: set[tuple[int, ...]] = field(default_factory=set)
    """Sequence lengths already run: the first call of each is a warm-up."""

    @property
    def facts(self) -> Facts:
        info = self.policy.info
        return Facts(info.policy, info.checkpoint_hash, self.assets.hash, info.dtype)

    def specs(self) -> list[EpisodeSpec]:
        """The episodes asked for, task by task, trials in order."""
        return specs(self.config)

    def run(self) -> int:
        """Run what the store does not hold yet; see `runner.Runner`."""
        from vlaprune_bench.rollout.runner import run_engines

        return run_engines([self])

    def open(self, spec: EpisodeSpec) -> LiberoTask:
        """The task of an episode, simulated; to be closed."""
        from vlaprune_bench.sim.libero import LiberoTask

        return LiberoTask(
            spec.suite,
            spec.task,
            self.assets,
            PROTOCOLS[spec.protocol],
            sim=self.config.sim,
            scenes=self.config.scenes,
        )

    def episode(
        self, task: LiberoTask, spec: EpisodeSpec, scenes: StoredScenes, notes: Sequence[str] = ()
    ) -> tuple[EpisodeRow, list[CallRow]]:
        """One episode, whatever comes of it: an exception is a row with status error.

        Args:
            task: of the episode.
            spec: which episode.
            scenes: what the results folder knows of the task's scenes.
            notes: what else the reader of the row must know.
        """
        episode_id = digest(identity(self.config, spec, self.facts))
        self.policy.pruner = self.config.pruner  # of many engines that share the policy
        progress = Progress()
        started, t0 = datetime.now(UTC), time.perf_counter()
        reset_s: list[float] = []
        error = None

        def after_reset() -> None:
            reset_s.append(time.perf_counter() - t0)
            scenes.check(task, spec.trial, task.scene_hash)

        try:
            scenes.check_task(task)
            with self.video(episode_id, spec, progress) as watch:
                run_episode(
                    task,
                    self.policy,
                    spec,
                    # a function of the episode alone: methods that draw at random repeat
                    episode_seed=int(digest(asdict(spec)), 16),
                    execute_steps=self.config.executed,
                    progress=progress,
                    after_reset=after_reset,
                    watch=watch,
                    watch_every_step=self.config.video == "all",
                )
        except UserError:
            raise
        except Exception as failure:  # noqa: BLE001 - recorded as the episode's status
            where = traceback.extract_tb(failure.__traceback__)[-1]
            error = f"{type(failure).__name__}: {failure} ({where.name}, line {where.lineno})"
        calls = self.call_rows(episode_id, progress)
        row = EpisodeRow(
            episode_id=episode_id,
            status=Status.OK if error is None else Status.ERROR,
            error=error,
            success=progress.success if error is None else None,
            steps=progress.steps,
            calls=len(calls),
            init_state_hash=task.init_state_hash if reset_s else None,
            scene_hash=task.scene_hash if reset_s else None,
            task_name=task.name,
            instruction=task.instruction,
            wall_s=time.perf_counter() - t0,
            reset_s=reset_s[0] if reset_s else None,
            started_at=started.isoformat(timespec="seconds"),
            sim=task.sim,
            self_check=task.self_check,
            warnings=[*self.warnings(), *_warnings_of(task), *notes],
            **_costs(calls),
            **self.shared(spec),
        )
        return row, calls

    def shared(self, spec: EpisodeSpec) -> dict[str, Any]:
        """Columns that follow from the run and the spec alone."""
        info, pruner, protocol = self.policy.info, self.config.pruner, PROTOCOLS[spec.protocol]
        return {
            **asdict(spec),
            "run_id": run_id(self.config),
            "env_seed": protocol.env_seed,
            "execute_steps": self.config.executed,
            "scenes": self.config.scenes,
            "method": pruner.name,
            "method_options": json.dumps(method_options(pruner)),
            "keep": pruner.keep_ratio,
            "policy": info.policy,
            "checkpoint": info.name,
            "checkpoint_hash": info.checkpoint_hash,
            "checkpoint_trained": info.trained,
            "assets": self.assets.kind,
            "assets_hash": self.assets.hash,
            "batch_size": 1,
            "device": info.device,
            "dtype": info.dtype,
            "attention": info.attention,
            "gl_backend": self.gl_backend,
            "versions": versions(),
            "git_revision": git_revision(),
        }

    def warnings(self) -> list[str]:
        """What the reader of a row must know."""
        info = self.policy.info
        found = []
        if not info.trained:
            found.append(f"{info.name} is untrained: its success rate means nothing")
        if self.assets.kind != info.assets:
            found.append(
                f"{info.name} was made for {info.assets} assets and ran on {self.assets.kind} ones"
            )
        return found

    def call_rows(self, episode_id: str, progress: Progress) -> list[CallRow]:
        rows = []
        for call, (measures, step) in enumerate(
            zip(progress.measures, progress.call_steps, strict=True)
        ):
            shape = tuple(measures.tokens_per_layer)
            rows.append(
                CallRow(
                    episode_id=episode_id,
                    call=call,
                    step=step,
                    warmup=shape not in self.shapes_seen,
                    **asdict(measures),
                )
            )
            self.shapes_seen.add(shape)
        return rows

    @contextmanager
    def video(self, episode_id: str, spec: EpisodeSpec, progress: Progress) -> Iterator[Any]:
        """A watcher that writes the episode's video, or None where none is asked for."""
        if self.config.video == "none":
            yield None
            return
        from vlaprune_bench.report.video import VideoWriter, compose, dim_pruned

        protocol = PROTOCOLS[spec.protocol]
        name = f"{spec.suite}-task{spec.task}-trial{spec.trial}-{self.config.pruner.name}"
        path = self.store.folder / "_videos" / f"{name}-{episode_id}.mp4"
        grids = self.policy.info.grids
        fps = 20.0 if self.config.video == "all" else 4.0

        with VideoWriter(path, fps) as writer:

            def watch(observation: Any, progress: Progress) -> None:
                last = progress.measures[-1]
                caption = (
                    f"{self.config.pruner.name}  step {progress.steps}/{spec.max_steps}  "
                    f"tokens {last.visual_tokens_kept}/{last.visual_tokens}"
                    f"{'  SUCCESS' if progress.success else ''}"
                )
                shown = dim_pruned(observation.images, last.kept_visual, grids, protocol.crop_area)
                writer.add(compose(shown, caption))

            yield watch


def _warnings_of(task: LiberoTask) -> list[str]:
    if task.self_check in (None, "passed"):
        return []
    return [f"the fast simulator path is not exact here ({task.self_check}): took the reference"]


def _costs(calls: list[CallRow]) -> dict[str, Any]:
    """Means over an episode's calls; None where there is nothing to average."""
    steady = [call.latency_total_ms for call in calls if not call.warmup]

    def mean(values: list[float]) -> float | None:
        return float(np.mean(values)) if values else None

    return {
        "pruned_call_fraction": mean([float(call.pruned) for call in calls]),
        "visual_tokens_kept_mean": mean([float(call.visual_tokens_kept) for call in calls]),
        "llm_prefill_macs_mean": mean([float(call.llm_prefill_macs) for call in calls]),
        "total_flops_mean": mean([float(call.total_flops) for call in calls]),
        "latency_p50_ms": float(np.median(steady)) if steady else None,
        "latency_mean_ms": mean(steady),
    }
