"""The embedded checkpoints: small, honest about themselves, and made by their script."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from vlaprune_bench.config import What
from vlaprune_bench.policies import load_policy
from vlaprune_bench.policies.checkpoint import TINY, TINY_FLOW, TINY_OPENVLA, TRAINED, Checkpoint
from vlaprune_bench.pruning.none import NoPruning
from vlaprune_bench.types import SUITES, UserError

SCRIPT = Path(__file__).parents[2] / "scripts" / "make_tiny.py"


@pytest.fixture
def script(monkeypatch):
    if importlib.util.find_spec("libero") is None:
        pytest.skip("libero is not installed; its instructions give the vocabulary")
    spec = importlib.util.spec_from_file_location("make_tiny", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    for name in ("tiny", "tiny.flow"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "make_tiny", module)
    spec.loader.exec_module(module)
    return module


def size(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


ONES = [(family, suite) for family, suites in TRAINED.items() for suite in suites]
CALLS = {"tiny": (((8, 8), (8, 8)), 8), "tiny-smolvla": (((8, 8), (8, 8)), 8)}
"""Grids and chunk."""


@pytest.mark.parametrize(("family", "suite"), ONES)
def test_trained_ones_say_what_they_are(keep, family, suite):
    found = Checkpoint.find(family, suite)
    info = load_policy(family, keep(), suite=suite).info
    assert (info.name, info.trained, info.assets) == (TRAINED[family][suite], True, "lite")
    assert info.checkpoint_hash == found.hash
    assert ((info.grids, info.chunk), info.n_layers) == (CALLS[family], 4)


def test_a_trained_one_is_the_default():
    assert What.checkpoint == "tiny"


def test_trained_ones_are_small():
    sizes = [size(Checkpoint.find(*one).folder) for one in ONES]
    assert max(sizes) < 3e6
    assert sum(sizes) < 16e6


@pytest.mark.parametrize("name", ["tiny", *TRAINED["tiny"].values()])
def test_a_suite_that_it_was_not_trained_on_is_refused(keep, name):
    with pytest.raises(UserError, match=r"suite is libero_10; .*--checkpoint tiny-untrained runs"):
        load_policy(name, keep(), suite="libero_10")


@pytest.mark.parametrize("name", ["tiny-smolvla", *TRAINED["tiny-smolvla"].values()])
def test_a_flow_one_refuses_other_suites_too(name):
    with pytest.raises(UserError, match=r"suite is libero_goal; .*libero_object"):
        Checkpoint.find(name, "libero_goal").check_for("libero_goal")


@pytest.mark.parametrize(("short", "name"), [(TINY, TINY), ("tiny-openvla", TINY_OPENVLA)])
def test_is_small_and_says_it_is_untrained(keep, short, name):
    folder = Checkpoint.find(short).folder
    assert size(folder) < 1.6 * 2**20
    for suite in SUITES:
        info = load_policy(name, keep(), suite=suite).info
        assert (info.name, info.trained, info.assets) == (name, False, "lite")
        assert info.grids == ((16, 16),) * (2 if name == TINY else 1)
        assert info.chunk == (8 if name == TINY else 1)
        assert info.n_layers == 4


@pytest.mark.parametrize("name", [TINY, TINY_OPENVLA, *TINY_FLOW.values()])
def test_script_makes_it_again(script, tmp_path, name):
    script.main(tmp_path)
    there, made = Checkpoint.find(name).folder, tmp_path / name
    assert sorted(p.name for p in made.iterdir()) == sorted(p.name for p in there.iterdir())
    for path in sorted(there.iterdir()):
        again = made / path.name
        if path.suffix == ".json":
            assert again.read_text() == path.read_text()
            continue
        read = (
            load_file
            if path.suffix == ".safetensors"
            else lambda p: torch.load(p, weights_only=True)
        )
        ours, theirs = read(path), read(again)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("name", TINY_FLOW.values())
def test_the_flow_ones_are_small_and_know_every_instruction(script, name):
    found = Checkpoint.find(name)
    assert size(found.folder) < 400_000
    policy = load_policy(name, NoPruning(), suite="libero_10", device="cpu")
    unknown = policy.files.tokenizer.token_to_id("<unk>")
    prompts = [policy.start(text, 0).prompt_T.tolist() for text in script.instructions()]
    assert len({tuple(ids) for ids in prompts}) == len(set(script.instructions()))
    assert not any(unknown in ids for ids in prompts)


def test_every_instruction_is_in_the_vocabulary(script):
    tokenizer = Checkpoint.find(TINY).tokenizer
    texts = list(script.instructions())
    assert len(texts) == 130
    prompts = {tuple(tokenizer.encode(script.PROMPT.format(text)).ids) for text in texts}
    assert not any(tokenizer.token_to_id("<unk>") in ids for ids in prompts)
    assert len(prompts) == len(set(texts))
    assert all(ids[0] == 1 for ids in prompts)
