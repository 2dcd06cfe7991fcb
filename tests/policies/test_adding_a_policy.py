"""The policy of docs/adding-a-policy.md, as it stands there, runs whatever ours do."""

import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.methods import tiny
from tests.policies.test_batch import act, call_of, check_episodes, check_same, start
from tests.policies.test_graphs import Recorder
from vlaprune_bench import policies
from vlaprune_bench.measure.inputs import INSTRUCTION
from vlaprune_bench.policies import load_policy
from vlaprune_bench.policies.transformer.graphs import Graphs
from vlaprune_bench.pruning import methods
from vlaprune_bench.pruning.fastv import FastV
from vlaprune_bench.pruning.none import NoPruning
from vlaprune_bench.types import UserError

PAGE = Path(__file__).parents[2] / "docs" / "adding-a-policy.md"


@pytest.fixture
def toy(monkeypatch, tmp_path):
    """Its checkpoint's folder; the class is a line in the table."""
    module = types.ModuleType("toy_policy")
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    exec(compile(code, str(PAGE), "exec"), module.__dict__)
    monkeypatch.setitem(sys.modules, "toy_policy", module)
    monkeypatch.setitem(policies.POLICIES, "toy", "toy_policy:Toy")
    (tmp_path / "config.json").write_text('{"type": "toy"}')
    save_file({"weights.it.does.not.read": torch.zeros(1)}, tmp_path / "model.safetensors")
    return tmp_path


def load(folder, pruner=None, **options):
    options = {"suite": "libero_goal", "device": "cpu"} | options
    return load_policy(str(folder), pruner or NoPruning(), **options)


@pytest.mark.parametrize("name", methods())
def test_every_method_runs(toy, name):
    policy = load(toy, count_every=1)
    full = [act(policy, call_of(m)) for m in [start(policy, NoPruning())] for _ in range(4)]
    if tiny(name).fuses:  # the page's policy keeps what its towers give to itself
        with pytest.raises(
            UserError, match="--method is ttf; this policy has no outputs of vision"
        ):
            start(policy, tiny(name))
        return
    memory = start(policy, tiny(name))
    chunks = [act(policy, call_of(memory)) for _ in range(4)]
    for chunk, whole in zip(chunks, full, strict=True):
        m = chunk.measures
        assert m.counted_flops == pytest.approx(m.total_flops, rel=0.01)
        if not m.pruned:
            np.testing.assert_array_equal(chunk.actions, whole.actions)
    assert any(chunk.measures.pruned for chunk in chunks) == (name != "none")


def test_batches_and_graphs(toy):
    policy = load(toy)
    check_episodes(policy, [(FastV(0.5, layer=2), INSTRUCTION), (NoPruning(), INSTRUCTION)])
    graphed = load(toy)
    graphed.graphs = Graphs(Recorder())
    memories = [start(p, FastV(0.5, layer=2)) for p in (policy, graphed)]
    for _ in range(2):
        pairs = zip((policy, graphed), memories, strict=True)
        check_same(*(act(p, call_of(m)) for p, m in pairs))


def test_attention_backends_agree(toy):
    one, two = (load(toy, FastV(0.5, layer=2), attention=a) for a in ("sdpa", "eager"))
    check_same(*(act(p, call_of(p.start(INSTRUCTION, 0))) for p in (one, two)))
