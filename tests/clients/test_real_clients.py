"""Clients and servers that are not ours, of the versions people have, against ours.

`make test-clients` runs these; each has an environment of its own (`environments.py`).
"""

from __future__ import annotations

import json
import socket
import sqlite3
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.clients.environments import environment, libero_variables
from tests.serve.rig import serving
from vlaprune_bench.measure.inputs import INSTRUCTION, observation
from vlaprune_bench.policies import load_policy
from vlaprune_bench.policies.normalize import robot_state
from vlaprune_bench.policies.remote.dialect import quat_of
from vlaprune_bench.policies.remote.policy import RemotePolicy
from vlaprune_bench.pruning.adp import Adp
from vlaprune_bench.pruning.none import NoPruning
from vlaprune_bench.pruning.static import Static
from vlaprune_bench.types import OPENPI_PROTOCOL, Observation

pytestmark = [pytest.mark.clients, pytest.mark.timeout(900)]
HERE = Path(__file__).parent
STEPS = 20
"""Of an episode: three calls of eight actions."""


class Recorded:
    """A policy that keeps what it was asked, and answered."""

    def __init__(self, policy):
        self.policy, self.info = policy, policy.info
        self.asked = []

    def __getattr__(self, name):
        return getattr(self.policy, name)

    def act(self, memory, seen, eef_poses):
        chunk = self.policy.act(memory, seen, eef_poses)
        self.asked.append((seen, eef_poses, chunk))
        return chunk


@pytest.fixture(scope="module")
def policy():
    return load_policy("tiny-untrained", Static(keep=0.5), suite="libero_spatial", device="cpu")


def test_openpi_client_against_our_server(policy, tmp_path):
    python = environment("openpi")
    looks = [observation(call) for call in range(3)]
    np.savez(
        tmp_path / "in.npz",
        image=[look.images[0] for look in looks],
        wrist_image=[look.images[1] for look in looks],
        state=[robot_state(look) for look in looks],
        prompt=INSTRUCTION,
    )
    with serving(policy, pruner=Static(keep=0.5)) as server:
        files = [tmp_path / "in.npz", tmp_path / "out.npz"]
        command = [python, HERE / "drive_openpi.py", "127.0.0.1", str(server.port), *files]
        subprocess.run(command, check=True, timeout=300)
    found = np.load(tmp_path / "out.npz")
    told = json.loads(str(found["told"]))
    assert told["numpy"].startswith("1.")  # what it asks for, and we cannot have here
    assert told["metadata"]["method"] == "static"
    assert "observation/image is missing" in told["error"]
    memory = policy.start(INSTRUCTION, 7, Static(keep=0.5), 7)
    for call, look in enumerate(looks):
        state = robot_state(look)
        seen = Observation(state[:3], quat_of(state[3:6]), state[6:], look.images)
        wanted = policy.act(memory, seen, np.zeros((1, 7)))
        np.testing.assert_array_equal(found["actions"][call], wanted.actions)
        assert told["measures"][call]["total_flops"] == wanted.measures.total_flops
        assert told["timing"][call]["infer_ms"] > 0


def run_vla_eval(python, server_port, folder, **entry):
    """vla-eval's own runner, a process of its own."""
    config = {
        "server": {"url": f"ws://127.0.0.1:{server_port}", "timeout": 300},
        "output_dir": str(folder),
        "benchmarks": [
            {
                "benchmark": "vla_eval.benchmarks.libero.benchmark:LIBEROBenchmark",
                "subname": "libero_spatial",
                "max_tasks": 1,
                "params": {"suite": "libero_spatial", "seed": 7},
                **entry,
            }
        ],
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(config))
    command = [python.parent / "vla-eval", "run", "--no-docker", "-c", folder / "run.yaml"]
    ended = subprocess.run(
        command,
        env=libero_variables(python),
        capture_output=True,
        text=True,
        timeout=800,
        cwd=folder,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (database,) = folder.glob("*.sqlite")
    with sqlite3.connect(database) as store:
        failed = store.execute("SELECT failure_detail FROM episode_results").fetchall()
        rows = store.execute("SELECT fields FROM step_rows ORDER BY sid, eid, step_id").fetchall()
    assert {detail for (detail,) in failed} == {None}, ended.stdout + ended.stderr
    return ended, [json.loads(fields) for (fields,) in rows]


def test_vla_eval_against_our_server(policy, tmp_path):
    """Its runner, its LIBERO benchmark, a method with memory; what it executed is what our policy
    gives for the frames it sent."""
    python, pruner = environment("vla-eval"), Adp(keep=0.3)
    recorded = Recorded(policy)
    with serving(recorded, pruner=pruner) as server:
        entry = {"episodes_per_task": 1, "max_steps": STEPS}
        ended, rows = run_vla_eval(python, server.port, tmp_path, **entry)
    assert "Spec mismatch" not in ended.stderr
    assert len(recorded.asked) == -(-STEPS // 8)
    seen, poses, _ = recorded.asked[1]
    assert seen.images.shape == (2, 256, 256, 3)
    assert poses.shape == (9, 7)
    assert np.linalg.norm(poses[-1, :3] - poses[0, :3]) > 0
    name = "pick up the black bowl between the plate and the ramekin and place it on the plate"
    memory = policy.start(name, 0, pruner, 0)
    wanted = []
    for look, window, given in recorded.asked:
        again = policy.act(memory, look, window)
        np.testing.assert_array_equal(again.actions, given.actions)
        wanted += list(again.actions)
    executed = np.array([row["action"] for row in rows], dtype=np.float32)
    assert executed.shape == (STEPS, 7)
    np.testing.assert_array_equal(executed, np.array(wanted[:STEPS], dtype=np.float32))


def test_our_client_against_openpis_own_server():
    python = environment("openpi")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen([python, HERE / "serve_openpi.py", str(port)])
    try:
        deadline = time.monotonic() + 60
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert time.monotonic() < deadline
            time.sleep(0.2)
        remote = RemotePolicy(f"ws://127.0.0.1:{port}", "auto", OPENPI_PROTOCOL)
        assert (remote.dialect, remote.info.chunk) == ("openpi", 10)
        memory = remote.start(INSTRUCTION, 1, NoPruning(), 1)
        look = observation(0)
        chunk = remote.act(memory, look, np.zeros((1, 7)))
        remote.end(memory)
    finally:
        process.terminate()
        process.wait(20)
    assert chunk.measures.server_ms >= 0
    assert chunk.measures.total_flops is None
    assert np.ptp(chunk.actions) == 0
    assert look.eef_pos[0] <= chunk.actions[0, 0] <= look.eef_pos[0] + 0.255
