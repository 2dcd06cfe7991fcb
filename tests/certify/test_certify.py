"""vlaprune-certify on stand-ins of model and simulator: what runs, what stops it, what verifies."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from tests.fakes import INFO, LOADED, FakeLauncher, FakePolicy, FakePool, fake_libero
from vlaprune_bench.certify.course import hopeless, hopeless_at
from vlaprune_bench.certify.order import candidates
from vlaprune_bench.certify.run import certify, rows_by_id
from vlaprune_bench.certify.terms import Terms
from vlaprune_bench.cli.certify import parse, run, verify
from vlaprune_bench.config import EvalConfig
from vlaprune_bench.pruning.static import Static
from vlaprune_bench.rollout.interrupt import INTERRUPTED
from vlaprune_bench.store import load_results
from vlaprune_bench.types import UserError


def losing(keep, lost):
    """Whether an episode is solved: none solves all but every eighth, others lose a share more."""

    def solves(task, trial):
        if (task * 50 + trial) % 8 == 7:
            return False
        return keep is None or np.random.default_rng([task, trial, int(keep * 100)]).random() > lost

    return solves


@pytest.fixture
def world(monkeypatch, tmp_path):
    """Runs a certificate on a simulator in which each method loses the share `lost` gives it."""
    lost = {0.7: 0.0, 0.5: 0.0, 0.3: 0.6}
    state = SimpleNamespace(policy=None, lost=lost, breaks=set(), stop_after=None, ran=0)

    class Policy(FakePolicy):
        info = replace(INFO, name="toy")

        def start(self, instruction, seed, pruner, noise_seed):
            state.keep = pruner.keep_ratio
            return super().start(instruction, seed, pruner, noise_seed)

    libero = fake_libero(monkeypatch)

    def reset(self, trial):
        state.ran += 1
        if state.stop_after is not None and state.ran > state.stop_after:
            raise KeyboardInterrupt
        self.here = trial
        self.init_state_hash = self.scene_hash = f"{self.task}-{trial}"
        self.frames_hash = "f"
        return super(libero, self).reset(trial)

    def step(self, action, look):
        keep = state.keep
        if (keep, self.task, self.here) in state.breaks:
            raise RuntimeError("qpos is not finite")
        observation, _ = super(libero, self).step(action, look)
        solved = losing(keep, lost.get(keep, 0.0))(self.task, self.here)
        return observation, solved

    monkeypatch.setattr(libero, "reset", reset)
    monkeypatch.setattr(libero, "step", step)
    monkeypatch.setattr(libero, "fingerprint", lambda self, trial: f"{self.task}-{trial}")
    (tmp_path / "checkpoint").mkdir()
    launcher = FakeLauncher(Policy, loaded=replace(LOADED, checkpoint=tmp_path / "checkpoint"))

    def certify_it(terms=None, **options):
        given = {"output": tmp_path / "out", "workers": 0, "max_steps": 8, "pruner": Static()}
        config = EvalConfig.of(**given | options)
        terms = terms or Terms(keeps=(0.7, 0.5, 0.3), budget=0.2)
        ranked, order = candidates(config, terms)
        path = config.storage.output / "certificate.json"
        return certify(
            terms.design(config), ranked, order, path, ["vlaprune-certify"], launcher=launcher,
            ahead=terms.ahead or 4,
        )  # fmt: skip

    state.certify, state.launcher, state.folder = certify_it, launcher, tmp_path / "out"
    return state


def test_the_mildest_first_and_the_first_that_is_not_certified_ends_it(world):
    code, made = world.certify(trials=20)
    assert code == 0
    assert made["decision"] == "static 0.5 certified"
    assert [one["decision"] for one in made["candidates"]] == [
        "certified",
        "certified",
        "not certified",
    ]
    bold = made["candidates"][2]
    assert bold["scenes"] < 200  # of 200: by then the best of ends would not have sufficed
    assert "could not have sufficed any more" in made["statement"]
    assert bold["loss_below"] > 0.4
    mild = made["candidates"][0]
    assert mild["wealth"][-1] >= 20 > max(mild["wealth"][:-1])
    assert mild["lost"] == 0
    # the reference ran once on each scene, though two candidates were compared with it
    rows = load_results(world.folder)
    none = rows[rows.method == "none"]
    assert len(none) == none.episode_id.nunique() < 200
    assert "loses less than 20 % of the scenes that none solves" in made["statement"]
    assert made["statement"] in (world.folder / "certificate.md").read_text()


def test_a_harmful_first_candidate_leaves_the_others_untested(world):
    world.lost[0.7] = 0.9
    _, made = world.certify(trials=4)
    assert made["decision"] == "nothing certified"
    assert [one["decision"] for one in made["candidates"]][1:] == ["not tested"] * 2
    assert "its wealth reached" in made["statement"]
    assert (
        "Not tested, since one before was not certified: static 0.5, static 0.3"
        in (made["statement"])
    )


def test_fresh_scenes_take_the_reference_only_where_it_is_needed(world):
    terms = Terms(keeps=(0.5,), budget=0.2)
    _, made = world.certify(terms, scenes="fresh")
    (one,) = made["candidates"]
    assert one["decision"] == "certified"
    assert made["design"]["size"] is None
    assert one["reference_episodes"] < one["candidate_episodes"]
    rows = load_results(world.folder)
    assert (rows.trial >= 50).all()
    assert set(rows.scenes) == {"fresh"}
    failed = one["candidate_episodes"] - one["candidate_solved"]
    assert one["reference_episodes"] >= failed


def test_the_joint_loss_is_named_so_everywhere(world):
    _, made = world.certify(Terms(keeps=(0.5,), budget=0.2, estimand="joint"))
    (one,) = made["candidates"]
    assert one["reference_episodes"] == one["candidate_episodes"] - one["candidate_solved"]
    assert "joint" in made["statement"]
    assert made["estimand"].startswith("P(R = 1, C = 0)")
    assert "P(R = 1, C = 0)" in (world.folder / "certificate.md").read_text()


def test_errors_count_against_the_candidate_and_are_shown(world):
    fine = world.certify(Terms(keeps=(0.5,), budget=0.3), output=world.folder / "fine")[1]
    design = Terms(keeps=(0.5,), budget=0.3).design(EvalConfig.of(pruner=Static()))
    scenes = [s for s in design.scenes[:8] if (s.task * 50 + s.trial) % 8 != 7]
    world.breaks = {(0.5, scenes[0].task, scenes[0].trial), (None, scenes[1].task, scenes[1].trial)}
    made = world.certify(Terms(keeps=(0.5,), budget=0.3))[1]
    (one,) = made["candidates"]
    assert (one["candidate_errors"], one["reference_errors"], one["lost"]) == (1, 1, 1)
    assert one["scenes"] > fine["candidates"][0]["scenes"]
    assert "1 errors of the candidate and 1 of the reference" in made["statement"]


def test_the_same_certificate_however_often_it_was_stopped(world):
    whole = world.certify(output=world.folder / "whole", trials=6)[1]
    codes = []
    for _ in range(200):
        world.stop_after, world.ran = 30, 0
        code, made = world.certify(output=world.folder / "parts", trials=6)
        codes.append(code)
        if code == 0:
            break
    assert codes[:-1] == [INTERRUPTED] * (len(codes) - 1)
    assert len(codes) > 2
    ids = [
        [[row["candidate"]["episode_id"] for row in one.get("rows", [])] for one in m["candidates"]]
        for m in (whole, made)
    ]
    assert ids[0] == ids[1]
    assert [one.get("wealth") for one in whole["candidates"]] == [
        one.get("wealth") for one in made["candidates"]
    ]
    loads = len(world.launcher.policies)
    world.stop_after = None
    assert world.certify(output=world.folder / "parts", trials=6)[1] == made
    assert len(world.launcher.policies) == loads  # nothing is loaded to look at what is there


@pytest.mark.parametrize("seed", range(3))
def test_where_a_candidate_became_hopeless_depends_on_nothing_known_later(seed):
    terms = Terms(keeps=(0.5,), budget=0.3, max_scenes=60)
    design = terms.design(EvalConfig.of(pruner=Static()))
    lost = np.random.default_rng(seed).random(60) < 0.5
    pairs = [(not one, True) for one in lost]
    first = next(n for n in range(61) if hopeless(design, pairs[:n]))
    assert 0 < first < 60
    for known in (first, first + 1, 60):
        assert hopeless_at(design, pairs[:known]) == first


def test_rows_are_consumed_in_the_order_drawn_whatever_workers_finish_first(tmp_path):
    (tmp_path / "checkpoint").mkdir()
    loaded = replace(LOADED, checkpoint=tmp_path / "checkpoint")
    found = []
    for workers in (1, 3):
        launcher = FakeLauncher(pool=FakePool(), loaded=loaded)
        out = tmp_path / f"out{workers}"
        config = EvalConfig.of(output=out, workers=workers, max_steps=16, trials=2, pruner=Static())
        terms = Terms(keeps=(0.5,), budget=0.5, max_scenes=8)
        ranked, order = candidates(config, terms)
        _, made = certify(
            terms.design(config), ranked, order, out / "certificate.json", [], launcher=launcher
        )
        found.append([row["candidate"]["episode_id"] for row in made["candidates"][0]["rows"]])
        design = terms.design(config)
        drawn = [(scene.task, scene.trial) for scene in design.scenes]
        rows = made["candidates"][0]["rows"]
        assert [(row["task"], row["trial"]) for row in rows] == drawn[: len(rows)]
    assert found[0] == found[1]


@pytest.fixture
def done(world, tmp_path):
    """A certificate, its rows, and a place to change both."""
    world.certify(Terms(keeps=(0.5,), budget=0.2), trials=10)
    copy = tmp_path / "copy"
    shutil.copytree(world.folder, copy)
    return copy


def change(folder, **values):
    """Change columns of the first candidate's first row, in whatever file it lies."""
    made = json.loads((folder / "certificate.json").read_text())
    wanted = made["candidates"][0]["rows"][0]["candidate"]["episode_id"]
    for path in folder.glob("*.parquet"):
        table = pq.read_table(path)
        rows = table.to_pylist()
        for row in rows:
            if row["episode_id"] == wanted:
                row.update(values)
        pq.write_table(type(table).from_pylist(rows, schema=table.schema), path)
    return wanted


def test_a_certificate_verifies_from_its_rows(done, capsys):
    run(["verify", str(done / "certificate.json"), str(done)])
    assert "verified from its rows: With 95 % confidence static 0.5" in capsys.readouterr().out


def test_a_flipped_success_makes_it_fail_and_is_named(done):
    episode = change(done, success=False)
    with pytest.raises(UserError, match=f"episode {episode}.*solved was True, is False"):
        verify(parse(["verify", str(done / "certificate.json"), str(done)]))


def test_any_other_change_of_a_row_makes_it_fail(done):
    episode = change(done, steps=7)
    with pytest.raises(UserError, match=f"episode {episode}.*is not the row"):
        verify(parse(["verify", str(done / "certificate.json"), str(done)]))


@pytest.mark.parametrize(
    ("key", "value"),
    [("budget", 0.1), ("confidence", 0.9), ("draw", 1), ("estimand", "joint"), ("size", None)],
)
def test_a_certificate_that_says_something_else_fails(done, key, value):
    path = done / "certificate.json"
    made = json.loads(path.read_text())
    made["design"][key] = value
    path.write_text(json.dumps(made))
    with pytest.raises(UserError):
        verify(parse(["verify", str(path), str(done)]))


def test_a_better_loss_written_into_it_fails(done):
    path = done / "certificate.json"
    made = json.loads(path.read_text())
    made["candidates"][0]["wealth"][3] *= 1.01
    path.write_text(json.dumps(made))
    with pytest.raises(UserError, match=r"candidates\[0\]\.wealth\[3\] comes out otherwise"):
        verify(parse(["verify", str(path), str(done)]))


def test_rows_that_are_gone_or_of_other_scenes_are_named(done, world):
    rows = rows_by_id(done)
    made = json.loads((done / "certificate.json").read_text())
    pair = made["candidates"][0]["rows"][0]
    from vlaprune_bench.certify.certificate import make
    from vlaprune_bench.certify.certificate import verify as again

    gone = {k: v for k, v in rows.items() if k != pair["reference"]["episode_id"]}
    with pytest.raises(UserError, match=f"lacks episode {pair['reference']['episode_id']}"):
        again(done / "certificate.json", gone, done)
    design = Terms(keeps=(0.5,), budget=0.2).design(EvalConfig.of(trials=10, pruner=Static()))
    who = made["candidates"]
    own, theirs = (rows[pair[name]["episode_id"]] for name in ("candidate", "reference"))
    moved = {**theirs, "scene_hash": "elsewhere"}
    with pytest.raises(UserError, match="rows of other scenes, not of the same one"):
        make(design, who, "", [[(own, moved)]])
    with pytest.raises(ValueError, match="1 scenes decide nothing yet"):
        make(design, who, "", [[(own, theirs)]])
    with pytest.raises(UserError, match="these are rows of other scenes"):
        make(design, who, "", [[({**own, "trial": 49}, theirs)]])


def test_it_is_not_written_over_by_other_terms(world):
    world.certify(Terms(keeps=(0.5,), budget=0.2), trials=10)
    with pytest.raises(UserError, match="other terms or candidates"):
        world.certify(Terms(keeps=(0.5,), budget=0.1), trials=10)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--budget", "0"], "--budget is 0; it must lie between 0 and 1"),
        (["--budget", "1"], "--budget is 1;"),
        (["--confidence", "1.2"], "--confidence is 1.2"),
        (["--keeps", "0.5", "0.5"], "equal candidates have no order of cost"),
        (["--method", "none"], "--method is none"),
        (["--method", "gated", "--keeps", "0.5", "--reference-fraction", "0.5"], "fixed scenes"),
        (["--scenes", "fresh", "--trials", "3"], "give --max-scenes"),
        (["--max-scenes", "900"], "there are 500 fixed scenes"),
        (["--max-scenes", "8", "--budget", "0.1"], "even if none was lost"),
        (["--estimand", "joint", "--reference-fraction", "0.2"], "leave it out"),
        (["--estimand", "both"], "--estimand is both"),
        (["--keeps", "1.5"], "--keeps has 1.5"),
        (["--profile", "nowhere", "--keeps", "0.5", "0.3"], "nowhere"),
        (["--retry-errors"], "unknown option --retry-errors"),
        (["--launcher", "local", "--address", "auto"], "--address is auto"),
    ],
)
def test_bad_input_is_one_sentence(argv, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=said) as caught:
        run(["--method", "static", *argv])
    assert str(caught.value).count("\n") == 0


def test_a_profile_orders_candidates_by_what_it_measured(tmp_path):
    rows = [
        {
            "method": "static",
            "method_options": json.dumps(vars_of(keep)),
            "latency_total_p50_ms": ms,
            "started_at": f"2026-11-2{day}",
        }
        for keep, ms, day in ((0.7, 50.0, 1), (0.5, 60.0, 1), (0.5, 40.0, 2), (0.3, 45.0, 1))
    ]
    pd.DataFrame(rows).to_parquet(tmp_path / "p.parquet")
    config = EvalConfig.of(pruner=Static())
    ranked, basis = candidates(config, Terms(keeps=(0.3, 0.5, 0.7), profile=tmp_path))
    assert [(one.label, one.cost) for one in ranked] == [
        ("static 0.7", 50.0),
        ("static 0.3", 45.0),
        ("static 0.5", 40.0),
    ]
    assert "profile" in basis
    with pytest.raises(UserError, match="no order of cost"):
        candidates(config, Terms(keeps=(0.3, 0.9), profile=tmp_path))


def vars_of(keep):
    from vlaprune_bench.config import method_options

    return method_options(Static(keep=keep))


def test_scenes_follow_from_the_draw_alone():
    config = EvalConfig.of(pruner=Static())
    one, two = (Terms(draw=k).design(config).scenes for k in (0, 1))
    assert [(s.task, s.trial) for s in one[:3]] == [
        (s.task, s.trial) for s in Terms(max_scenes=3).design(config).scenes
    ]
    assert one != two
    assert {(s.task, s.trial) for s in one} == {(t, k) for t in range(10) for k in range(50)}
    assert all(s.looked for s in one)
    fresh = Terms(max_scenes=3000).design(config.but(scenes="fresh")).scenes
    assert len({(s.task, s.trial) for s in fresh}) == 3000
    assert np.mean([s.looked for s in fresh]) == pytest.approx(0.3, abs=0.03)
    assert np.bincount([s.task for s in fresh]).min() > 240
