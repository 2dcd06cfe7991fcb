"""Episodes of a policy behind a port: equal to those here; a lost server is an error, told."""

import json
import threading
from contextlib import ExitStack, contextmanager

import numpy as np
import pytest
from websockets.sync.server import serve as serve_sync

from tests.fakes import FakePolicy, fake_libero
from tests.serve.rig import pack, serving, unpack
from vlaprune_bench.config import EvalConfig
from vlaprune_bench.policies import load_policy
from vlaprune_bench.policies.base import PolicyCall
from vlaprune_bench.policies.remote.policy import RemotePolicy
from vlaprune_bench.pruning.adp import Adp
from vlaprune_bench.pruning.gate import MotionGate
from vlaprune_bench.pruning.none import NoPruning
from vlaprune_bench.pruning.static import Static
from vlaprune_bench.rollout.runner import run_cells
from vlaprune_bench.store import load_calls, load_results
from vlaprune_bench.types import OPENPI_PROTOCOL, OPENVLA_PROTOCOL, Observation, UserError


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr("vlaprune_bench.policies.remote.policy.pause", lambda attempt: None)


def at(port):
    return f"ws://127.0.0.1:{port}"


def config(port, tmp_path, **changes):
    options = {"policy": "remote", "url": at(port), "dialect": "openpi", "workers": 0}
    options |= {"task_ids": (0,), "trials": 2, "max_steps": 12, "output": tmp_path / "runs"}
    return EvalConfig.of(**options | {"assets": "lite"} | changes)


def seen(call=0):
    images = np.full((2, 256, 256, 3), call, np.uint8)
    quat = np.array([0.5, 0.5, -0.5, -0.5])
    return Observation(np.array([0.1, 0.2, 0.01 * call]), quat, np.array([0.04, -0.04]), images)


@contextmanager
def foreign(answer, greet=lambda: {}):
    """A server speaking openpi's dialect as `openpi-client` expects it, and nothing more."""
    log = []

    def talk(socket):
        log.append("opened")
        if (greeting := greet()) is not None:
            socket.send(pack(greeting))
        for frame in socket:
            log.append(unpack(frame))
            reply = answer(socket, log)
            if reply is None:
                return
            socket.send(reply if isinstance(reply, str) else pack(reply))

    with serve_sync(talk, "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        server.log = log
        server.port = server.socket.getsockname()[1]
        try:
            yield server
        finally:
            server.shutdown()


def ten(socket, log):
    return {"actions": np.full((10, 7), 0.5, np.float32), "server_timing": {"infer_ms": 12.5}}


@pytest.mark.parametrize("dialect", ["openpi", "vla-eval"])
def test_a_served_episode_is_the_one_here(dialect):
    """Seeds, orientation and the hand's path go along: what the policy is given is the same."""
    given = []

    class Watched(FakePolicy):
        def act(self, memory, observation, eef_poses, batch_size=1):
            given.append((observation.eef_quat, eef_poses, observation.images))
            return super().act(memory, observation, eef_poses, batch_size)

    here = FakePolicy()
    with serving(Watched(), pruner=Adp(keep=0.5), execute_steps=1) as server:
        policy = RemotePolicy(at(server.port), dialect, OPENVLA_PROTOCOL)
        info = policy.info
        assert (info.policy, info.checkpoint_hash, info.trained) == ("remote", "c0ffee", False)
        assert (info.served.name, info.served.keep) == ("adp", 0.5)
        assert info.chunk == (8 if dialect == "openpi" else 1)
        assert info.notes == ()
        one, two = (policy.start("reach", seed, NoPruning(), 3) for seed in (5, 6))
        for call in range(3):
            poses = np.random.default_rng(call).normal(size=(1 + call, 7))
            wanted = {}
            for memory, seed in ((one, 5), (two, 6)):
                if call == 0:
                    memory.here = here.start("reach", seed, Adp(keep=0.5), 3)
                wanted[seed] = here.act(memory.here, seen(call), poses).actions
            calls = [PolicyCall(memory, seen(call), poses) for memory in (one, two)]
            for chunk, seed in zip(policy.act_many(calls), (5, 6), strict=True):
                np.testing.assert_array_equal(chunk.actions, wanted[seed][: info.chunk])
                m = chunk.measures
                assert (m.visual_tokens_kept, m.total_flops // 2) == (256, 128)
                assert m.round_trip_ms > m.server_ms > 0
                assert m.batch_size == 2
            np.testing.assert_array_equal(given[-1][0], seen().eef_quat)
            np.testing.assert_array_equal(given[-1][1], poses)
            np.testing.assert_array_equal(given[-1][2], seen(call).images)
        for memory in (one, two):
            policy.end(memory)
            assert memory.line is None


def test_rows_of_a_server_of_ours(tmp_path, monkeypatch):
    fake_libero(monkeypatch, solved_at=11)
    with serving(FakePolicy(), pruner=Static(keep=0.5)) as server:
        assert run_cells([config(server.port, tmp_path)], ["test"]).code == 0
        rows = load_results(tmp_path / "runs")
        assert rows.success.tolist() == [True, True]
        assert rows.method.tolist() == ["static", "static"]
        assert json.loads(rows.method_options[0])["keep"] == 0.5
        assert rows.keep.tolist() == [0.5, 0.5]
        assert (rows.policy == "remote").all()
        assert rows.checkpoint.tolist() == ["toy", "toy"]
        assert (rows.total_flops_mean > 0).all()
        assert (rows.round_trip_p50_ms > 0).all()
        assert (rows.execute_steps == 5).all()
        said = rows.warnings[0].tolist()
        assert any("made for openvla; openpi was evaluated" in text for text in said)
        # nothing runs twice, wherever the server is
        with serving(FakePolicy(), pruner=Static(keep=0.5)) as other:
            run_cells([config(other.port, tmp_path)], ["test"])
            assert len(load_results(tmp_path / "runs")) == 2
        # but what another method gives is another episode
        with serving(FakePolicy(), pruner=Static(keep=0.25)) as other:
            run_cells([config(other.port, tmp_path)], ["test"])
    rows = load_results(tmp_path / "runs")
    assert sorted(rows.keep) == [0.25, 0.25, 0.5, 0.5]


def test_rows_of_a_server_of_others(tmp_path, monkeypatch):
    fake_libero(monkeypatch)
    with foreign(ten) as server:
        assert run_cells([config(server.port, tmp_path)], ["test"]).code == 0
        looks = [entry for entry in server.log if entry != "opened"]
    rows, calls = load_results(tmp_path / "runs"), load_calls(tmp_path / "runs")
    assert rows.status.tolist() == ["ok", "ok"]
    assert rows.method.tolist() == ["unknown", "unknown"]
    assert (rows.checkpoint == at(server.port)).all()
    assert (rows.server_p50_ms == 12.5).all()
    for name in ("total_flops_mean", "visual_tokens_kept_mean", "pruned_call_fraction"):
        assert rows[name].isna().all()
    assert calls.latency_total_ms.isna().all()
    assert calls.pruned.isna().all()
    assert (calls.round_trip_ms > 0).all()
    assert any("they are null" in text for text in rows.warnings[0])
    # as openpi's LIBERO client sends them: 224, no key of ours
    assert looks[0].keys() == {
        "observation/image",
        "observation/wrist_image",
        "observation/state",
        "prompt",
    }
    assert looks[0]["observation/image"].shape == (224, 224, 3)
    assert looks[1]["observation/state"].shape == (8,)
    # a probe, then five of ten actions at a time, one connection an episode
    assert server.log.count("opened") == 3
    assert len(looks) == 1 + 2 * 3
    from vlaprune_bench.report.summary import summarise

    (row,) = summarise(rows).to_dict("records")
    assert np.isnan(row["total_tflops"])
    assert np.isnan(row["pruned_calls"])


def test_a_lost_server_is_an_error_with_the_call_number(tmp_path, monkeypatch):
    fake_libero(monkeypatch)

    def die(socket, log):
        return ten(socket, log) if len(log) < 5 else None

    with foreign(die) as server:
        assert run_cells([config(server.port, tmp_path, trials=1)], ["test"]).code == 1
    (row,) = load_results(tmp_path / "runs").to_dict("records")
    assert (row["status"], row["success"]) == ("error", None)
    assert "policy call 1: the server at ws://127.0.0.1" in row["error"]
    assert row["steps"] == 5


def test_a_call_nobody_remembers_is_made_again(tmp_path, monkeypatch):
    fake_libero(monkeypatch)
    lost = []

    def drop_one(socket, log):
        if len(log) == 5 and not lost:
            lost.append(len(log))
            return None
        return ten(socket, log)

    with foreign(drop_one) as server:
        assert run_cells([config(server.port, tmp_path, trials=1)], ["test"]).code == 0
        assert server.log.count("opened") == 3
    assert lost


def test_an_episode_a_server_remembers_ends_with_its_line():
    with ExitStack() as stack:
        server = stack.enter_context(serving(FakePolicy(), pruner=Adp(keep=0.5)))
        policy = RemotePolicy(at(server.port), "openpi", OPENPI_PROTOCOL)
        memory = policy.start("reach", 1, NoPruning(), 1)
        policy.act(memory, seen(), np.zeros((1, 7)))
        server.loop.call_soon_threadsafe(server._end_all)
        with pytest.raises(RuntimeError, match=r"policy call 1: the server at ws://.* is lost"):
            policy.act(memory, seen(), np.zeros((6, 7)))
        policy.end(memory)


def test_a_busy_server_is_asked_again():
    gate = threading.Event()
    policy = FakePolicy(lambda method, memory: gate.is_set() and gate.wait(5))
    with serving(policy, max_waiting=1) as server:
        remote = RemotePolicy(at(server.port), "openpi", OPENPI_PROTOCOL)
        memories = [remote.start("reach", seed, NoPruning(), 0) for seed in range(4)]
        calls = [PolicyCall(memory, seen(), np.zeros((1, 7))) for memory in memories]
        for answer, seed in zip(remote.act_many(calls), range(4), strict=True):
            want = np.random.default_rng(seed).uniform(-1, 1, (8, 7))
            np.testing.assert_array_equal(answer.actions, want)
        for memory in memories:
            remote.end(memory)


@pytest.mark.sim
@pytest.mark.slow
@pytest.mark.parametrize("dialect", ["openpi", "vla-eval"])
def test_a_served_method_plays_the_episode_it_plays_here(dialect, tmp_path):
    """Real simulator, real networks, a gate on the hand's motion: every action is the same."""
    pruner = Adp(keep=0.3, gate=MotionGate(initial_state=True))
    shared = {"task_ids": (0,), "trials": 1, "max_steps": 20, "workers": 0, "protocol": "openvla"}
    local = EvalConfig.of(
        checkpoint="tiny-untrained", pruner=pruner, output=tmp_path / "here", **shared
    )
    assert run_cells([local], ["test"]).code == 0
    policy = load_policy("tiny-untrained", pruner, suite="libero_spatial", device="cpu")
    with serving(policy, pruner=pruner) as server:
        there = {**shared, "policy": "remote", "url": at(server.port), "dialect": dialect}
        remote = EvalConfig.of(output=tmp_path / "there", **there)
        assert run_cells([remote], ["test"]).code == 0
    (one,), (two,) = (load_results(tmp_path / f).to_dict("records") for f in ("here", "there"))
    for name in ("actions_hash", "scene_hash", "success", "steps", "method", "keep", "attention"):
        assert one[name] == two[name], name
    assert json.loads(one["method_options"]) == json.loads(two["method_options"])
    assert one["total_flops_mean"] == pytest.approx(two["total_flops_mean"])
    assert one["pruned_call_fraction"] == pytest.approx(two["pruned_call_fraction"])
    assert two["assets"] == "lite"


ARENA = {
    "image_resolution": [180, 320],
    "needs_wrist_camera": True,
    "n_external_cameras": 2,
    "needs_stereo_camera": False,
    "needs_session_id": True,
    "action_space": "joint_position",
}


@pytest.mark.parametrize(
    ("answer", "greet", "dialect", "said"),
    [
        (ten, lambda: ARENA, "openpi", "RoboArena's, whose actions are 8 wide"),
        (ten, lambda: ARENA, "auto", "RoboArena's, whose actions are 8 wide"),
        (lambda *_: {"actions": np.zeros((5, 14))}, dict, "openpi", "14 wide; LIBERO takes 7"),
        (lambda *_: {"actions": np.full((5, 7), np.nan)}, dict, "auto", "not finite"),
        (lambda *_: {"action": 3}, dict, "openpi", "actions are NoneType"),
        (lambda *_: "Traceback\nKeyError: 'state'\n", dict, "openpi", "server says: KeyError"),
        (lambda *_: None, dict, "openpi", "the server hung up"),
        (ten, dict, "vla-eval", "the server speaks not vla-eval: a message needs type"),
    ],
)
def test_what_cannot_be_evaluated_is_said_before_the_run(answer, greet, dialect, said):
    with foreign(answer, greet) as server, pytest.raises(UserError, match=said) as caught:
        RemotePolicy(at(server.port), dialect, OPENPI_PROTOCOL)
    assert "\n" not in str(caught.value)


def test_auto_finds_out(tmp_path, monkeypatch):
    fake_libero(monkeypatch)
    with serving(FakePolicy()) as server:
        assert RemotePolicy(at(server.port), "auto", OPENPI_PROTOCOL).dialect == "openpi"
        with pytest.raises(UserError, match="--method is static; a remote policy prunes where"):
            RemotePolicy(at(server.port), "auto", OPENPI_PROTOCOL).resolve(Static(keep=0.5))
    with pytest.raises(UserError, match=r"--url is ws://127.0.0.1:1; there is no server"):
        RemotePolicy(at(1), "auto", OPENPI_PROTOCOL)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"policy": "remote"}, "give its server, as --url"),
        ({"url": "ws://x:1"}, "only --policy remote has a server"),
        ({"dialect": "openpi"}, "only --policy remote has a server"),
        ({"policy": "remote", "url": "x:1"}, "--url is x:1; it must be like ws://host:8000"),
        ({"policy": "remote", "url": "ws://x", "dialect": "roboarena"}, "--dialect is roboarena"),
        ({"policy": "remote", "url": "ws://x", "pruner": Static()}, "--method is static; a remote"),
        ({"policy": "remote", "url": "ws://x", "checkpoint": "y"}, "--checkpoint is y; a remote"),
        ({"policy": "remote", "url": "ws://x", "dtype": "float32"}, "--dtype is float32; a remote"),
    ],
)
def test_options_that_do_not_go_together(options, said):
    with pytest.raises(UserError, match=said):
        EvalConfig.of(**options)
