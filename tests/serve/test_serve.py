"""The port: dialects told apart, episodes and what they remember, refusals, errors, ends."""

import json
import threading
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from tests.fakes import FakePolicy
from tests.serve.rig import Openpi, VlaEval, look, pack, seen, serving, unpack, url
from vlaprune_bench.cli.serve import parse
from vlaprune_bench.pruning.adp import Adp
from vlaprune_bench.pruning.none import NoPruning
from vlaprune_bench.pruning.random_tokens import RandomTokens
from vlaprune_bench.pruning.static import Static
from vlaprune_bench.serve.session import MOST_EPISODES, straight
from vlaprune_bench.types import UserError


def alone(n, seed=7, prompt="reach", pruner=None):
    """Actions of the fake policy's first calls on `look(0)`, `look(1)`, ..."""
    policy = FakePolicy()
    memory = policy.start(prompt, seed, pruner or NoPruning(), seed)
    return [memory.random.uniform(-1, 1, (8, 7)) + 0.01 * call / 100 for call in range(n)]


def get(server, path, **headers):
    request = urllib.request.Request(f"http://127.0.0.1:{server.port}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_openpi_metadata_come_first_and_replies_say_what_a_call_cost():
    with serving(FakePolicy(), pruner=Static(keep=0.5)) as server, Openpi(server) as client:
        facts = client.metadata
        assert (facts["method"], facts["keep"], facts["chunk"]) == ("static", 0.5, 8)
        assert facts["method_options"]["keep"] == 0.5
        assert facts["checkpoint_hash"] == "c0ffee"
        assert (facts["action_space"], facts["action_dim"]) == ("libero_delta_eef", 7)
        for call, actions in enumerate(alone(2)):
            reply = client.ask(look(call))
            np.testing.assert_array_equal(reply["actions"], actions)
            assert reply["vlaprune"]["visual_tokens_kept"] == 256
            assert reply["vlaprune"]["llm_prefill_macs"] == 10**9
            assert reply["vlaprune"]["latency_vision_ms"] == 2.0
            assert reply["server_timing"]["infer_ms"] > 0
            assert ("prev_total_ms" in reply["server_timing"]) == (call > 0)


def test_health_metadata_and_nothing_else():
    with serving(FakePolicy()) as server:
        assert get(server, "/healthz") == (200, "OK\n")
        assert json.loads(get(server, "/health")[1]) == {"status": "ok"}
        assert json.loads(get(server, "/metadata")[1])["policy"] == "openvla-oft"
        assert get(server, "/")[0] == 426


def test_a_client_that_says_hello_is_spoken_to_in_vla_evals_messages():
    with serving(FakePolicy(), execute_steps=3) as server, VlaEval(server) as client:
        hello = client.hello["payload"]
        assert client.hello["type"] == "hello"
        assert hello["protocol_version"] == 1
        assert hello["observation_params"] == {
            "send_wrist_image": True,
            "send_state": True,
            "env_seed": 0,
            "quat_no_antipodal": True,
        }
        assert set(hello["action_spec"]) == {"position", "rotation", "gripper"}
        assert hello["vlaprune"]["execute_steps"] == 3
        client.tell("episode_start", {"task": {"name": "reach", "episode_idx": 0}})
        payloads = [client.ask("observation", seen(step))["payload"] for step in range(7)]
        (_, _, _), calls = server.policy.log, [p["vlaprune"] is not None for p in payloads]
        assert calls == [True, False, False, True, False, False, True]
        assert all(payload["actions"].shape == (7,) for payload in payloads)
        client.tell("episode_end", {})
        reply = client.ask("observation", seen())
        assert (reply["type"], reply["payload"]["kind"]) == ("error", "no-episode")
        # the same episode told again draws the same, another one something else
        for about, same in (({"name": "reach", "episode_idx": 0}, True), ({"name": "x"}, False)):
            client.tell("episode_start", {"task": about})
            again = client.ask("observation", seen())["payload"]["actions"]
            assert np.array_equal(again, payloads[0]["actions"]) == same


def test_poses_of_every_step_reach_the_method():
    windows = []

    class Watched(FakePolicy):
        def act(self, memory, observation, eef_poses, batch_size=1):
            windows.append(eef_poses)
            return super().act(memory, observation, eef_poses, batch_size)

    with serving(Watched(), pruner=Adp(keep=0.5), execute_steps=4) as server:
        with VlaEval(server) as client:
            client.tell("episode_start", {})
            for step in range(9):
                client.ask("observation", seen(step))
        with Openpi(server) as client:
            for call in range(2):
                poses = np.random.default_rng(call).normal(size=(call + 1, 7))
                more = {"session_id": "a", "observation/eef_poses": poses}
                client.ask(look(call, **more))
                np.testing.assert_array_equal(windows[-1], poses)
    heights = [window[:, 2].round(4).tolist() for window in windows[:3]]
    assert heights == [[0.0], [0, 0.01, 0.02, 0.03, 0.04], [0.04, 0.05, 0.06, 0.07, 0.08]]


def test_a_method_with_memory_needs_to_know_where_an_episode_ends():
    with serving(FakePolicy(), pruner=Adp(keep=0.5)) as server, Openpi(server) as client:
        said = client.ask(look())
        assert said.startswith("no-episode: method adp remembers")
        assert "--connection-is-episode" in said
        # the connection lives, and a session is an episode
        assert client.ask(look(session_id="s"))["actions"].shape == (8, 7)
        assert "eef_poses is missing; method adp" in client.ask(look(1, session_id="s"))
        assert client.ask(look(1, session_id="s", **POSES))["actions"].shape == (8, 7)
        assert "became 'push' within an episode" in client.ask(
            look(2, prompt="push", session_id="s", **POSES)
        )


POSES = {"observation/eef_poses": np.ones((9, 7))}


def test_one_connection_one_episode():
    options = {"pruner": Adp(keep=0.5), "connection_is_episode": True, "replan_steps": 5}
    with serving(FakePolicy(), **options) as server:
        for _ in range(2):
            with Openpi(server) as client:
                assert client.metadata["episodes"] == "connections"
                for call, actions in enumerate(alone(3)):
                    np.testing.assert_array_equal(client.ask(look(call))["actions"], actions)
        assert len(server.policy.begun) == 2


def test_straight_motion():
    turned = np.array([0.0, 0, 1, 0])
    poses = straight(np.array([0.0, 0, 0, 0, 0, 0, 1]), np.array([0.5, 0, 0, *turned]), 5)
    assert poses.shape == (6, 7)
    np.testing.assert_allclose(poses[:, 0], np.arange(6) / 10)
    np.testing.assert_allclose(np.linalg.norm(poses[:, 3:], axis=1), 1)
    two = straight(np.array([0.0, 0, 0, *turned]), np.array([0.0, 0, 0, *-turned]), 2)
    np.testing.assert_allclose(np.abs(two[:, 3:] @ turned), 1)  # q and -q: no motion


def test_roboarena():
    options = {"greeting": "roboarena", "pruner": Adp(keep=0.5)}
    with serving(FakePolicy(), **options) as server, Openpi(server) as client:
        assert set(client.metadata) == {
            "image_resolution",
            "needs_wrist_camera",
            "n_external_cameras",
            "needs_stereo_camera",
            "needs_session_id",
            "action_space",
        }
        data = look(session_id=np.array([3]), endpoint="infer", **POSES)
        data["observation/exterior_image_1_left"] = data.pop("observation/image")
        data["observation/wrist_image_left"] = data.pop("observation/wrist_image")
        first = client.ask(data)
        np.testing.assert_array_equal(first, alone(1)[0] + 0.01)  # the height in POSES is 1 m
        assert not np.array_equal(client.ask(data), first)
        assert client.ask({"endpoint": "reset", "session_id": 3}) == "reset successful"
        np.testing.assert_array_equal(client.ask(data), first)
        assert client.ask({"endpoint": "halt"}).startswith("bad-message: endpoint is 'halt'")


def test_sessions_of_one_connection_do_not_mix():
    with serving(FakePolicy(), pruner=RandomTokens(keep=0.5)) as server, Openpi(server) as client:
        for call, actions in enumerate(alone(3)):
            for name in ("a", "b"):
                reply = client.ask(look(call, session_id=name))
                np.testing.assert_array_equal(reply["actions"], actions)
        for number in range(MOST_EPISODES):
            client.ask(look(session_id=number))
        assert client.ask(look(session_id="a")).startswith("no-episode: session a was closed")
        client.ask({"endpoint": "reset", "session_id": "a"})
        assert client.ask(look(session_id="a"))["actions"].shape == (8, 7)


def test_seeds_a_client_sends_are_those_of_its_episode():
    seeds = {"observation/seed": 12345678901, "observation/noise_seed": 3}
    with serving(FakePolicy()) as server, Openpi(server) as client:
        actions = client.ask(look(session_id="a", **seeds))["actions"]
        np.testing.assert_array_equal(actions, alone(1, seed=12345678901)[0])
        said = client.ask(look(session_id="b", **{"observation/seed": 1}))
        assert said.startswith("bad-observation: observation/seed and observation/noise_seed")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"observation/image": None}, "observation/image is NoneType; it must be (H, W, 3) uint8"),
        ({"observation/image": np.zeros((4, 4), np.uint8)}, "an array (4, 4) uint8"),
        ({"observation/image": np.zeros((4, 4, 3))}, "an array (4, 4, 3) float64"),
        ({"observation/wrist_image": np.zeros((8, 8, 3), np.uint8)}, "all must have one size"),
        ({"observation/state": np.zeros(7)}, "an array (7,) float64; it must be 8 numbers"),
        ({"observation/state": np.full(8, np.nan)}, "not finite"),
        ({"observation/eef_quat": [0, 0, 1]}, "observation/eef_quat is an array (3,) float64"),
        ({"observation/eef_poses": np.zeros((0, 7))}, "(steps + 1, 7) finite poses"),
        ({"prompt": 3}, "prompt is 3; it must be the instruction"),
        ({"prompt": " "}, "it must be the instruction"),
        ({"prompt": "reach " * 200}, "at most 1000 characters"),
        ({"session_id": 1.5}, "session_id is 1.5"),
    ],
)
def test_what_is_misshapen_is_answered_and_the_connection_lives(change, said):
    with serving(FakePolicy()) as server, Openpi(server) as client:
        assert said in client.ask(look(**change))
        missing = look()
        del missing["observation/state"]
        assert "observation/state is missing" in client.ask(missing)
        np.testing.assert_array_equal(client.ask(look())["actions"], alone(1)[0])


def test_a_call_that_fails_is_told_and_ends_an_episode_with_memory():
    def fail(method, memory):
        if memory.calls == 1 and fail.armed:
            raise RuntimeError("policy call 1 gave actions that are not finite")

    fail.armed = True
    for pruner, lives in ((Static(keep=0.5), True), (Adp(keep=0.5), False)):
        with serving(FakePolicy(fail), pruner=pruner) as server, VlaEval(server) as client:
            client.tell("episode_start", {})
            kinds = []
            for step in range(25):
                fail.armed = step < 10
                reply = client.ask("observation", seen(step))
                kinds.append(reply["payload"].get("kind", "ok"))
            assert kinds[:8] == ["ok"] * 8
            assert kinds[8] == "failed"
            assert ("ok" in kinds[9:]) == lives
            client.tell("episode_start", {})
            assert client.ask("observation", seen())["type"] == "action"


def test_a_key_is_asked_for():
    with serving(FakePolicy(), api_key="sesame") as server:
        assert get(server, "/healthz")[0] == 200
        assert get(server, "/metadata")[0] == 401
        assert get(server, "/metadata", Authorization="Api-Key sesame")[0] == 200
        for path, headers in (("", {}), ("", {"Authorization": "Api-Key x"}), ("?api_key=", {})):
            with pytest.raises(InvalidStatus, match="401"):
                Openpi(server, "/" + path, additional_headers=headers)
        with Openpi(server, additional_headers={"Authorization": "Api-Key sesame"}) as client:
            assert client.ask(look())["actions"].shape == (8, 7)
        with Openpi(server, "/?api_key=sesame") as client:
            assert client.ask(look())["actions"].shape == (8, 7)


def slow(gate):
    """A policy whose calls wait."""
    return FakePolicy(lambda method, memory: gate.wait(20))


def test_connections_and_waiting_calls_are_bounded():
    gate = threading.Event()
    with serving(slow(gate), max_connections=3, max_waiting=1) as server:
        clients = [Openpi(server) for _ in range(3)]
        with pytest.raises(InvalidStatus, match="503"):
            Openpi(server)
        assert get(server, "/healthz")[0] == 200
        answers = {}

        def ask(index):
            answers[index] = clients[index].ask(look())

        threads = [threading.Thread(target=ask, args=(i,)) for i in range(3)]
        for thread in threads:  # one is computed, one waits, one is too many
            thread.start()
            time.sleep(0.3)
        threads[2].join(10)
        assert answers[2].startswith("busy: 1 calls wait already")
        gate.set()
        for thread in threads:
            thread.join(10)
        for answer in (answers[0], answers[1]):
            np.testing.assert_array_equal(answer["actions"], alone(1)[0])
        for client in clients:
            client.open.close()


def test_messages_are_bounded():
    with serving(FakePolicy(), max_message_mib=1) as server:
        with Openpi(server) as client, pytest.raises(ConnectionClosed) as caught:
            client.ask(look(size=1024))
        assert caught.value.rcvd.code == 1009
        with Openpi(server) as client:
            assert client.ask(look())["actions"].shape == (8, 7)


def test_who_says_nothing_or_takes_nothing_is_dropped():
    # a reply of 40 MB does not fit into the sockets' buffers
    class Wordy(FakePolicy):
        def act(self, *args, **more):
            chunk = super().act(*args, **more)
            object.__setattr__(chunk, "actions", np.zeros((700_000, 7)))
            return chunk

    with serving(Wordy(), idle_timeout=1.0, send_timeout=1.0) as server:
        idle, lazy = Openpi(server), Openpi(server, max_queue=1)
        for _ in range(2):
            lazy.socket.send(pack(look()))
        assert len(server._sessions) == 2
        deadline = time.monotonic() + 15
        while server._sessions and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not server._sessions
        with pytest.raises(ConnectionClosed):
            idle.ask(look())


def test_it_drains():
    gate = threading.Event()
    with serving(slow(gate), drain_timeout=20) as server:
        busy, idle, playing = Openpi(server), Openpi(server), VlaEval(server)
        playing.tell("episode_start", {})
        answers = []
        thread = threading.Thread(target=lambda: answers.append(busy.ask(look())))
        thread.start()
        time.sleep(0.3)
        server.loop.call_soon_threadsafe(server.stop)
        with pytest.raises(ConnectionClosed) as caught:
            idle.socket.recv(timeout=10)
        assert caught.value.rcvd.code == 1001
        with pytest.raises(OSError, match="refused"):
            Openpi(server)
        gate.set()
        thread.join(10)
        np.testing.assert_array_equal(answers[0]["actions"], alone(1)[0])
        assert playing.ask("observation", seen())["type"] == "action"
        playing.tell("episode_end", {})
        with pytest.raises(ConnectionClosed):
            playing.socket.recv(timeout=10)


def test_a_late_or_early_first_message():
    with serving(FakePolicy()) as server:
        with connect(url(server)) as early:
            early.send(b"\xc1 no msgpack")
            assert unpack(early.recv())["method"] == "none"
            assert early.recv().startswith("bad-message: ")
        with connect(url(server)) as text:
            text.send("hi")
            text.recv()
            assert "a text frame came" in text.recv()
        with VlaEval(server) as client:
            reply = client.ask("action", {})
            assert reply["payload"]["error"] == "type is action; a client does not send that."


def test_what_came_while_the_server_stood_still_is_heard():
    """A busy machine: the time to say something is over, and it had been said."""
    hello = {"type": "hello", "payload": {"protocol_version": 1}, "seq": 1}
    with serving(FakePolicy(), idle_timeout=0.5) as server:
        with connect(url(server)) as late:
            server.loop.call_soon_threadsafe(time.sleep, 0.6)
            time.sleep(0.1)
            late.send(pack(hello, str))
            assert unpack(late.recv(timeout=10))["type"] == "hello"
        with Openpi(server) as client:
            server.loop.call_soon_threadsafe(time.sleep, 0.8)
            time.sleep(0.1)
            assert client.ask(look())["actions"].shape == (8, 7)


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--port", "70000"], "--port is 70000; it must be 0 to 65535"),
        (["--batch", "0"], "--batch is 0; it must be at least 1"),
        (["--idle-timeout", "0"], "--idle-timeout is 0; give seconds above 0"),
        (["--api-key", ""], "--api-key is empty"),
        (["--suite", "libero_spatia"], "did you mean libero_spatial"),
        (["--policy", "remote"], "--policy is remote; "),
        (["--method", "static", "--layer", "3"], "--layer is an option of"),
        (["--prt", "3"], "unknown option --prt; did you mean --port"),
    ],
)
def test_options_that_cannot_be(argv, sentence):
    with pytest.raises(UserError, match=sentence):
        parse(argv)


def test_a_chunk_is_not_longer_than_it_is():
    said = "--execute-steps is 9; a call of toy gives 8 actions"
    with pytest.raises(UserError, match=said), serving(FakePolicy(), execute_steps=9):
        pass


def test_a_port_that_is_taken():
    with serving(FakePolicy()) as one, pytest.raises(UserError, match="--port is"):  # noqa: SIM117
        with serving(FakePolicy(), port=one.port):
            pass
