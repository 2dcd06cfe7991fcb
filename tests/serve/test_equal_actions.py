"""A served policy gives the actions of the policy called here, bit for bit, in every dialect."""

import threading

import numpy as np
import pytest

from tests.serve.rig import Openpi, VlaEval, serving
from vlaprune_bench.measure.inputs import INSTRUCTION, observation, poses
from vlaprune_bench.policies import load_policy
from vlaprune_bench.policies.normalize import robot_state
from vlaprune_bench.policies.remote.dialect import quat_of
from vlaprune_bench.pruning.adp import Adp
from vlaprune_bench.pruning.random_tokens import RandomTokens
from vlaprune_bench.pruning.static import Static
from vlaprune_bench.pruning.vla_pruner import VlaPruner
from vlaprune_bench.types import Observation

pytestmark = pytest.mark.slow
CALLS = 4


@pytest.fixture(scope="module")
def policy():
    return load_policy("tiny-untrained", Static(keep=0.5), suite="libero_spatial", device="cpu")


def as_sent(call):
    """What is left of an observation once its orientation went as axis-angle."""
    seen = observation(call)
    state = robot_state(seen)
    return Observation(state[:3], quat_of(state[3:6]), state[6:], seen.images)


def here(policy, pruner, seed=7):
    memory = policy.start(INSTRUCTION, seed, pruner, seed)
    return [policy.act(memory, as_sent(call), poses(call)) for call in range(CALLS)]


def ask(client, call, **more):
    seen = observation(call)
    return client.ask(
        {
            "observation/image": seen.images[0],
            "observation/wrist_image": seen.images[1],
            "observation/state": robot_state(seen),
            "observation/eef_poses": poses(call),
            "prompt": INSTRUCTION,
            **more,
        }
    )


@pytest.mark.parametrize("pruner", [Static(keep=0.5), Adp(keep=0.3), RandomTokens(keep=0.5)])
def test_openpi(policy, pruner):
    wanted = here(policy, pruner)
    with serving(policy, pruner=pruner) as server, Openpi(server) as client:
        for call in range(CALLS):
            reply = ask(client, call, session_id="s")
            np.testing.assert_array_equal(reply["actions"], wanted[call].actions)
            cost, told = wanted[call].measures, reply["vlaprune"]
            assert told["kept_visual"] == cost.kept_visual
            assert told["total_flops"] == cost.total_flops


def test_vla_eval(policy):
    """One action an observation; the policy is called at each eighth."""
    pruner = VlaPruner(keep=0.5)
    with serving(policy, pruner=pruner) as server, VlaEval(server) as client:
        client.tell("episode_start", {})
        given = []
        for step in range(17):
            seen = observation(step // 8)
            payload = {
                "images": {"agentview": seen.images[0], "wrist": seen.images[1]},
                "states": robot_state(seen),
                "task_description": INSTRUCTION,
            }
            given.append(client.ask("observation", payload)["payload"])
    memory = policy.start(INSTRUCTION, 7, pruner, 7)
    still = [np.concatenate([as_sent(k).eef_pos, as_sent(k).eef_quat]) for k in range(3)]
    for call in range(3):
        window = still[:1] if call == 0 else [still[call - 1]] * 8 + [still[call]]
        chunk = policy.act(memory, as_sent(call), np.array(window))
        got = np.array([payload["actions"] for payload in given[8 * call : 8 * call + 8]])
        np.testing.assert_array_equal(got, chunk.actions[: len(got)])
        assert [p["vlaprune"] is not None for p in given[8 * call :][:8]] == [True, *[False] * 7][
            : len(got)
        ]


def test_clients_at_once_do_not_mix(policy):
    wanted = {seed: here(policy, RandomTokens(keep=0.5), seed) for seed in range(4)}
    failures = []

    def play(server, seed):
        try:
            with Openpi(server) as client:
                for call in range(CALLS):
                    seeds = {"observation/seed": seed, "observation/noise_seed": seed}
                    reply = ask(client, call, session_id=str(seed), **seeds)
                    np.testing.assert_array_equal(reply["actions"], wanted[seed][call].actions)
        except BaseException as error:  # noqa: BLE001 - told in the test's own thread
            failures.append(error)

    with serving(policy, pruner=RandomTokens(keep=0.5)) as server:
        threads = [threading.Thread(target=play, args=(server, seed)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert not failures, failures[0]
