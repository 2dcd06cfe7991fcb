"""What a profile measures."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from vlaprune_bench.config import nearest
from vlaprune_bench.files import expand_paths
from vlaprune_bench.policies import SHAPES
from vlaprune_bench.pruning import BudgetPruner, Pruner, method_class
from vlaprune_bench.pruning.gated import Gated
from vlaprune_bench.pruning.none import NoPruning
from vlaprune_bench.types import UserError


@dataclass(frozen=True)
class ProfileConfig:
    """What to measure, and where."""

    checkpoint: str | None = None
    """A folder, a Hugging Face hub id, or an embedded one: `tiny` (the default),
    `tiny-untrained` or `tiny-openvla`."""
    shape: str | None = None
    """Instead of a checkpoint: openvla-7b or openvla-oft-7b, the real architecture with random
    weights made on the device, no file needed."""
    methods: tuple[str, ...] = ("none", "static", "adp", "fastv", "vla-pruner")
    """Methods to measure, with their default options; none is measured in any case."""
    keeps: tuple[float, ...] = (0.7, 0.5, 0.3, 0.125)
    """Keep ratios, for each method that has one."""
    rounds: int | None = None
    """Timed rounds; a round calls none and every method at every keep once. By default 20 on
    CUDA, 5 on a CPU."""
    warmup: int = 4
    """Rounds before them that are not timed; an episode's first calls, which no method with a
    history prunes, are among them."""
    policy: str = "auto"
    """openvla, openvla-oft, or auto: what the checkpoint's files say."""
    policy_options: tuple[str, ...] = ()
    """Options of the policy's own, each key=value (pi0, pi05, smolvla: see docs/policies.md)."""
    cameras: int | None = None
    """Cameras an OpenVLA-OFT was trained with, 1 or 2, which no file tells; by default 2."""
    device: str = "auto"
    """cpu, cuda, cuda:N or auto."""
    dtype: str = "auto"
    """float32, bfloat16, float16 or auto (bfloat16 on CUDA, float32 on CPU)."""
    attention: str = "sdpa"
    """Attention backend of the language model: sdpa or eager."""
    cuda_graphs: bool = False
    """Replay vision towers and decoder layers as CUDA graphs, recorded in the warm-up rounds; what
    is between them (scores, selection) runs as ever. Needs a CUDA device."""
    output: Path = Path("results/profile")
    """Folder a parquet file with a row per method and keep is added to."""

    def __post_init__(self) -> None:
        expand_paths(self)
        if self.shape is not None and self.checkpoint is not None:
            raise UserError(
                f"--shape is {self.shape} and --checkpoint is {self.checkpoint}; give one of them."
            )
        if self.shape is not None and self.shape not in SHAPES:
            raise UserError(f"--shape is {self.shape}{nearest(self.shape, SHAPES)}.")
        for name, value, least in (("rounds", self.rounds, 1), ("warmup", self.warmup, 0)):
            if value is not None and value < least:
                raise UserError(f"--{name} is {value}; it must be at least {least}.")
        for keep in self.keeps:
            if not 0 < keep <= 1:
                raise UserError(f"--keeps has {keep:g}; each must be above 0 and at most 1.")

    def pruners(self) -> list[Pruner]:
        """`none`, then every method at every keep; each once."""
        made: list[Pruner] = [NoPruning()]
        for name in self.methods:
            pruner = method_class(name, "--methods")()
            at_keeps = [at_keep(pruner, keep) for keep in self.keeps]
            made += [p for p in at_keeps if p is not None] or [pruner]
        return list(dict.fromkeys(made))


def at_keep(pruner: Pruner, keep: float) -> Pruner | None:
    """The method at another keep, or the one behind its gate; None: it has no such option."""
    if isinstance(pruner, BudgetPruner):
        return replace(pruner, keep=keep)
    if not isinstance(pruner, Gated):
        return None
    inner = at_keep(pruner.inner, keep)
    return None if inner is None else replace(pruner, inner=inner)
