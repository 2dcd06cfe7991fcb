"""One configuration on a loaded policy: its episodes, and what their rows share."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from vlaprune_bench.config import EvalConfig, digest, method_options, run_id
from vlaprune_bench.measure.provenance import git_revision, versions
from vlaprune_bench.pruning.gated import has_gate
from vlaprune_bench.rollout.identity import Facts, identity, specs
from vlaprune_bench.rollout.messages import Film, Opened, Order
from vlaprune_bench.store import Store
from vlaprune_bench.types import PROTOCOLS, CallMeasures, EpisodeSpec

if TYPE_CHECKING:
    from vlaprune_bench.rollout.launcher import SwappablePolicy
    from vlaprune_bench.sim.assets import AssetSet


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
    """Batch sizes and sequence lengths already run: the first call of each is a warm-up."""

    @property
    def facts(self) -> Facts:
        info = self.policy.info
        return Facts(info.policy, info.checkpoint_hash, self.assets.hash, info.dtype, info.options)

    def specs(self) -> list[EpisodeSpec]:
        """The episodes asked for, task by task, trials in order."""
        return specs(self.config)

    def run(self) -> int:
        """Run what the store does not hold yet; see `runner.Runner`."""
        from vlaprune_bench.rollout.runner import run_engines

        return run_engines([self])

    def episode_id(self, spec: EpisodeSpec) -> str:
        return digest(identity(self.config, spec, self.facts))

    def seed(self, spec: EpisodeSpec) -> int:
        """Seed of an episode's policy calls: a function of the episode alone, so that methods that
        draw at random repeat."""
        return int(digest(asdict(spec)), 16)

    def order(self, spec: EpisodeSpec, compare: int | None = None) -> Order:
        """What a simulator must know to play an episode."""
        film, config = None, self.config
        if config.video != "none":
            name = f"{spec.suite}-task{spec.task}-trial{spec.trial}-{config.pruner.name}"
            keep, info = config.pruner.keep_ratio, self.policy.info
            film = Film(
                path=self.store.folder / "_videos" / f"{name}-{self.episode_id(spec)}.mp4",
                label=config.pruner.name + ("" if keep is None else f"   keep {keep:g}"),
                gated=has_gate(config.pruner),
                every_step=config.video == "all",
                frame_steps=1 if config.video == "all" else min(config.executed, info.chunk),
                grids=info.grids,
            )
        return Order(spec, self.assets, config.sim, config.scenes, config.executed, film, compare)

    def look_up(self, spec: EpisodeSpec) -> Opened:
        """Names of a task nobody came to open."""
        from vlaprune_bench.sim.tasks import get_task

        task = get_task(spec.suite, spec.task)
        return Opened(task.name, task.instruction)

    def is_first(self, measures: CallMeasures) -> bool:
        """Whether this call is the first of its shape in this process; to be asked once a call."""
        shape = (measures.batch_size, *measures.tokens_per_layer)
        first = shape not in self.shapes_seen
        self.shapes_seen.add(shape)
        return first

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
        found = list(info.notes)
        if not info.trained:
            found.append(f"{info.name} is untrained: its success rate means nothing")
        if self.assets.kind != info.assets:
            found.append(
                f"{info.name} was made for {info.assets} assets and ran on {self.assets.kind} ones"
            )
        return found
