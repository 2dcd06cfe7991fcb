"""Damaged input at random: it works, or it is one sentence. Never a traceback.

`make test` spends a minute on it; `pytest -m heavy tests/test_fuzz.py` runs 2,000 inputs.
"""

import json
import random
import shutil
import time
import warnings
from pathlib import Path

import pytest
import yaml

from tests.rows import call_row, episode_row
from vlaprune_bench.config import load
from vlaprune_bench.pruning.none import NoPruning
from vlaprune_bench.report.build import load as load_report
from vlaprune_bench.store import Store, load_calls
from vlaprune_bench.sweep.file import load_sweep
from vlaprune_bench.types import UserError

ROOT = Path(__file__).parents[1]
CHECKPOINTS = ROOT / "src" / "vlaprune_bench" / "checkpoints"
YAMLS = sorted((ROOT / "configs").rglob("*.yaml"))
SUBJECTS = sorted(path.name for path in CHECKPOINTS.glob("*-untrained"))
INPUTS, QUICK_S = 2000, 20.0
JUNK = [None, True, -1, 0, 1e308, float("nan"), "", "x" * 300, [], {}, [[]], {"type": "adp"}, "ä\n"]


def damage_bytes(rng, path):
    """Cut, flip, blank or replace a file's bytes, or take the file away."""
    content = bytearray(path.read_bytes())
    kind = rng.choice(["cut", "flip", "blank", "junk", "remove", "folder"])
    if kind == "remove":
        path.unlink()
    elif kind == "folder":
        path.unlink()
        path.mkdir()
    elif kind == "junk":
        path.write_bytes(rng.randbytes(rng.randrange(200)))
    elif kind == "blank":
        path.write_bytes(b"")
    elif kind == "cut":
        path.write_bytes(content[: rng.randrange(len(content) + 1)])
    else:
        for _ in range(rng.choice([1, 4, 64])):
            # headers matter most
            at = rng.randrange(min(len(content), rng.choice([64, 4096, 10**9]))) if content else 0
            content[at : at + 1] = rng.randbytes(1)
        path.write_bytes(content)


def damage_data(rng, data):
    """Change, drop or add something anywhere in nested plain data."""
    place, key = data, None
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return
        key = rng.choice(keys)
        if isinstance(place[key], dict | list) and place[key] and rng.random() < 0.7:
            place = place[key]
            continue
        break
    kind = rng.choice(["junk", "drop", "add"])
    if kind == "drop":
        del place[key]
    elif kind == "add" and isinstance(place, dict):
        place[rng.choice(["keep", "surplus", "type", str(key) + "s"])] = rng.choice(JUNK)
    else:
        place[key] = rng.choice(JUNK)


def damaged_checkpoint(rng, folder):
    """Load an embedded checkpoint of which a file is damaged, or has other settings."""
    from vlaprune_bench.policies import load_policy

    shutil.copytree(CHECKPOINTS / rng.choice(SUBJECTS), folder)
    files = sorted(path for path in folder.iterdir() if path.is_file())
    path = rng.choice(files)
    if path.suffix == ".json" and rng.random() < 0.7:
        data = json.loads(path.read_text())
        damage_data(rng, data)
        path.write_text(json.dumps(data))
    else:
        damage_bytes(rng, path)
    return lambda: load_policy(str(folder), NoPruning(), suite="libero_spatial", device="cpu")


def damaged_yaml(rng, folder):
    """Read a configuration or a sweep of which something was changed."""
    folder.mkdir()
    source = rng.choice(YAMLS)
    path = folder / "file.yaml"
    shutil.copy(source, path)
    if rng.random() < 0.8:
        data = yaml.safe_load(path.read_text())
        for _ in range(rng.choice([1, 2, 3])):
            damage_data(rng, data)
        path.write_text(yaml.safe_dump(data))
    else:
        damage_bytes(rng, path)
    if source.parent.name == "eval":
        return lambda: load(path)
    return lambda: load_sweep(path, smoke=rng.random() < 0.3)


def damaged_results(rng, folder):
    """Read a results folder of which a file is damaged, and report on it."""
    store = Store(folder, merge_at=3)
    for trial in range(rng.choice([2, 5])):
        for method, keep in (("none", None), ("static", 0.5)):
            name = f"{method}{trial}"
            options = "{}" if keep is None else '{"keep": 0.5}'
            row = episode_row(
                episode_id=name, method=method, method_options=options, keep=keep, trial=trial
            )
            store.append(row, [call_row(episode_id=name)])
    store.save_note("facts-0.json", "{}")
    store.save_config("r", "suite: libero_spatial\ntrials: 2\n")
    store.compact()
    damage_bytes(rng, rng.choice(sorted(path for path in folder.rglob("*") if path.is_file())))

    def read():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            load_report(folder).tables(per_task=True, per_episode=True)
            load_calls(folder)

    return read


KINDS = [damaged_checkpoint, damaged_yaml, damaged_results]


def one_sentence_or_success(make, seed, folder):
    rng = random.Random(seed)
    try:
        make(rng, folder)()
    except UserError as error:
        text = str(error)
        assert "\n" not in text, (make.__name__, seed, text)
        assert 20 < len(text) < 1500, (make.__name__, seed, text)
    except Exception as error:
        raise AssertionError(f"{make.__name__}, seed {seed}: {type(error).__name__}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.parametrize("make", KINDS)
def test_damaged_input_for_a_while(make, tmp_path):
    """The first of the inputs below."""
    end, seed = time.monotonic() + QUICK_S, 0
    while time.monotonic() < end and seed < INPUTS // len(KINDS):
        one_sentence_or_success(make, seed, tmp_path / "input")
        seed += 1
    assert seed


@pytest.mark.heavy
@pytest.mark.parametrize("make", KINDS)
def test_damaged_input_at_length(make, tmp_path):
    for seed in range(INPUTS // len(KINDS) + 1):
        one_sentence_or_success(make, seed, tmp_path / "input")
