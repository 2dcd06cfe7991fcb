"""Time methods against `none` in one process, call by call in turn, so that drift cancels."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from vlaprune_bench.config import digest, method_options
from vlaprune_bench.measure.inputs import INSTRUCTION, observation, poses
from vlaprune_bench.measure.latency import STAGES as CALL_STAGES
from vlaprune_bench.measure.provenance import git_revision, versions
from vlaprune_bench.profile.config import ProfileConfig
from vlaprune_bench.profile.rows import ProfileRow
from vlaprune_bench.pruning import Pruner
from vlaprune_bench.pruning.none import NoPruning
from vlaprune_bench.types import SUITES, CallMeasures, UserError

if TYPE_CHECKING:
    import torch

    from vlaprune_bench.policies.vla import VLA

STAGES = ("total", *CALL_STAGES)
SEED = 0


@dataclass
class Variant:
    """One method at one keep, in an episode of its own."""

    pruner: Pruner
    memory: Any
    calls: list[CallMeasures] = field(default_factory=list)
    """Timed ones, one a round."""
    peaks: list[tuple[int, int]] = field(default_factory=list)
    """Bytes: the peak of each timed call, and what the call added; CUDA only."""
    recorded: set[int] = field(default_factory=set)
    """Timed rounds in which a CUDA graph was recorded."""

    def measured(self) -> list[int]:
        """Rounds that count: those in which the method pruned; all of `none`."""
        every = isinstance(self.pruner, NoPruning)
        counts = (i for i, call in enumerate(self.calls) if every or call.pruned)
        return [i for i in counts if i not in self.recorded]

    def column(self, name: str) -> np.ndarray:
        """A measure of the calls that count, in order of rounds."""
        return np.array([getattr(self.calls[i], name) for i in self.measured()], dtype=float)


def profile(config: ProfileConfig, tick: Callable[[str], None] = print) -> list[ProfileRow]:
    """Measure what the configuration asks for and write it.

    Args:
        config: what to measure.
        tick: told what is going on.

    Returns:
        One row per method and keep, `none` first.

    Raises:
        UserError: something the user can put right.
    """
    pruners = config.pruners()
    try:
        config.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--output is {config.output}; it must be a folder that can be written to "
            f"({error.strerror})."
        ) from error
    started = datetime.now(UTC)
    tick("loading")
    policy = load(config)
    for pruner in pruners:  # one that does not fit is refused before anything is timed
        policy.resolve(pruner)
    rounds = config.rounds or (20 if policy.device.type == "cuda" else 5)
    variants = run_rounds(policy, pruners, rounds, config.warmup, tick)
    info = policy.info
    shared = {
        "policy": info.policy,
        "checkpoint": info.name,
        "checkpoint_hash": info.checkpoint_hash,
        "random_weights": config.shape is not None,
        "rounds": rounds,
        "warmup": config.warmup,
        "batch_size": 1,
        "device": info.device,
        "dtype": info.dtype,
        "attention": info.attention,
        "started_at": started.isoformat(timespec="seconds"),
        "versions": versions(),
        "git_revision": git_revision(),
    }
    shared["profile_id"] = digest([shared, started.isoformat(), asdict(config)])
    graphs = policy.graphs is not None
    rows = [profile_row(variant, variants[0], shared, graphs) for variant in variants]

    from vlaprune_bench.store import write_rows

    write_rows(ProfileRow, rows, config.output / f"profile-{shared['profile_id']}.parquet")
    return rows


def load(config: ProfileConfig) -> VLA:
    """The policy, of a checkpoint or a named shape.

    Normalisation moves no cost: the first statistics of a checkpoint will do.
    """
    from vlaprune_bench.policies import load_policy
    from vlaprune_bench.policies.checkpoint import Checkpoint
    from vlaprune_bench.policies.declared import protocol_of

    if config.shape is not None:
        from vlaprune_bench.policies import SHAPES, named_object

        checkpoint: Checkpoint = named_object(SHAPES[config.shape])
    else:
        checkpoint = Checkpoint.find(config.checkpoint or "tiny")
    policy: Any = load_policy(
        checkpoint,
        NoPruning(),
        suite=next(iter(checkpoint.statistics), SUITES[0]),
        device=config.device,
        dtype=config.dtype,
        attention=config.attention,
        policy=config.policy,
        protocol=protocol_of(checkpoint.config),
        options=config.policy_options,
        cameras=config.cameras,
    )
    if config.cuda_graphs:
        if policy.device.type != "cuda":
            raise UserError(
                f"--cuda-graphs is given; it needs a CUDA device, and --device {config.device} is "
                f"{policy.device}."
            )
        from vlaprune_bench.policies.transformer.graphs import Graphs

        policy.graphs = Graphs()
    return policy


def run_rounds(
    policy: VLA,
    pruners: list[Pruner],
    rounds: int,
    warmup: int,
    tick: Callable[[str], None] = print,
) -> list[Variant]:
    """Call every method once a round, in an order drawn anew each round.

    Args:
        policy: its method is changed.
        pruners: the methods.
        rounds: timed ones.
        warmup: rounds before them; they also give methods with a history the calls they need.
        tick: told about each round.

    Returns:
        The methods with their timed calls, in the order given.
    """
    variants = [Variant(p, policy.start(INSTRUCTION, SEED, p)) for p in pruners]
    order = np.random.default_rng(SEED)
    for number in range(warmup + rounds):
        tick(f"round {number + 1} of {warmup + rounds}{' (warm-up)' if number < warmup else ''}")
        for index in order.permutation(len(variants)):
            variant = variants[index]
            peak, graphs = _Peak(policy.device), _graphs(policy)
            chunk = policy.act(variant.memory, observation(number), poses(number))
            if number >= warmup:
                if _graphs(policy) > graphs:
                    variant.recorded.add(number - warmup)
                variant.calls.append(chunk.measures)
                variant.peaks += peak.read()
    return variants


def _graphs(policy: VLA) -> int:
    """CUDA graphs recorded so far."""
    return 0 if policy.graphs is None else len(policy.graphs)


class _Peak:
    """Memory of one call on a CUDA device; nothing elsewhere."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._before = device, 0
        if device.type == "cuda":
            import torch

            torch.cuda.reset_peak_memory_stats(device)
            self._before = torch.cuda.memory_allocated(device)

    def read(self) -> Iterator[tuple[int, int]]:
        """Peak, and what of it is above the start, bytes."""
        if self._device.type == "cuda":
            import torch

            peak = torch.cuda.max_memory_allocated(self._device)
            yield peak, peak - self._before


def profile_row(
    variant: Variant, none: Variant, shared: dict[str, Any], graphs: bool = False
) -> ProfileRow:
    """One method's row.

    Args:
        variant: the method.
        none: the baseline of the same rounds.
        shared: columns that all rows of the run share.
        graphs: the policy replays CUDA graphs where a method lets it.
    """
    counted = variant.measured()
    latencies: dict[str, Any] = {}
    for stage in STAGES:
        ms = variant.column(f"latency_{stage}_ms")
        for q in (50, 90):
            latencies[f"latency_{stage}_p{q}_ms"] = _percentile(ms, q)
    latencies["latency_total_p99_ms"] = _percentile(variant.column("latency_total_ms"), 99)
    both = sorted(set(counted) & set(none.measured()))
    paired = _total_ms(none, both) / _total_ms(variant, both)
    peaks = [variant.peaks[i] for i in counted] if variant.peaks else []
    return ProfileRow(
        method=variant.pruner.name,
        method_options=json.dumps(method_options(variant.pruner)),
        keep=variant.pruner.keep_ratio,
        timed_calls=len(variant.calls),
        pruned_calls=sum(bool(call.pruned) for call in variant.calls),
        visual_tokens=variant.calls[0].visual_tokens or 0,
        visual_tokens_kept=_mean(variant, "visual_tokens_kept"),
        total_flops=_mean(variant, "total_flops"),
        llm_prefill_macs=_mean(variant, "llm_prefill_macs"),
        scoring_flops=_mean(variant, "scoring_flops"),
        speedup=_percentile(paired, 50),
        flops_ratio=_ratio(_mean(none, "total_flops"), _mean(variant, "total_flops")),
        prefill_speedup=_ratio(_prefill_ms(none), _prefill_ms(variant)),
        prefill_macs_ratio=_ratio(
            _mean(none, "llm_prefill_macs"), _mean(variant, "llm_prefill_macs")
        ),
        peak_memory_bytes=max((peak for peak, _ in peaks), default=None),
        call_memory_bytes=max((added for _, added in peaks), default=None),
        cuda_graphs=graphs and not variant.memory.method.keeps_cache,
        **latencies,
        **shared,
    )


def _total_ms(variant: Variant, rounds: list[int]) -> np.ndarray:
    return np.array([variant.calls[i].latency_total_ms for i in rounds], dtype=float)


def _prefill_ms(variant: Variant) -> float | None:
    ms = variant.column("latency_prefill_ms") + variant.column("latency_scoring_ms")
    return _percentile(ms, 50)


def _percentile(values: np.ndarray, q: int) -> float | None:
    return float(np.percentile(values, q)) if len(values) else None


def _mean(variant: Variant, name: str) -> float | None:
    values = variant.column(name)
    return float(values.mean()) if len(values) else None


def _ratio(above: float | None, below: float | None) -> float | None:
    return None if above is None or below is None else above / below
