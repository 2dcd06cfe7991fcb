"""What a profile writes: one row per method and keep."""

from __future__ import annotations

from dataclasses import dataclass

from vlaprune_bench.types import column


@dataclass(frozen=True, kw_only=True)
class ProfileRow:
    """One method at one keep, over its timed calls that pruned (of `none`: all timed calls).

    A ratio is `none` over the method: above 1 is a gain. Null ratios and latencies: no timed call
    pruned.
    """

    profile_id: str = column("the run this row belongs to: rows of one run share their baseline")
    method: str = column("pruning method")
    method_options: str = column("all options of the method, JSON")
    keep: float | None = column("keep ratio asked for; null: the method has none")
    timed_calls: int = column("calls timed, warm-up excluded", "calls")
    pruned_calls: int = column("of these, calls that pruned: the ones measured", "calls")
    # what it costs
    visual_tokens: int = column("visual tokens before pruning", "tokens")
    visual_tokens_kept: float | None = column(
        "visual tokens that reach the last decoder layer, mean; null: no call pruned", "tokens"
    )
    total_flops: float | None = column("2 x MAC of everything a call executed, mean", "FLOP")
    llm_prefill_macs: float | None = column("gated formula summed over layers, mean", "MAC")
    scoring_flops: float | None = column("part of total_flops for scores and probes, mean", "FLOP")
    # what is gained
    speedup: float | None = column(
        "whole call: median over rounds of the latency of none over the method's in that round"
    )
    flops_ratio: float | None = column("total_flops of none over the method's")
    prefill_speedup: float | None = column(
        "the same for the stages prefill and scoring together, p50 over p50"
    )
    prefill_macs_ratio: float | None = column("llm_prefill_macs of none over the method's")
    # how long it takes
    latency_total_p50_ms: float | None = column("median call, synchronised", "ms")
    latency_total_p90_ms: float | None = column("90th percentile call, synchronised", "ms")
    latency_total_p99_ms: float | None = column("99th percentile call, synchronised", "ms")
    latency_preprocess_p50_ms: float | None = column("frames and prompt to model input", "ms")
    latency_preprocess_p90_ms: float | None = column("frames and prompt to model input", "ms")
    latency_vision_p50_ms: float | None = column("vision towers and projector", "ms")
    latency_vision_p90_ms: float | None = column("vision towers and projector", "ms")
    latency_scoring_p50_ms: float | None = column("scores, gate, selection, probe layers", "ms")
    latency_scoring_p90_ms: float | None = column("scores, gate, selection, probe layers", "ms")
    latency_prefill_p50_ms: float | None = column("decoder layers over the sequence", "ms")
    latency_prefill_p90_ms: float | None = column("decoder layers over the sequence", "ms")
    latency_decode_p50_ms: float | None = column("autoregressive decode steps", "ms")
    latency_decode_p90_ms: float | None = column("autoregressive decode steps", "ms")
    latency_denoise_p50_ms: float | None = column("denoising steps of an action expert", "ms")
    latency_denoise_p90_ms: float | None = column("denoising steps of an action expert", "ms")
    latency_head_p50_ms: float | None = column("action head and un-normalisation", "ms")
    latency_head_p90_ms: float | None = column("action head and un-normalisation", "ms")
    # memory
    peak_memory_bytes: int | None = column(
        "torch.cuda.max_memory_allocated during a call, the largest; weights included, and what "
        "the other methods of the run remember; null: on a CPU no counter tells calls apart",
        "bytes",
    )
    call_memory_bytes: int | None = column(
        "of it, what the call itself added to what was there before; null: on a CPU", "bytes"
    )
    # how it was measured
    policy: str = column("openvla or openvla-oft")
    checkpoint: str = column("checkpoint name, folder or hub id, or name of a shape")
    checkpoint_hash: str = column("hash over the checkpoint's files, or over shape and seed")
    random_weights: bool = column("a named shape: weights are random")
    rounds: int = column("rounds timed; each calls none and every method once, in random order")
    warmup: int = column("rounds before them, not timed")
    batch_size: int = column("episodes per policy call", "episodes")
    device: str = column("device of the model, with its name")
    dtype: str = column("precision of the model")
    attention: str = column("attention backend")
    cuda_graphs: bool = column("towers and decoder layers were replayed as CUDA graphs")
    started_at: str = column("UTC start, ISO 8601")
    versions: str = column("package versions, JSON")
    git_revision: str | None = column("revision of the source tree; null: not a git checkout")
