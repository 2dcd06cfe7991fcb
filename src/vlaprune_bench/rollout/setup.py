"""What the episodes of a configuration share once it is known what they run on."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlaprune_bench.config import EvalConfig, digest, run_id
from vlaprune_bench.measure.latencies import latency_title
from vlaprune_bench.measure.provenance import git_revision, versions
from vlaprune_bench.policies.base import PolicyInfo
from vlaprune_bench.pruning.gated import has_gate
from vlaprune_bench.rollout.identity import Facts, executed, identity, parse_variants, timing
from vlaprune_bench.rollout.messages import Film, Opened, Order
from vlaprune_bench.types import (
    DEFAULTS,
    IDENTITY,
    PROTOCOLS,
    SCENE,
    SUITES,
    EpisodeRow,
    EpisodeSpec,
)

if TYPE_CHECKING:
    from vlaprune_bench.sim.assets import AssetSet
    from vlaprune_bench.sim.suites import TaskInfo
    from vlaprune_bench.sim.tasks import TaskKey


@dataclass(frozen=True)
class Loaded:
    """What was loaded for the cells of a world."""

    info: PolicyInfo
    assets: AssetSet
    gl_backend: str
    checkpoint: Path | None
    """Folder of the checkpoint; None: it is elsewhere."""
    threads: int | None = None
    """CPU threads of the model."""
    unpinned: dict[str, str] = field(default_factory=dict)
    """Versions of the simulator that are not the pinned ones, by package."""

    @property
    def facts(self) -> Facts:
        info = self.info
        return Facts(
            info.policy,
            info.checkpoint_hash,
            self.assets.hash,
            info.dtype,
            info.chunk,
            info.action_steps,
            json.dumps(self.unpinned, sort_keys=True) if self.unpinned else "",
            info.options,
            self._served,
        )

    @property
    def _served(self) -> str:
        info = self.info
        if info.served is None:
            return ""
        return json.dumps([info.served.name, info.served.options, info.attention])

    @property
    def warnings(self) -> list[str]:
        """What the reader of a row must know."""
        info, found = self.info, list(self.info.notes)
        if self.unpinned:
            from vlaprune_bench.sim.pins import describe_unpinned

            found.append(describe_unpinned(self.unpinned))
        if self.assets.warning:
            found.append(self.assets.warning)
        if not info.trained:
            found.append(f"{info.name} is untrained: its success rate means nothing")
        if self.assets.kind != info.assets:
            found.append(
                f"{info.name} was made for {info.assets} assets and ran on {self.assets.kind} ones"
            )
        return found


@dataclass(frozen=True)
class Setup:
    """One configuration on what was loaded for it: what follows from both."""

    config: EvalConfig
    loaded: Loaded

    @property
    def warnings(self) -> list[str]:
        """What the reader of a row must know before its episode begins."""
        caveat = self.config.what.pruner.caveat(self.loaded.info.name)
        return [*self.loaded.warnings, *([caveat] if caveat else [])]

    @property
    def executed(self) -> int:
        """Actions of a chunk that are executed; see `identity.executed`."""
        return executed(self.config.what, self.loaded.facts)

    def episode_id(self, spec: EpisodeSpec) -> str:
        return digest(identity(self.config, spec, self.loaded.facts))

    def task_key(self, spec: EpisodeSpec) -> TaskKey:
        """The task of an episode, as a simulator opens it."""
        from vlaprune_bench.sim.tasks import TaskKey

        what = self.config.what
        return TaskKey(
            spec.suite,
            spec.task,
            self.loaded.assets,
            PROTOCOLS[spec.protocol],
            sim=self.config.compute.sim,
            scenes=what.scenes,
            variants=parse_variants(what),
            seed=spec.seed if what.variants or what.suite not in SUITES else 0,
            reading=what.suite_reading,
        )

    def order(self, spec: EpisodeSpec, compare: int | None = None) -> Order:
        """What a simulator must know to play an episode.

        Args:
            spec: of the episode.
            compare: see `Order.compare`.
        """
        return Order(
            spec,
            self.task_key(spec),
            self.executed,
            self._film(spec),
            compare,
            timing(self.config.what, self.loaded.facts),
        )

    def _film(self, spec: EpisodeSpec) -> Film | None:
        what, storage, info = self.config.what, self.config.storage, self.loaded.info
        if storage.video == "none":
            return None
        every_step, keep = storage.video == "all", what.pruner.keep_ratio
        name = f"{spec.suite}-task{spec.task}-trial{spec.trial}-{what.pruner.name}"
        return Film(
            path=storage.output / "_videos" / f"{name}-{self.episode_id(spec)}.mp4",
            label=what.pruner.name + ("" if keep is None else f"   keep {keep:g}"),
            gated=has_gate(what.pruner),
            every_step=every_step,
            frame_steps=1 if every_step else self.executed,
            grids=info.grids,
        )

    def look_up(self, spec: EpisodeSpec) -> Opened:
        """Names of a task nobody came to open."""
        task = self._task(spec)
        return Opened(task.name, task.instruction)

    def _task(self, spec: EpisodeSpec) -> TaskInfo:
        from vlaprune_bench.sim.tasks import get_task

        return get_task(spec.suite, spec.task, self.config.what.suite_reading)

    def shared(self, spec: EpisodeSpec) -> dict[str, Any]:
        """Columns that are known before an episode begins."""
        what, info, assets = self.config.what, self.loaded.info, self.loaded.assets
        known = identity(self.config, spec, self.loaded.facts)
        return {
            **{name: value for name, value in DEFAULTS[EpisodeRow].items() if name in IDENTITY},
            **known,
            "execute_steps": self.executed,
            "method_options": json.dumps(known["method_options"]),
            "run_id": run_id(self.config),
            "episode_id": self.episode_id(spec),
            "env_seed": PROTOCOLS[spec.protocol].seed_of(spec.trial),
            "keep": what.pruner.keep_ratio if info.served is None else info.served.keep,
            "latency_source": latency_title(what.latency) if what.latency else "",
            "perturbation": " ".join(what.variants),
            "dimension": self._task(spec).dimension,
            "checkpoint": info.name,
            "checkpoint_trained": info.trained,
            "assets": assets.kind,
            "device": info.device,
            "threads": self.loaded.threads,
            "gl_backend": self.loaded.gl_backend,
            "versions": versions(),
            "git_revision": git_revision(),
        }

    def scene(self, spec: EpisodeSpec) -> dict[str, Any]:
        """The columns that determine the scene an episode begins in."""
        shared = self.shared(spec)
        return {name: shared[name] for name in SCENE}
