"""What an episode is, said once: columns have roles; ids, cells and pairs follow from them."""

import ast
import json
from dataclasses import asdict, fields, replace
from pathlib import Path

import pandas as pd
import pytest

from tests.fakes import LOADED
from tests.rows import episode_row
from vlaprune_bench import types
from vlaprune_bench.config import EvalConfig, digest, method_options
from vlaprune_bench.measure.provenance import versions
from vlaprune_bench.pruning.static import Static
from vlaprune_bench.report.cells import gather
from vlaprune_bench.report.compare import pairs
from vlaprune_bench.report.summary import summarise
from vlaprune_bench.rollout.identity import draw_seed, facts_note, identity, known_facts, specs
from vlaprune_bench.rollout.setup import Setup
from vlaprune_bench.store import Store
from vlaprune_bench.types import DEFAULTS, IDENTITY, EpisodeRow, EpisodeSpec, Role, columns

CONFIG = EvalConfig.of(pruner=Static(keep=0.5), task_ids=(0,), trials=1)
OTHER = {
    "suite": {"suite": "libero_goal", "max_steps": 220},
    "task": {"task_ids": (1,)},
    "trial": {"trials": 2},
    "seed": {"seed": 8},
    "protocol": {"protocol": "openpi", "execute_steps": 8},
    "scenes": {"scenes": "fresh"},
    "max_steps": {"max_steps": 100},
    "execute_steps": {"execute_steps": 4},
    "method": {"pruner": Static(keep=0.5, qk_layer=2)},
    "method_options": {"pruner": Static(keep=0.25)},
    "attention": {"attention": "eager"},
    "repeat": {"repeat": 1},
    "clock": {"clock": "hold", "latency": "80"},
    "latency": {"clock": "async", "latency": "80", "execute_steps": 4},
    "tick": {"clock": "hold", "latency": "80", "tick": "ceil"},
    "variants": {"variants": ("camera:3",)},
    "suite_reading": {"suite_reading": "code"},
}
"""Options that change a part of the identity; the last episode is the one that differs."""


def rows(config, loaded=LOADED):
    """The last episode of a configuration, and `none` beside it."""
    found = []
    for cell in (config, config.but(pruner=EvalConfig().what.pruner)):
        setup = Setup(cell, loaded)
        shared = setup.shared(specs(cell)[-1])
        found.append(asdict(episode_row()) | shared)
    return found


def changed(name):
    """Configuration and facts with another value of one part of the identity."""
    if name in OTHER:
        return CONFIG.but(**OTHER[name]), LOADED
    if name == "assets_hash":
        return CONFIG, replace(LOADED, assets=replace(LOADED.assets, hash="other"))
    if name == "unpinned":
        return CONFIG, replace(LOADED, unpinned={"mujoco": "3.3.4"})
    field = {"policy_options": "options"}.get(name, name)
    return CONFIG, replace(LOADED, info=replace(LOADED.info, **{field: "other"}))


@pytest.mark.parametrize("name", IDENTITY)
def test_whatever_is_part_of_the_identity_makes_another_id_and_is_kept_apart(name):
    config, loaded = changed(name)
    one, two = rows(CONFIG)[0], rows(config, loaded)[0]
    assert one["episode_id"] != two["episode_id"]
    assert one[name] != two[name] or name == "method"  # static and static with other options
    both = pd.DataFrame([*rows(CONFIG), *rows(config, loaded)]).drop_duplicates("episode_id")
    results = gather(both)
    own = both[both.method == "static"].index
    cells = results.episodes.cell[results.episodes.method == "static"]
    together = results.episodes.pair[results.episodes.method == "static"]
    assert len(own) == 2
    assert cells.nunique() == 2 or together.nunique() == 2
    # and neither table adds them up, but over episodes of one setting
    if name not in columns(Role.PAIR):
        table = summarise(both)
        assert table[table.method == "static"].episodes.tolist() == [1, 1]


@pytest.mark.parametrize("name", columns(Role.SETTING))
def test_a_method_is_compared_with_none_of_its_own_setting_alone(name):
    config, loaded = changed(name)
    both = pd.DataFrame([rows(CONFIG)[0], rows(config, loaded)[1]])
    assert pairs(gather(both)) == []
    four = pd.DataFrame([*rows(CONFIG), *rows(config, loaded)])
    found = pairs(gather(four))
    assert [len(pair.frame) for pair in found] == [1, 1]
    assert {tuple(sorted(p.cell.setting.items())) for p in found} == {
        tuple(sorted(results.setting.items())) for results in gather(four).cells
    }


def test_every_column_has_a_role_and_ids_are_made_of_three_of_them():
    assert all(isinstance(f.metadata["role"], Role) for f in fields(EpisodeRow))
    facts = LOADED.facts
    joined_later = DEFAULTS[EpisodeRow].keys()
    assert set(identity(CONFIG, specs(CONFIG)[0], facts)) == set(IDENTITY) - joined_later


def test_ids_of_rows_already_written_stay():
    """Of the table of November 2026."""
    path = Path(__file__).parents[1] / "results" / "tiny-table-2026-11" / "tiny-table.parquet"
    table = pd.read_parquet(path).sample(20, random_state=0)
    for row in table.to_dict("records"):
        data = {name: row[name] for name in IDENTITY if name in row}
        data["method_options"] = json.loads(data["method_options"])
        assert digest(data) == row["episode_id"]


def test_a_column_that_joins_later_moves_no_id_and_no_draw(monkeypatch):
    """A default stands for what episodes were before: it is left out of what is hashed."""
    spec = EpisodeSpec("libero_spatial", 3, 4, 7, "openvla", 220)
    assert draw_seed(spec) == int(digest(asdict(spec)), 16)
    with monkeypatch.context() as patch:
        patch.setitem(types.DEFAULTS[EpisodeSpec], "max_steps", 220)
        assert "max_steps" not in spec.named
        assert "max_steps" in replace(spec, max_steps=100).named
    before = identity(CONFIG, spec, LOADED.facts)
    monkeypatch.setitem(types.DEFAULTS[EpisodeRow], "scenes", "reference")
    assert identity(CONFIG, spec, LOADED.facts) == {
        k: v for k, v in before.items() if k != "scenes"
    }
    assert identity(CONFIG.but(scenes="fresh"), spec, LOADED.facts)["scenes"] == "fresh"


def test_no_list_repeats_the_roles():
    """A collection of four and more identifying columns is a second definition."""
    src = Path(types.__file__).parent
    repeated = []
    for path in src.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.List | ast.Tuple | ast.Set):
                names = [e.value for e in node.elts if isinstance(e, ast.Constant)]
                if len(set(IDENTITY) & {n for n in names if isinstance(n, str)}) >= 4:
                    repeated.append(f"{path.relative_to(src)}:{node.lineno}")
    assert repeated == []


def test_facts_and_rows_agree():
    row = DEFAULTS[EpisodeRow] | Setup(CONFIG, LOADED).shared(specs(CONFIG)[0])
    facts = {k: v for k, v in asdict(LOADED.facts).items() if k in IDENTITY}
    assert {name: row[name] for name in facts} == facts
    assert json.loads(row["method_options"]) == method_options(CONFIG.what.pruner)
    assert row["versions"] == versions()


def damage(how):
    """Another text for a note."""

    def told(text):
        note = json.loads(text)
        facts = note["facts"]
        other = {
            "lacking": {**note, "facts": {k: facts[k] for k in list(facts)[1:]}},
            "more": {**note, "facts": facts | {"precision": "x"}},
            "kind": {**note, "facts": facts | {"dtype": 32}},
            "list": [],
            "bare": {},
        }
        return json.dumps(other[how]).encode()

    return told


@pytest.mark.parametrize(
    "harm",
    [
        lambda text: text[:40].encode(),
        lambda text: b"",
        lambda text: text.encode("utf-16"),
        *map(damage, ("lacking", "more", "kind", "list", "bare")),
    ],
)
def test_a_damaged_note_is_found_out_anew(tmp_path, harm):
    """Facts are a shortcut: without them the checkpoint is loaded and tells them."""
    store = Store(tmp_path / "results")
    config = CONFIG.but(output=store.folder)
    facts = LOADED.facts
    store.save_note(*facts_note(config, facts, tmp_path))
    assert known_facts(store.folder, config) == facts
    (note,) = (store.folder / "_runs").glob("facts-*.json")
    note.write_bytes(harm(note.read_text()))
    assert known_facts(store.folder, config) is None


def test_a_link_that_leads_nowhere_is_no_file_of_a_checkpoint(tmp_path):
    store, checkpoint = Store(tmp_path / "results"), tmp_path / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "config.json").touch()
    (checkpoint / "README.md").symlink_to("nowhere")
    config = CONFIG.but(output=store.folder)
    store.save_note(*facts_note(config, LOADED.facts, checkpoint))
    assert known_facts(store.folder, config) == LOADED.facts
    (checkpoint / "README.md").unlink()
    assert known_facts(store.folder, config) == LOADED.facts
    (checkpoint / "weights").touch()
    assert known_facts(store.folder, config) is None
