"""Run the episodes a configuration asks for and write a row for each."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from vlaprune_bench.config import EvalConfig, digest, dump, method_options, run_id
from vlaprune_bench.rollout.display import Display
from vlaprune_bench.rollout.episode import Progress, run_episode
from vlaprune_bench.rollout.provenance import git_revision, versions
from vlaprune_bench.store import Store
from vlaprune_bench.tracking import Tracker
from vlaprune_bench.types import PROTOCOLS, CallRow, EpisodeRow, EpisodeSpec, Status, UserError

if TYPE_CHECKING:
    from vlaprune_bench.policies.base import Policy
    from vlaprune_bench.sim.assets import AssetSet
    from vlaprune_bench.sim.libero import LiberoTask

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


def evaluate(config: EvalConfig, command_line: list[str]) -> int:
    """Run what is missing in the results folder.

    Returns:
        Exit code: 0, 1 where an episode ended in an error, 130 after Ctrl-C.

    Raises:
        UserError: something the user can put right, found before the first episode.
    """
    store = Store(config.output)
    # the renderer is chosen before anything imports mujoco
    from vlaprune_bench.sim.gl import choose_gl

    gl_backend = choose_gl()
    from vlaprune_bench.policies import load_policy
    from vlaprune_bench.sim.assets import resolve_assets

    policy = load_policy(
        config.checkpoint,
        config.pruner,
        suite=config.suite,
        device=config.device,
        dtype=config.dtype,
        attention=config.attention,
        protocol=PROTOCOLS[config.protocol],
        count_every=config.count_flops_every,
        policy=config.policy,
    )
    assets = resolve_assets(config.assets, policy.info.assets)
    engine = Engine(config, store, policy, assets, gl_backend)
    store.save_config(run_id(config), f"# {' '.join(command_line)}\n{dump(config)}")
    return engine.run()


@dataclass
class Engine:
    """Everything the episodes of one run share."""

    config: EvalConfig
    store: Store
    policy: Policy
    assets: AssetSet
    gl_backend: str
    shapes_seen: set[tuple[int, ...]] = field(default_factory=set)
    """Sequence lengths already run: the first call of each is a warm-up."""

    def specs(self) -> list[EpisodeSpec]:
        """The episodes asked for, task by task, trials in order."""
        config = self.config
        return [
            EpisodeSpec(config.suite, task, trial, config.seed, config.protocol, config.budget)
            for task in config.tasks
            for trial in range(config.trials)
        ]

    def identity(self, spec: EpisodeSpec) -> dict[str, Any]:
        """What makes an episode the same episode, wherever and whenever it runs."""
        info = self.policy.info
        return {
            **asdict(spec),
            "method": self.config.pruner.name,
            "method_options": method_options(self.config.pruner),
            "policy": info.policy,
            "checkpoint_hash": info.checkpoint_hash,
            "assets_hash": self.assets.hash,
            "dtype": info.dtype,
            "attention": info.attention,
        }

    def run(self) -> int:
        """Run what the store does not hold yet; Ctrl-C keeps what was finished."""
        specs = self.specs()
        done = self.store.done()
        missing = [spec for spec in specs if digest(self.identity(spec)) not in done]
        code = 0
        with Display(self.config, total=len(specs), skipped=len(specs) - len(missing)) as display:
            for warning in self.warnings():
                display.warn(warning)
            try:
                with Tracker(self.config) as tracker:
                    for row in self.rows(missing):
                        tracker.log(row)
                        display.show(row)
                        code = max(code, int(row.status != Status.OK))
            except KeyboardInterrupt:
                display.say("interrupted: what was finished is kept, the same command goes on")
                code = INTERRUPTED
        display.summary(self.store)
        return code

    def rows(self, specs: list[EpisodeSpec]) -> Iterator[EpisodeRow]:
        """Run episodes one after the other; each is written before it is yielded."""
        from vlaprune_bench.sim.libero import LiberoTask

        with ExitStack() as stack:
            task: LiberoTask | None = None
            for spec in specs:
                if task is None or task.task != spec.task:
                    stack.close()
                    task = stack.enter_context(
                        LiberoTask(spec.suite, spec.task, self.assets, PROTOCOLS[spec.protocol])
                    )
                row, calls = self.episode(task, spec)
                self.store.append(row, calls)
                yield row
                if row.status != Status.OK:
                    # whatever went wrong may have left the simulator in any state
                    stack.close()
                    task = None

    def episode(self, task: LiberoTask, spec: EpisodeSpec) -> tuple[EpisodeRow, list[CallRow]]:
        """One episode, whatever comes of it: an exception is a row with status error."""
        identity = self.identity(spec)
        episode_id = digest(identity)
        progress = Progress()
        started, t0 = datetime.now(UTC), time.perf_counter()
        reset_s: list[float] = []
        error = None
        try:
            with self.video(episode_id, spec, progress) as watch:
                run_episode(
                    task,
                    self.policy,
                    spec,
                    # a function of the episode alone: methods that draw at random repeat
                    episode_seed=int(digest(asdict(spec)), 16),
                    execute_steps=PROTOCOLS[spec.protocol].execute_steps,
                    progress=progress,
                    after_reset=lambda: reset_s.append(time.perf_counter() - t0),
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
            "execute_steps": protocol.execute_steps,
            "method": pruner.name,
            "method_options": json.dumps(method_options(pruner)),
            "keep": pruner.keep_ratio,
            "policy": info.policy,
            "checkpoint": info.name,
            "checkpoint_hash": info.checkpoint_hash,
            "checkpoint_trained": info.trained,
            "assets": self.assets.kind,
            "assets_hash": self.assets.hash,
            "warnings": self.warnings(),
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
