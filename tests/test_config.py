"""Configuration: files and objects round trip, what nobody reads is refused, identity is stable."""

from pathlib import Path

import pytest
import yaml

from vlaprune_bench.config import EvalConfig, dump, from_dict, load, run_id
from vlaprune_bench.pruning import methods
from vlaprune_bench.pruning.adp import Adp
from vlaprune_bench.pruning.gate import MotionGate
from vlaprune_bench.pruning.gated import Gated
from vlaprune_bench.pruning.schedule import Schedule
from vlaprune_bench.pruning.sparsevlm import SparseVlm
from vlaprune_bench.pruning.static import Static
from vlaprune_bench.types import UserError

ADP = EvalConfig.of(
    suite="libero_goal",
    pruner=Adp(keep=0.3, camera_split=(0.4, 0.6), gate=MotionGate(rule="avg", lookback=5)),
    task_ids=(3, 1),
    max_steps=16,
    output=Path("elsewhere"),
)


NESTED = EvalConfig.of(
    pruner=Gated(
        Schedule(SparseVlm(keep=0.6, layer=2), later_layers=(5,), later_keeps=(0.25,)),
        MotionGate(lookback=5),
    )
)


@pytest.mark.parametrize("config", [EvalConfig(), ADP, NESTED], ids=["default", "adp", "nested"])
def test_yaml_round_trip(config, tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(dump(config))
    assert load(path) == config


@pytest.mark.parametrize("method", methods())
def test_every_method_round_trips_with_its_type(method):
    config = EvalConfig.of(pruner=methods()[method]())
    data = yaml.safe_load(dump(config))
    assert data["pruner"]["type"] == method
    assert from_dict(data, "test") == config


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({"suit": "libero_goal"}, "unknown key suit; did you mean suite?"),
        ({"pruner": {"type": "adq"}}, "--method is adq; did you mean adp?"),
        ({"pruner": {"type": "adp", "kep": 1}}, "unknown key kep; did you mean keep?"),
        ({"pruner": {"type": "adp", "gate": {"rul": 1}}}, "unknown key rul; did you mean rule?"),
        ({"pruner": {"type": "none", "keep": 0.5}}, "unknown key keep"),
        (
            {"pruner": {"type": "gated", "inner": {"type": "fastv", "kep": 1}}},
            "pruner: inner: unknown key kep; did you mean keep?",
        ),
        ({"pruner": {"type": "gated", "inner": {"type": "fastw"}}}, "did you mean fastv?"),
        ({"pruner": {"type": "gated", "inner": "fastv"}}, "inner must be a mapping with a `type`"),
        ({"pruner": {"type": "schedule", "scorer": {"type": "fastv", "layer": 0}}}, "--layer is 0"),
        ({"pruner": {"keep": 0.5}}, "a `type`, the method's name"),
        ({"pruner": {"type": "static", "keep": 0}}, "--keep is 0; it must be above 0"),
        ({"pruner": {"type": "static", "keep": 1.2}}, "--keep is 1.2; it must be above 0"),
        ({"pruner": {"type": "adp", "gate": {"lookback": "x"}}}, "pruner.gate.lookback"),
        ({"suite": "libero_spatia"}, "did you mean libero_spatial?"),
        ({"task_ids": [10]}, "--task-ids has 10; the tasks of libero_spatial are 0 to 9"),
        ({"task_ids": [1, 1]}, "each task may be named once"),
        ({"trials": 51}, "--trials is 51"),
        ({"trials": "many"}, "trials cannot be read"),
        ({"max_steps": 0}, "--max-steps is 0"),
        ({"dtype": "float8"}, "--dtype is float8"),
        ({"clock": "wait"}, "run.yaml: clock cannot be read: Cannot convert 'wait'"),
        ({"clock": "hold"}, "--clock is hold; give --latency: ms, a profile's parquet, or a CSV"),
        ({"latency": 80}, "--latency is 80; with --clock stop the world waits for calls"),
        ({"tick": "ceil"}, "--tick is ceil; with --clock stop the world waits for calls"),
        ({"clock": "hold", "latency": "soon"}, "--latency is soon; give ms from 0 on"),
        ({"suite": ["libero_goal"]}, "run.yaml: suite is ['libero_goal']; it must be text"),
        ({"pruner": {"type": ["adp"]}}, "--method is ['adp']; did you mean adp? there are: "),
        ({"checkpoint": {"tiny": 1}}, "checkpoint is {'tiny': 1}; it must be text"),
        ({"output": ["a"]}, "output is ['a']; it must be text"),
        ({"variants": [3]}, "--variants is 3; there are: "),
        ({"variants": "camera"}, "variants is camera; it must be a list"),
        ({"pruner": {"type": "random", "camera_split": "10"}}, "camera_split is 10; it must be a"),
    ],
)
def test_bad_keys_and_values_are_named(data, sentence):
    with pytest.raises(UserError) as caught:
        from_dict(data, "run.yaml")
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unreadable_files(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        load(tmp_path / "absent.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("suite: [")
    with pytest.raises(UserError, match="not valid YAML"):
        load(broken)
    broken.write_text("- a list")
    with pytest.raises(UserError, match="a mapping"):
        load(broken)


def test_run_id_is_what_the_run_is():
    assert run_id(ADP) == run_id(ADP.but(output=Path("x"), video="all", wandb=True))
    assert run_id(ADP) != run_id(ADP.but(pruner=Static(keep=0.3)))
    assert run_id(ADP) != run_id(ADP.but(seed=8))
