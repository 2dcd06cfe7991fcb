"""Sweep files: axes, explicit cells, baselines, dead axes, smoke, and what is refused."""

from pathlib import Path

import pytest

from vlaprune_bench.config import labels
from vlaprune_bench.policies.checkpoint import TRAINED
from vlaprune_bench.pruning.adp import Adp
from vlaprune_bench.pruning.fastv import FastV
from vlaprune_bench.pruning.gate import MotionGate
from vlaprune_bench.pruning.none import NoPruning
from vlaprune_bench.sweep.file import load_sweep
from vlaprune_bench.types import UserError

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "sweeps").glob("*.yaml"))


@pytest.fixture
def load(tmp_path):
    def load(text, **options):
        path = tmp_path / "study.yaml"
        path.write_text(text)
        return load_sweep(path, **options)

    return load


def pruners(sweep):
    return [cell.what.pruner for cell in sweep.cells]


def test_a_grid_has_every_combination_and_one_baseline_first(load):
    sweep = load(
        """
        base: {pruner: {type: adp, qk_layer: 1}}
        grid: {pruner.keep: [0.25, 0.5], pruner.gate.lookback: [1, 3]}
        """
    )
    assert pruners(sweep) == [
        NoPruning(),
        *(Adp(keep, (), 1, gate=MotionGate(lookback=n)) for keep in (0.25, 0.5) for n in (1, 3)),
    ]
    assert sweep.warnings == []
    assert {str(cell.storage.output) for cell in sweep.cells} == {"results/sweeps/study"}


def test_zip_goes_side_by_side_and_suites_multiply(load):
    sweep = load(
        """
        base: {pruner: fastv}
        zip: {seed: [7, 8], max_steps: [16, 24]}
        suites: [libero_goal, libero_10]
        """
    )
    seen = [(c.what.suite, c.what.pruner.name, c.what.seed, c.what.max_steps) for c in sweep.cells]
    assert seen == [
        (suite, method, seed, steps)
        for suite in ("libero_goal", "libero_10")
        for seed, steps in ((7, 16), (8, 24))
        for method in ("none", "fastv")
    ]


def test_explicit_cells_may_have_axes_and_methods_may_be_whole_mappings(load):
    sweep = load(
        """
        baseline: false
        cells:
          - {pruner: fastv, grid: {pruner.keep: [0.25, 0.5]}}
          - {pruner: {type: gated, inner: {type: fastv, layer: 2}, gate: {rule: avg}}}
          - {pruner.keep: 0.75, pruner: static}
        """
    )
    fast, faster, gated, static = pruners(sweep)
    assert (fast, faster) == (FastV(keep=0.25), FastV(keep=0.5))
    assert (gated.inner, gated.gate.rule) == (FastV(layer=2), "avg")
    assert (static.name, static.keep) == ("static", 0.75)


def test_an_axis_over_methods_and_an_axis_of_their_options(load):
    sweep = load(
        """
        grid:
          pruner.keep: [0.25, 0.5]
          pruner: [{type: fastv}, {type: vla-cache}, none]
        """
    )
    assert sorted((p.name, p.keep_ratio) for p in pruners(sweep) if p.keep_ratio) == [
        ("fastv", 0.25),
        ("fastv", 0.5),
    ]
    assert len(sweep.cells) == 4  # the baseline is the one asked for
    assert sweep.warnings == [
        "dead axis: pruner.keep changes nothing for vla-cache in 1 cell, merged into equal ones"
    ]


@pytest.mark.parametrize(
    ("base", "axis", "values", "distinct"),
    [
        ("rule: avg", "lookback", "[1, 2, 3]", 1),
        ("rule: adjacent", "lookback", "[1, 2, 3]", 3),
        ("rule: avg", "hold_last_state", "[true, false]", 1),
        ("{rule: avg, hysteresis_up: 0.1}", "hold_last_state", "[true, false]", 2),
        ("lookback: 1", "hold_last_state", "[true, false]", 1),
        ("lookback: 2", "hold_last_state", "[true, false]", 2),
        ("lever_arm: 0.0", "min_delta_rot", "[0.0, 0.1]", 1),
        ("lever_arm: 0.1", "min_delta_rot", "[0.0, 0.1]", 2),
        ("displacement: net", "min_delta_pos", "[0.0, 0.1]", 1),
        ("displacement: arc_sum", "min_delta_pos", "[0.0, 0.1]", 2),
        ("rule: adjacent", "displacement", "[reading, arc_sum, net]", 2),
    ],
)
def test_options_that_nothing_reads_are_dead_axes(load, base, axis, values, distinct):
    gate = base if base.startswith("{") else f"{{{base}}}"
    text = f"""
    base: {{pruner: {{type: adp, gate: {gate}}}}}
    grid: {{pruner.gate.{axis}: {values}}}
    """
    sweep = load(text)
    assert len(sweep.cells) == 1 + distinct
    merged = values.count(",") + 1 - distinct
    assert len(sweep.warnings) == (merged > 0)
    if merged:
        assert (
            f"dead axis: pruner.gate.{axis} changes nothing for adp in {merged} cell"
            in (sweep.warnings[0])
        )


SMOKE = """
base: {checkpoint: big, trials: 50}
grid: {pruner.keep: [0.1, 0.2, 0.3]}
cells: [{pruner: static}, {pruner: adp}]
smoke:
  base: {checkpoint: tiny, trials: 1}
  cells: [{pruner: static}]
"""


def test_smoke_wins_key_by_key_and_has_a_folder_of_its_own(load):
    sweep = load(SMOKE, smoke=True)
    assert [c.what.pruner.keep_ratio for c in sweep.cells] == [None, 0.1, 0.2, 0.3]
    first = sweep.cells[0]
    assert (first.what.checkpoint, first.what.trials, str(first.storage.output)) == (
        "tiny",
        1,
        "results/smoke/study",
    )
    assert load(SMOKE).cells[0].what.checkpoint == "big"


def test_smoke_rows_never_go_into_the_studys_folder(load):
    text = "base: {output: results/mine, pruner: adp}\nsmoke: {base: {trials: 1}}"
    assert {str(c.storage.output) for c in load(text).cells} == {"results/mine"}
    assert {str(c.storage.output) for c in load(text, smoke=True).cells} == {"results/smoke/study"}


def test_the_command_line_wins_in_every_cell(load):
    sweep = load(
        "zip: {suite: [libero_goal, libero_10], checkpoint: [a, b]}",
        overrides={"checkpoint": "c", "trials": 2, "output": "here"},
    )
    assert [(c.what.checkpoint, c.what.trials, str(c.storage.output)) for c in sweep.cells] == [
        ("c", 2, "here")
    ] * 2


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("gird: {}", "unknown key gird; did you mean grid?"),
        ("grid: {trails: [1]}", "unknown key trails; did you mean trials?"),
        ("grid: {pruner.keep: 0.5}", "grid: pruner.keep is 0.5; it must be a list of values"),
        ("grid: {trials: []}", "must be a list of values"),
        ("zip: {seed: [1, 2], trials: [1]}", "of different lengths: {'seed': 2, 'trials': 1}"),
        ("{base: {pruner: adp}, grid: {pruner.kep: [1]}}", "axis pruner.kep .* of no method here"),
        ("base: {pruner: {type: adp, kep: 1}}", "unknown key kep; did you mean keep?"),
        ("cells: [{pruner: adp, pruner.gate.rul: avg}]", "unknown key rul; did you mean rule?"),
        ("cells: [{pruner: adq}]", "is adq; did you mean adp?"),
        ("cells: [3]", r"cells\[0\] is 3; it must be a mapping"),
        ("grid: {pruner.keep: [2.0], pruner: [fastv]}", "--keep is 2; it must be above 0"),
        ("smoke: {bse: {}}", "smoke: unknown key bse; did you mean base?"),
        ("grid: 3", "grid cannot be read"),
        ("cells: [{grid: [1]}]", r"grid is \[1\]; it must be a mapping of axes to lists"),
        ("cells: [{pruner: {type: {}}}]", "--method is {}; there are: "),
        ("{base: {pruner: [adp]}, grid: {pruner.keep: [1]}}", r"pruner is \['adp'\]; it must be a"),
        ("- a", "must hold a mapping"),
    ],
)
def test_what_is_wrong_is_named(load, text, sentence):
    with pytest.raises(UserError, match=sentence):
        load(text, smoke=text.startswith("smoke"))


def test_a_file_without_a_smoke_form_says_so(load):
    with pytest.raises(UserError, match="does not say what a smoke run of it is"):
        load("base: {trials: 1}", smoke=True)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
@pytest.mark.parametrize("smoke", [False, True], ids=["full", "smoke"])
def test_every_study_expands(path, smoke):
    sweep = load_sweep(path, smoke=smoke)
    names = labels(sweep.cells)
    assert len(set(names)) == len(names)
    assert any(cell.what.pruner.name == "none" for cell in sweep.cells)
    if smoke:
        checkpoints = {cell.what.checkpoint for cell in sweep.cells}
        policy = path.stem.removeprefix("main-table-")
        flow = policy in ("pi05", "smolvla")
        families = set(TRAINED) if path.stem == "tiny-table" else {"tiny"}
        assert checkpoints == ({f"tiny-{policy}-untrained"} if flow else families)
        steps = sum(len(c.what.tasks) * c.what.trials * c.what.budget for c in sweep.cells)
        assert steps < 2500  # about two minutes on two cores


def test_the_studies_that_are_asked_for_are_there():
    assert {path.stem for path in CONFIGS} == {
        "qk-layer",
        "lookback",
        "lookback-object",
        "window",
        "window-keep",
        "tradeoff",
        "threshold",
        "gating",
        "latency",
        "robustness",
        "main-table",
        "main-table-pi05",
        "main-table-smolvla",
        "noise-floor",
        "tiny-table",
        "tiny-robustness",
        "tiny-latency",
        "demo",
    }
    table = load_sweep(next(path for path in CONFIGS if path.stem == "main-table"))
    assert len({cell.what.suite for cell in table.cells}) == 4
    assert {cell.what.trials for cell in table.cells} == {50}


def test_one_folder_for_all_cells(load):
    with pytest.raises(UserError, match=r"output is a, b; a sweep has one results folder"):
        load("grid: {output: [a, b]}")


def test_two_labels_of_one_behaviour_are_one_cell(load):
    """The protocol's number of steps, said and not said."""
    found = load("base: {pruner: static}\ngrid: {execute_steps: [null, 8, 4]}")
    assert [c.what.execute_steps for c in found.cells if c.what.pruner.name == "static"] == [
        None,
        4,
    ]
    assert "dead axis: execute_steps changes nothing for static in 1 cell" in found.warnings[0]
