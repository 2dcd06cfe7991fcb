"""Rows for tests: every column filled, any of them changed by keyword."""

from typing import Any

from vlaprune_bench.types import CallMeasures, CallRow, EpisodeRow

MEASURES: dict[str, Any] = {
    "pruned": True,
    "visual_tokens": 512,
    "visual_tokens_kept": 256,
    "kept_per_camera": [128, 128],
    "tokens_per_layer": [300, 300],
    "kept_visual": list(range(0, 512, 2)),
    "llm_prefill_macs": 10**9,
    "total_flops": 3 * 10**9,
    "scoring_flops": 10**6,
    "counted_flops": None,
    "latency_preprocess_ms": 1.0,
    "latency_vision_ms": 2.0,
    "latency_scoring_ms": 0.5,
    "latency_prefill_ms": 5.0,
    "latency_decode_ms": 0.0,
    "latency_head_ms": 0.5,
    "latency_total_ms": 9.0,
}


def measures(**changes: Any) -> CallMeasures:
    return CallMeasures(**{**MEASURES, **changes})


def call_row(**changes: Any) -> CallRow:
    row = {"episode_id": "e", "call": 0, "step": 0, "warmup": False, "eef_displacement": 0.1}
    return CallRow(**{**MEASURES, **row, **changes})


def episode_row(**changes: Any) -> EpisodeRow:
    row: dict[str, Any] = {
        "episode_id": "e",
        "run_id": "r",
        "suite": "libero_spatial",
        "task": 0,
        "task_name": "pick_up_the_black_bowl",
        "instruction": "pick up the black bowl",
        "trial": 0,
        "seed": 7,
        "env_seed": 0,
        "protocol": "openvla",
        "scenes": "reference",
        "max_steps": 220,
        "execute_steps": 8,
        "method": "static",
        "method_options": '{"keep": 0.5}',
        "keep": 0.5,
        "policy": "openvla-oft",
        "checkpoint": "tiny-untrained",
        "checkpoint_hash": "c",
        "checkpoint_trained": False,
        "assets": "lite",
        "assets_hash": "a",
        "status": "ok",
        "error": None,
        "success": False,
        "steps": 220,
        "actions_hash": "ac",
        "calls": 28,
        "init_state_hash": "i",
        "scene_hash": "s",
        "frames_hash": "f",
        "warnings": [],
        "pruned_call_fraction": 1.0,
        "visual_tokens_kept_mean": 256.0,
        "llm_prefill_macs_mean": 1e9,
        "total_flops_mean": 3e9,
        "latency_p50_ms": 9.0,
        "latency_mean_ms": 9.5,
        "batch_size": 1,
        "workers": 1,
        "device": "cpu",
        "threads": 1,
        "dtype": "float32",
        "attention": "sdpa",
        "gl_backend": "egl",
        "sim": "fast",
        "self_check": "passed",
        "wall_s": 10.0,
        "reset_s": 1.0,
        "started_at": "2026-01-01T00:00:00+00:00",
        "versions": "{}",
        "git_revision": None,
    }
    return EpisodeRow(**{**row, **changes})
