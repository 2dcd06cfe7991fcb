"""What a policy call did and cost, in the columns that are written."""

from __future__ import annotations

from vlaprune_bench.measure.latency import StageTimer
from vlaprune_bench.policies.call_data import Forward, Inputs
from vlaprune_bench.types import CallMeasures


def call_measures(
    forward: Forward,
    inputs: Inputs,
    around_macs: int,
    timer: StageTimer,
    counted_flops: int | None,
    batch_size: int,
) -> CallMeasures:
    """The measures of one call.

    Args:
        forward: the call.
        inputs: of the call.
        around_macs: MAC of everything but the decoder layers and the method: vision towers,
            projectors, action head, token logits or denoising steps.
        timer: stopped.
        counted_flops: reading of torch's counter, where this call was sampled.
        batch_size: calls computed together.
    """
    layout, decoder, prefill = forward.prefix.layout, forward.decoder, forward.prefill
    kept = list(range(layout.n_visual))
    if decoder.kept_V is not None:
        kept = decoder.kept_V.tolist()
    fused = forward.prefix.fused_patches
    pruned = len(kept) < layout.n_visual or fused > 0
    macs = around_macs + decoder.prefill_macs + decoder.decode_macs + decoder.scoring_macs
    return CallMeasures(
        pruned=pruned,
        visual_tokens=layout.n_visual,
        visual_tokens_kept=len(kept),
        kept_per_camera=layout.per_camera(kept),
        tokens_per_layer=prefill.tokens_per_layer,
        expert_keys_per_layer=forward.prediction.expert_keys,
        empty_tokens_dropped=inputs.empty_tokens_dropped,
        kept_visual=kept if pruned else None,
        fused_patches=fused,
        llm_prefill_macs=decoder.prefill_macs,
        total_flops=2 * macs,
        scoring_flops=2 * decoder.scoring_macs,
        counted_flops=counted_flops,
        batch_size=batch_size,
        latency_total_ms=timer.total_ms,
        **{f"latency_{stage}_ms": ms for stage, ms in timer.ms.items()},
    )
