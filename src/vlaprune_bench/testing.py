"""Checks every pruning method must pass, for the tests of packages that bring their own.

    from vlaprune_bench.testing import check_method

    def test_my_method():
        check_method(MyMethod(keep=0.25))

They run short episodes of the real networks with the embedded checkpoints' weights, on the CPU, and
take half a minute.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from vlaprune_bench.config import EvalConfig, from_dict, to_dict
from vlaprune_bench.measure.inputs import INSTRUCTION, observation, poses
from vlaprune_bench.pruning import BudgetPruner, Pruner
from vlaprune_bench.pruning.none import NoPruning

if TYPE_CHECKING:
    from vlaprune_bench.types import ActionChunk

CHECKPOINTS = (
    "tiny-untrained",
    "tiny-openvla",
    "tiny-pi0-untrained",
    "tiny-pi05-untrained",
    "tiny-smolvla-untrained",
)
"""One of each policy."""
CALLS = 4
"""Calls of an episode: by then every method of this package has dropped tokens."""
SEED = 3


def check_method(
    pruner: Pruner, *, full: Pruner | None = None, checkpoints: Sequence[str] = CHECKPOINTS
) -> None:
    """Run a method through the checks every method of this package passes.

    Its options survive a file. In an episode of four calls, on every policy: at least one call
    drops tokens (or fuses); those really leave the tensors, and torch's FLOP counter agrees within
    1 % with the cost that is reported; a call that does neither is the unpruned model's, to the
    last bit; one that only fuses costs what the unpruned one does;
    the same episode again gives the same tokens and actions, so nothing of an episode stays on the
    method.

    Args:
        pruner: the method, registered, with options that fit a model of four decoder layers.
        full: the same method told to keep everything, where it can be: it must change nothing. By
            default `pruner` with `keep` 1, where it has that option.
        checkpoints: embedded checkpoints to run.

    Raises:
        AssertionError: a check failed; the message says which, on which checkpoint.
    """
    config = EvalConfig.of(pruner=pruner)
    _check(from_dict(to_dict(config), "file") == config, f"{pruner.name}: a file changes options")
    if full is None and isinstance(pruner, BudgetPruner):
        full = replace(pruner, keep=1.0)
    for checkpoint in checkpoints:
        where = f"{pruner.name} on {checkpoint}"
        baseline, chunks = _baseline(checkpoint), _play(checkpoint, pruner, count_every=1)
        for call, chunk in enumerate(chunks):
            _check_call(f"{where}, call {call}", pruner, chunk, baseline[call])
        if not isinstance(pruner, NoPruning):
            pruned = [i for i, chunk in enumerate(chunks) if chunk.measures.pruned]
            _check(bool(pruned), f"{where}: no call of {CALLS} dropped a token")
            changed = [i for i in pruned if not _same_actions(chunks[i], baseline[i])]
            _check(bool(changed), f"{where}: the actions do not depend on the tokens it dropped")
        for call, (one, two) in enumerate(zip(chunks, _play(checkpoint, pruner), strict=True)):
            same = one.measures.kept_visual == two.measures.kept_visual and _same_actions(one, two)
            _check(same, f"{where}, call {call}: the same episode again went differently")
        if full is not None:
            for call, chunk in enumerate(_play(checkpoint, full)):
                same = not chunk.measures.pruned and _same_actions(chunk, baseline[call])
                _check(same, f"{where}, call {call}: told to keep everything, it changed the call")


def _check_call(where: str, pruner: Pruner, chunk: ActionChunk, unpruned: ActionChunk) -> None:
    m: Any = chunk.measures
    full: Any = unpruned.measures
    dropped = m.visual_tokens - m.visual_tokens_kept
    finite = chunk.actions.shape == unpruned.actions.shape and np.isfinite(chunk.actions).all()
    _check(bool(finite), f"{where}: actions are misshapen or not finite")
    _check(m.visual_tokens == full.visual_tokens, f"{where}: other visual tokens than unpruned")
    touched = dropped > 0 or m.fused_patches > 0
    _check(m.pruned == touched, f"{where}: pruned does not say whether tokens left")
    _check(sum(m.kept_per_camera) == m.visual_tokens_kept, f"{where}: cameras do not add up")
    left = full.tokens_per_layer[-1] - m.tokens_per_layer[-1]
    _check(left == dropped, f"{where}: {dropped} tokens dropped, {left} left the last layer")
    assert m.counted_flops is not None
    agree = abs(m.counted_flops - m.total_flops) <= 0.01 * m.total_flops
    _check(agree, f"{where}: cost is {m.total_flops} FLOP, torch counts {m.counted_flops}")
    if not m.pruned:
        _check(_same_actions(chunk, unpruned), f"{where}: unpruned, but not the unpruned call")
        same_cost = m.llm_prefill_macs == full.llm_prefill_macs
        _check(same_cost, f"{where}: unpruned, but the prefill costs {m.llm_prefill_macs}")
        return
    if dropped:
        _check(m.llm_prefill_macs < full.llm_prefill_macs, f"{where}: pruned at no gain")
    else:
        paid = m.total_flops - m.scoring_flops == full.total_flops
        _check(paid, f"{where}: every token ran, but the networks' cost is not the unpruned one's")
    ascending = m.kept_visual == sorted(set(m.kept_visual or ()))
    _check(ascending, f"{where}: kept indices are not ascending")
    if pruner.keep_ratio is not None:
        wanted = pruner.keep_ratio * m.visual_tokens
        right = abs(m.visual_tokens_kept - wanted) < 1
        _check(right, f"{where}: {m.visual_tokens_kept} tokens kept, asked for {wanted:g}")


def _check(holds: bool, otherwise: str) -> None:
    # not an assert statement: those vanish under python -O
    if not holds:
        raise AssertionError(otherwise)


def _same_actions(one: ActionChunk, two: ActionChunk) -> bool:
    return np.array_equal(one.actions, two.actions)


def _play(checkpoint: str, pruner: Pruner, count_every: int = 0) -> list[ActionChunk]:
    """An episode on fixed inputs."""
    policy = _policy(checkpoint)
    policy.count_every = count_every
    memory = policy.start(INSTRUCTION, SEED, pruner)
    return [policy.act(memory, observation(call), poses(call)) for call in range(CALLS)]


@cache
def _policy(checkpoint: str) -> Any:
    from vlaprune_bench.policies import load_policy

    return load_policy(checkpoint, NoPruning(), suite="libero_spatial", device="cpu")


@cache
def _baseline(checkpoint: str) -> list[ActionChunk]:
    return _play(checkpoint, NoPruning())
