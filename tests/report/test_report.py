"""Tables of whole folders: cells, pairs, sweeps, warnings; against known truth."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

from tests.report.synthetic import cell, many, paired, write
from vlaprune_bench.measure.stats import Rate
from vlaprune_bench.report.build import Report, load
from vlaprune_bench.report.cells import gather
from vlaprune_bench.report.charts import charts
from vlaprune_bench.report.compare import discordant_table, pairs
from vlaprune_bench.report.page import page
from vlaprune_bench.types import Role, UserError, columns

ALL = ("libero_spatial", "libero_object", "libero_goal", "libero_10")


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def report(*frames):
    return Report(gather(pd.concat(frames, ignore_index=True)))


def rows(table, **wanted):
    return [r for r in table.rows if all(r.get(k) == v for k, v in wanted.items())]


def test_suites_are_columns_and_known_rates_lie_in_their_intervals(rng):
    made = report(
        cell("none", None, 0.95, rng, suites=ALL),
        cell("adp", 0.5, 0.80, rng, suites=ALL),
        cell("adp", 0.25, 0.40, rng, suites=ALL[:2]),
    )
    table = made.overview.success
    assert [c.title for c in table.columns][:7] == [
        "method", "keep", "Spatial", "Object", "Goal", "Long", "average",
    ]  # fmt: skip
    none, half, quarter = table.rows
    for row, truth in ((none, 0.95), (half, 0.80)):
        for name in (*ALL, "average"):
            assert row[name].low - 0.02 < truth < row[name].high + 0.02
        assert row["average"].value == pytest.approx(np.mean([row[s].value for s in ALL]))
    assert "average" not in quarter
    assert quarter["missing"] == 1000
    assert "libero_10" not in quarter
    assert any("1000 episodes are missing" in w for w in made.warnings)


def test_errors_are_shown_and_count_in_no_rate(rng):
    frame = cell("none", None, 1.0, rng, tasks=2, trials=5).astype({"success": object})
    frame.loc[frame.task == 1, ["status", "success"]] = ["timeout", None]
    made = report(frame)
    (row,) = made.overview.success.rows
    assert (row["episodes"], row["errors"], row["missing"]) == (5, 5, 0)
    assert row["libero_spatial"].value == 1.0
    assert "5 episodes have status timeout: they count in no rate" in made.warnings


def test_a_configuration_says_what_is_missing(rng, tmp_path):
    frame = cell("none", None, 1.0, rng, tasks=2, trials=5)
    folder = write(tmp_path, frame)
    text = "# vlaprune-eval\nsuite: libero_spatial\ntask_ids: [0, 1, 2]\ntrials: 5\nseed: 7\n"
    (folder / "_runs" / f"{frame.run_id[0]}.yaml").write_text(text)
    (folder / "_runs" / "abc.yaml").write_text(text)
    made = load(folder)
    assert made.overview.success.rows[0]["missing"] == 5
    assert "runs with a configuration and no episode: abc" in made.warnings


def test_pairs_are_the_same_episodes_and_agree_with_scipy(rng):
    none = cell("none", None, 0.9, rng, trials=20)
    other = none.assign(method="static", keep=0.5, method_options='{"keep": 0.5}')
    other["success"] = paired(none, loss=0.10, gain=0.30, rng=rng)
    other["episode_id"] = "s" + other.episode_id
    other = other.sample(frac=1.0, random_state=0).iloc[:150]  # order and gaps must not matter
    made = report(none, other)
    (row,) = made.paired.rows
    joined = none.set_index(["task", "trial"]).success.rename("none")
    both = other.set_index(["task", "trial"]).join(joined)
    losses = int((both.none & ~both.success.astype(bool)).sum())
    gains = int((~both.none & both.success.astype(bool)).sum())
    assert (row["pairs"], row["losses"], row["gains"]) == (150, losses, gains)
    assert row["p"] == pytest.approx(binomtest(losses, losses + gains).pvalue)
    assert row["difference"].value == pytest.approx((gains - losses) / 150)
    listed = discordant_table(made.results, made.pairs).rows
    assert len(listed) == losses + gains
    lost = next(r for r in listed if r["solved_by"] == "none")
    assert none.set_index("episode_id").success[lost["episode_id_none"]]
    assert "static 0.5: 50 episodes" not in " ".join(made.warnings)


def test_different_scenes_settings_and_lone_cells_are_told(rng):
    none = cell("none", None, 0.9, rng, tasks=2, trials=5)
    moved = cell("adp", 0.5, 0.9, rng, tasks=2, trials=5, scene_hash="elsewhere")
    lone = cell("adp", 0.5, 0.9, rng, tasks=2, trials=5, dtype="bfloat16", device="H100")
    made = report(none, moved, lone)
    text = "\n".join(made.warnings)
    assert "10 of 10 pairs began in different scenes" in text
    assert "no run of none in the same setting for adp 0.5: not compared" in text
    assert "mixed precisions: bfloat16, float32" in text
    assert "mixed devices: H100, cpu" in text
    assert made.overview.success.columns[0].key == "dtype"


@pytest.mark.parametrize("column", columns(Role.PROVENANCE))
def test_every_difference_of_provenance_is_told_or_said_elsewhere(rng, column):
    one = cell("none", None, 0.9, rng, tasks=1, trials=3)
    two = cell("static", 0.5, 0.9, rng, tasks=1, trials=3)
    told = report(one, two).warnings
    values = {"batch_size": 4, "versions": '{"torch": "9.9"}', "self_check": None}
    two[column] = [values.get(column, 99 if column == "workers" else "other")] * len(two)
    if column in ("versions", "git_revision"):
        one[column] = '{"torch": "1.1"}'
    more = set(report(one, two).warnings) - set(told)
    if column not in ("run_id", "started_at"):
        assert more, column


def test_pairs_that_began_unlike_are_told(rng):
    none = cell("none", None, 0.9, rng, tasks=2, trials=5)
    other = cell("adp", 0.5, 0.9, rng, tasks=2, trials=5, frames_hash="other")
    other.loc[:2, "instruction"] = "put it down"
    other.loc[:3, "scene_hash"] = "elsewhere"
    text = "\n".join(report(none, other).warnings)
    assert "adp 0.5: 4 of 10 pairs began in different scenes" in text
    assert "adp 0.5: 6 of 10 pairs saw other first frames of the same scene" in text
    assert "adp 0.5: 3 of 10 pairs had another instruction" in text
    same = "\n".join(report(none, cell("adp", 0.5, 0.9, rng, tasks=2, trials=5)).warnings)
    assert "pairs" not in same


def test_a_method_that_never_pruned_is_told(rng):
    none = cell("none", None, 0.9, rng, suites=ALL[:2], tasks=1, trials=3)
    idle = cell("vla-cache", None, 0.9, rng, suites=ALL[:2], tasks=1, trials=3)
    once = cell("adp", 0.5, 0.9, rng, suites=ALL[:2], tasks=1, trials=3)
    once.loc[once.suite == ALL[0], "pruned_call_fraction"] = 0.0
    told = [w for w in report(none, idle, once).warnings if "pruned" in w]
    assert sorted(told) == [
        "adp 0.5: not one call in libero_spatial was pruned: it ran as none does",
        "vla-cache: not one call was pruned: it ran as none does",
    ]
    once.loc[0, "pruned_call_fraction"] = 0.1
    assert not any("adp" in w for w in report(none, once).warnings)


def test_old_and_new_rows_of_one_action_a_call_are_one_cell(rng, tmp_path):
    old = cell("none", None, 0.9, rng, tasks=1, trials=3, policy="openvla", execute_steps=8)
    new = cell("none", None, 0.9, rng, tasks=1, trials=3, policy="openvla", execute_steps=1)
    new["trial"] += 3
    made = load(write(tmp_path, pd.concat([old, new], ignore_index=True)))
    (row,) = made.overview.success.rows
    assert (row["episodes"], row["execute_steps"]) == (6, "1")
    assert ", 1," not in made.overview.shared


def test_one_checkpoint_per_suite_is_one_cell_two_of_one_suite_are_two(rng):
    spatial = cell("none", None, 0.9, rng, trials=2, checkpoint="a-spatial")
    goal = cell("none", None, 0.9, rng, trials=2, suites=("libero_goal",), checkpoint="a-goal")
    other = cell("none", None, 0.9, rng, trials=2, checkpoint="b-spatial")
    assert len(report(spatial, goal).results.cells) == 1
    assert len(report(spatial, goal, other).results.cells) == 3


def test_latency_is_of_one_device_and_batch_one(rng, tmp_path):
    frames = []
    for device, factor in (("A", 1.0), ("B", 3.0)):
        for method, keep in (("none", None), ("static", 0.5)):
            frames.append(cell(method, keep, 0.9, rng, tasks=2, trials=5, device=device))
            frames[-1]["latency_p50_ms"] *= factor
    crowd = cell("static", 0.5, 0.9, rng, tasks=2, trials=5, device="A", batch_size=8)
    crowd["trial"] += 100
    crowd["latency_p50_ms"] = 1e6
    episodes = pd.concat([*frames, crowd], ignore_index=True)
    episodes["episode_id"] = [f"e{k}" for k in range(len(episodes))]
    made = load(write(tmp_path, episodes, rng))
    table = made.overview.cost
    assert "device" in [c.key for c in table.columns]
    assert len(table.rows) == 4
    for row in rows(table, method="static"):
        assert row["p50_ratio"] == pytest.approx(0.7, abs=0.05)
        assert row["p90_ratio"] == pytest.approx(0.7, abs=0.05)
        assert row["p90"] / row["p50"] == pytest.approx(math.exp(0.128), abs=0.05)
        assert row["flops_ratio"] == pytest.approx(0.65)
    assert any("batch sizes are 1, 8" in w for w in made.warnings)


def test_latency_of_a_busy_processor_is_told(rng):
    alone = cell("none", None, 0.9, rng, tasks=1, trials=3, device="cpu (a model)", workers=1)
    beside = cell("static", 0.5, 0.9, rng, tasks=1, trials=3, device="cpu (a model)", workers=2)
    told = "3 episodes ran on a CPU beside other simulators"
    assert any(told in w for w in report(alone, beside).warnings)
    assert not any("beside other simulators" in w for w in report(alone).warnings)
    assert not any("beside" in w for w in report(beside.assign(device="NVIDIA H200")).warnings)


def test_without_calls_latency_says_where_it_comes_from(rng):
    made = report(cell("none", None, 0.9, rng, tasks=1, trials=3))
    (row,) = made.overview.cost.rows
    assert row["p50"] == 80
    assert math.isnan(row["p90"])
    assert "median of episodes' medians" in made.overview.cost.notes[-1]


def test_tokens_of_empty_cameras_stand_apart_from_pruning(rng):
    frames = [
        cell(
            method, keep, 0.5, rng, tasks=1, trials=4, policy="pi05", empty_tokens_dropped_mean=256
        )
        for method, keep in (("none", None), ("static", 0.5))
    ]
    cost = Report(gather(pd.concat(frames, ignore_index=True))).overview.cost
    assert [row["empty"] for row in cost.rows] == [256, 256]
    assert "no pruning" in " ".join(cost.notes)
    nothing = Report(gather(cell("none", None, 0.5, rng, tasks=1, trials=4))).overview.cost
    assert "empty" not in {column.key for column in nothing.columns}


def test_every_varying_option_has_a_table(rng):
    frames = [cell("none", None, 0.9, rng, tasks=1, trials=4)]
    for keep in (0.25, 0.5):
        for lookback in (2, 10):
            options = {"gate": {"rule": "adjacent", "lookback": lookback}}
            frames.append(cell("adp", keep, 0.8, rng, tasks=1, trials=4, options=options))
    frames.append(cell("static", 0.5, 0.8, rng, tasks=1, trials=4))
    frames.append(cell("static", 0.75, 0.8, rng, tasks=1, trials=4))
    made = report(*frames)
    assert [axis.title for axis in made.axes] == [
        "Trade-off: keep", "Lookback: gate.lookback of adp",
    ]  # fmt: skip
    tradeoff, lookback = made.sweeps
    assert {"episodes", "errors", "missing"} <= {c.key for c in tradeoff.columns}
    assert len(tradeoff.rows) == 6
    assert [r["value"] for r in lookback.rows] == ["2", "10", "2", "10"]
    assert len({r["curve"] for r in lookback.rows}) == 2


def twin_folder(tmp_path, rng, change=None):
    base = cell("adp", 0.5, 0.8, rng, tasks=2, trials=4, options={"lookback": 2})
    base["episode_id"] = [f"a{k}" for k in range(len(base))]
    other = base.assign(method_options='{"keep": 0.5, "lookback": 7}')
    other["episode_id"] = [f"b{k}" for k in range(len(base))]
    third = cell("adp", 0.5, 0.2, rng, tasks=2, trials=4, options={"lookback": 9})
    if change:
        change(other)
    return write(tmp_path, pd.concat([base, other, third], ignore_index=True), rng)


def test_an_axis_that_changes_nothing_is_called_dead(rng, tmp_path):
    (table,) = load(twin_folder(tmp_path, rng)).sweeps
    assert [row.get("same") for row in table.rows] == [None, "same decisions as 2", None]
    assert "Dead" not in table.notes[0]  # lookback 9 differs
    made = load(tmp_path)
    only = made.results.episodes[~made.results.episodes.method_options.str.contains("9")]
    (table,) = Report(gather(only, tmp_path)).sweeps
    assert table.notes[0].startswith("Dead axis: lookback")
    (table,) = Report(gather(only)).sweeps  # no call rows: decisions are not known
    assert not any("same" in row for row in table.rows)


def test_one_other_step_count_is_a_difference(rng, tmp_path):
    def change(frame):
        frame.loc[3, "steps"] += 1

    (table,) = load(twin_folder(tmp_path, rng, change)).sweeps
    assert not any("same" in row for row in table.rows)


def test_other_tokens_of_the_same_number_are_a_difference(rng, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = twin_folder(tmp_path, rng)
    path = next((folder / "_calls").iterdir())
    table = pq.read_table(path)
    data = table.to_pylist()
    row = next(r for r in data if r["episode_id"] == "b0")
    row["kept_visual"] = [k + 1 for k in row["kept_visual"]]
    pq.write_table(pa.Table.from_pylist(data, schema=table.schema), path)
    (table,) = load(folder).sweeps
    assert not any("same" in row for row in table.rows)


def test_tasks_have_rows_of_their_own(rng):
    made = report(cell("none", None, 0.9, rng, trials=4), cell("adp", 0.5, 0.9, rng, trials=4))
    table = made.overview.tasks
    assert len(table.rows) == 10
    assert all(isinstance(r["c0"], Rate) and isinstance(r["c1"], Rate) for r in table.rows)
    assert [c.title for c in table.columns][-2:] == ["none", "adp 0.5"]


def test_a_family_of_comparisons_is_corrected_together(rng):
    none = cell("none", None, 0.9, rng, suites=ALL[:2])
    frames = [none]
    for keep in (0.2, 0.4, 0.6):
        own = cell("adp", keep, 0.9, rng, suites=ALL[:2])
        own["success"] = paired(none, loss=0.04, gain=0.1, rng=rng)
        frames.append(own)
    made = report(*frames)
    whole = rows(made.paired, suite="all")
    assert len(made.paired.rows) == 9
    lowest = min(whole, key=lambda r: r["p"])
    assert lowest["p_holm"] == pytest.approx(min(1.0, 3 * lowest["p"]))
    assert len(pairs(made.results)) == 3


def test_a_folder_without_episodes_is_told(tmp_path):
    with pytest.raises(UserError, match="holds no results"):
        load(tmp_path)


def test_truth_is_found_in_ten_thousand_episodes(rng):
    """18 cells as good as none and 2 that are 8 points worse: intervals and verdicts say so."""
    none = cell("none", None, 0.9, rng)
    frames = [none]
    for k in range(20):
        own = cell("random", 0.5, 0.9, rng, options={"seed": k})
        # 0.9 of loss x equals 0.1 of gain 9x: the rate stays; the last two lose 8 points more
        own["success"] = paired(none, 0.03 + (k >= 18) * 0.09, 0.27, rng)
        frames.append(own)
    made = report(*frames)
    table = made.paired
    worse = [row["options"] for row in table.rows if row["verdict"] == "worse"]
    assert worse == ["seed=18", "seed=19"]
    assert not rows(table, verdict="better")
    truth = [-0.08 if row["options"] in worse else 0.0 for row in table.rows]
    held = [
        row["difference"].low <= t <= row["difference"].high
        for row, t in zip(table.rows, truth, strict=True)
    ]
    # the sample of none is shared, so the differences move together: not all 20 hold
    assert sum(held) >= 16
    p = [row["p"] for row in table.rows if row["options"] not in worse]
    assert np.mean(np.array(p) < 0.05) <= 0.2


@pytest.mark.heavy
def test_truth_is_found_in_a_hundred_thousand_episodes(rng, tmp_path):
    """49 cells against none, each with a known loss: intervals hold it, verdicts are right."""
    episodes, truth = many(rng)
    assert len(episodes) == 100_000
    made = load(write(tmp_path, episodes, rng))
    tables = {table.name: table for table in made.tables(per_task=True, per_episode=True)}
    whole = rows(tables["paired"], suite="all")
    first = episodes[episodes.episode_id.isin(truth)].set_index("episode_id")
    gaps = {
        made.results.episodes.set_index("episode_id").cell[name]: truth[name]
        for name in first.index
    }
    held = [r["difference"].low <= gaps[r["cell"]] <= r["difference"].high for r in whole]
    assert len(whole) == len(gaps) == 49
    assert np.mean(held) > 0.85  # the truth is given none's draw: 95 % of 49 independent intervals
    for row in whole:
        if row["verdict"] == "worse":
            assert gaps[row["cell"]] < 0
        if row["verdict"] == "better":
            assert gaps[row["cell"]] > 0
        if row["verdict"] == "not inferior":
            assert gaps[row["cell"]] > -0.05
    assert {"worse", "not inferior"} <= {row["verdict"] for row in whole}
    assert len(tables["discordant"].rows) == sum(r["losses"] + r["gains"] for r in whole)
    assert len(charts(made)) > 10
    assert len(page(made, tmp_path, [])) > 5_000_000
