"""What a profile measures: which calls count, what is compared with what, what is written."""

import json

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from tests.rows import measures
from vlaprune_bench.measure.inputs import STEPS, observation, poses
from vlaprune_bench.policies import load_policy
from vlaprune_bench.profile.config import ProfileConfig
from vlaprune_bench.profile.run import Variant, profile, profile_row, run_rounds
from vlaprune_bench.profile.table import gain_table, stage_table, warnings
from vlaprune_bench.pruning.adp import Adp
from vlaprune_bench.pruning.fastv import FastV
from vlaprune_bench.pruning.gated import Gated
from vlaprune_bench.pruning.none import NoPruning
from vlaprune_bench.pruning.static import Static
from vlaprune_bench.pruning.uniform import Uniform
from vlaprune_bench.pruning.vla_cache import VlaCache
from vlaprune_bench.pruning.vla_pruner import VlaPruner
from vlaprune_bench.types import UserError

SHARED = {
    "profile_id": "p",
    "policy": "openvla-oft",
    "checkpoint": "toy",
    "checkpoint_hash": "c",
    "random_weights": False,
    "rounds": 4,
    "warmup": 0,
    "batch_size": 1,
    "device": "cpu",
    "dtype": "float32",
    "attention": "sdpa",
    "started_at": "2026-01-01T00:00:00+00:00",
    "versions": "{}",
    "git_revision": None,
}


def variant(pruner, totals, pruned):
    calls = [
        measures(
            pruned=was,
            latency_total_ms=ms,
            latency_prefill_ms=ms / 2,
            latency_scoring_ms=0.0,
            total_flops=50 if was else 100,
            llm_prefill_macs=20 if was else 60,
        )
        for ms, was in zip(totals, pruned, strict=True)
    ]
    return Variant(pruner, None, calls)


NONE = variant(NoPruning(), [10.0, 20.0, 30.0, 40.0], [False] * 4)


def test_a_ratio_is_of_the_same_round_and_of_pruned_calls_alone():
    # twice as fast in every round in which it prunes, while the machine slows down
    row = profile_row(
        variant(Adp(), [5.0, 999.0, 15.0, 20.0], [True, False, True, True]), NONE, SHARED
    )
    assert (row.timed_calls, row.pruned_calls) == (4, 3)
    assert row.speedup == 2.0
    assert row.flops_ratio == 2.0
    assert row.prefill_macs_ratio == 3.0
    assert row.prefill_speedup == pytest.approx(12.5 / 7.5)
    assert row.latency_total_p50_ms == 15.0
    assert row.latency_total_p90_ms == pytest.approx(np.percentile([5, 15, 20], 90))
    assert row.keep == 0.5
    assert json.loads(row.method_options)["gate"]["rule"] == "adjacent"


def test_of_none_every_call_counts():
    row = profile_row(NONE, NONE, SHARED)
    assert (row.timed_calls, row.pruned_calls) == (4, 0)
    assert (row.speedup, row.flops_ratio, row.prefill_speedup) == (1.0, 1.0, 1.0)
    assert row.latency_total_p50_ms == 25.0


def test_a_method_that_never_pruned_has_no_ratio():
    rows = [profile_row(NONE, NONE, SHARED)]
    rows.append(profile_row(variant(Adp(), [5.0] * 4, [False] * 4), NONE, SHARED))
    row = rows[1]
    assert (row.timed_calls, row.pruned_calls) == (4, 0)
    assert row.speedup is row.flops_ratio is row.prefill_speedup is None
    assert row.latency_total_p50_ms is row.visual_tokens_kept is None
    assert any("adp at keep 0.5 pruned in none of 4" in text for text in warnings(rows))
    for table in (gain_table(rows), stage_table(rows)):
        assert table.row_count == 2


def test_memory_is_the_largest_of_the_calls_that_count():
    made = variant(Adp(), [5.0] * 4, [True, False, True, True])
    made.peaks = [(7, 3), (99, 99), (8, 2), (6, 1)]
    row = profile_row(made, NONE, SHARED)
    assert (row.peak_memory_bytes, row.call_memory_bytes) == (8, 3)


def test_methods_and_keeps_make_variants_once_each():
    config = ProfileConfig(
        methods=("static", "none", "gated", "vla-cache", "static"), keeps=(0.5, 0.25)
    )
    inner = Gated(FastV(0.5)), Gated(FastV(0.25))
    assert config.pruners() == [NoPruning(), Static(0.5), Static(0.25), *inner, VlaCache()]


def test_every_window_moves_more_than_the_one_before():
    lengths = [np.linalg.norm(np.diff(poses(c)[:, :3], axis=0), axis=1).sum() for c in range(9)]
    assert lengths == sorted(set(lengths))
    assert [len(poses(call)) for call in range(3)] == [1, STEPS + 1, STEPS + 1]
    for call in range(5):
        np.testing.assert_array_equal(poses(call)[-1], poses(call + 1)[0])
    changed = observation(0).images != observation(1).images
    assert 0 < changed.any(axis=(0, 3)).mean() < 0.2


@pytest.mark.parametrize("name", ["tiny-untrained", "tiny-openvla"])
def test_methods_that_wait_are_measured_on_their_pruned_calls(name):
    policy = load_policy(name, NoPruning(), suite="libero_spatial", device="cpu")
    pruners = [NoPruning(), Adp(), VlaPruner(), VlaCache(), Uniform(1.0)]
    said = []
    made = run_rounds(policy, pruners, rounds=2, warmup=4, tick=said.append)
    assert [v.pruner for v in made] == pruners
    assert [len(v.calls) for v in made] == [2] * 5
    assert [len(v.measured()) for v in made] == [2, 2, 2, 2, 0]
    assert len(said) == 6
    assert "warm-up" in said[3]
    assert "warm-up" not in said[4]


def test_rows_are_written_with_units(tmp_path):
    config = ProfileConfig(methods=("static",), keeps=(0.25,), rounds=1, output=tmp_path / "new")
    rows = profile(config, tick=lambda text: None)
    profile(config, tick=lambda text: None)
    table = pd.read_parquet(tmp_path / "new")
    assert table.method.tolist() == ["none", "static"] * 2
    assert table.profile_id.nunique() == 2
    static = table[table.profile_id == rows[0].profile_id].iloc[1]
    assert (static.checkpoint, static.device[:3], static.batch_size) == ("tiny-spatial", "cpu", 1)
    assert static.visual_tokens_kept == 32
    assert static.flops_ratio > 1
    assert static.speedup > 0
    assert pd.isna(static.peak_memory_bytes)
    assert json.loads(static.versions)["torch"]
    file = next((tmp_path / "new").glob("profile-*.parquet"))
    fields = pq.read_schema(file)
    assert fields.field("latency_total_p50_ms").metadata[b"unit"] == b"ms"
    assert fields.field("peak_memory_bytes").metadata[b"unit"] == b"bytes"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"shape": "openvla-8b"}, "--shape is openvla-8b; did you mean openvla-7b"),
        ({"shape": "openvla-7b", "checkpoint": "tiny-untrained"}, "give one of them"),
        ({"keeps": (0.5, 1.5)}, "--keeps has 1.5; each must be above 0 and at most 1."),
        ({"rounds": 0}, "--rounds is 0; it must be at least 1."),
        ({"warmup": -1}, "--warmup is -1; it must be at least 0."),
    ],
)
def test_what_cannot_be_is_refused(options, sentence):
    with pytest.raises(UserError, match=sentence):
        ProfileConfig(**options)
