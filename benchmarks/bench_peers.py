"""The same served policy, task and steps under vla-eval's harness and ours, in turns.

    python -m benchmarks.bench_peers [--rounds 2] [--steps 60] [--episodes 2]

Both are processes of their own and ask one server, in vla-eval's messages, an action at every step.
Seconds are those of a whole run and of its episodes; memory is the most all processes of a run held
at once. Then each plays the same episodes in another order: do they begin in the same scenes? Of
vla-eval the first frames are compared (it keeps no state), of ours the scenes' hashes.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from tests.clients.environments import environment, libero_variables, peer_assets
from tests.serve.rig import serving
from vlaprune_bench.policies import load_policy
from vlaprune_bench.pruning.static import Static
from vlaprune_bench.store import load_results

EVAL = [sys.executable, "-c", "from vlaprune_bench.cli.eval import main; main()"]
PRUNER = Static(keep=0.5)


class Watched:
    """The policy, and the first frames of every episode."""

    def __init__(self, policy: Any) -> None:
        self.policy, self.info, self.firsts = policy, policy.info, list[str]()
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.policy, name)

    def act(self, memory: Any, seen: Any, eef_poses: np.ndarray) -> Any:
        if memory.call == 0:
            self.firsts.append(hashlib.sha256(seen.images.tobytes()).hexdigest()[:12])
        self.calls += 1
        return self.policy.act(memory, seen, eef_poses)


def tree(pid: int) -> list[int]:
    """A process and all below it."""
    parents = {}
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit():
                stat = (entry / "stat").read_text().rpartition(")")[2].split()
                parents[int(entry.name)] = int(stat[1])
        except OSError:  # it has ended
            continue
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found


def memory_mib(pid: int) -> float:
    """Memory of a process and all below it; what they share counts once (PSS)."""
    total = 0
    for one in tree(pid):
        try:
            lines = Path(f"/proc/{one}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


def run(command: list[Any], folder: Path, env: dict[str, str]) -> tuple[float, float]:
    """Wall seconds of a command, and the most memory it held, MiB."""
    most, started = 0.0, time.perf_counter()
    with open(folder / "log", "a") as log:
        process = subprocess.Popen(command, env=env, cwd=folder, stdout=log, stderr=log)

        def watch() -> None:
            nonlocal most
            while process.poll() is None:
                most = max(most, memory_mib(process.pid))
                time.sleep(0.5)

        watcher = threading.Thread(target=watch)
        watcher.start()
        code = process.wait(1200)
        took = time.perf_counter() - started
        watcher.join()
    if code:
        raise SystemExit((folder / "log").read_text()[-3000:])
    return took, most


class Peers:
    """Both harnesses on one server."""

    def __init__(self, port: int, scratch: Path, steps: int) -> None:
        self.url, self.scratch, self.steps = f"ws://127.0.0.1:{port}", scratch, steps
        self.python = environment("vla-eval")

    def theirs(self, name: str, episodes: int, *more: str) -> tuple[float, float]:
        folder = self.scratch / name
        folder.mkdir(exist_ok=True)
        entry = {
            "benchmark": "vla_eval.benchmarks.libero.benchmark:LIBEROBenchmark",
            "max_tasks": 1,
            "episodes_per_task": episodes,
            "max_steps": self.steps,
            "params": {"suite": "libero_spatial", "seed": 7},
        }
        config = {
            "server": {"url": self.url, "timeout": 300},
            "output_dir": str(folder),
            "benchmarks": [entry],
        }
        (folder / "run.yaml").write_text(yaml.safe_dump(config))
        command = [self.python.parent / "vla-eval", "run", "--no-docker", "--no-save"]
        env = libero_variables(self.python)
        return run([*command, "-c", folder / "run.yaml", *more], folder, env)

    def ours(self, name: str, episodes: int, *more: str) -> tuple[float, float]:
        folder = self.scratch / name
        folder.mkdir(exist_ok=True)
        options = {
            "policy": "remote",
            "url": self.url,
            "dialect": "vla-eval",
            "suite": "libero_spatial",
            "task-ids": "0",
            "trials": str(episodes),
            "max-steps": str(self.steps),
            "assets": str(peer_assets().path),
            "output": str(folder / "runs"),
        }
        words = [word for key, value in options.items() for word in (f"--{key}", value)]
        return run([*EVAL, *words, *more], folder, dict(os.environ))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--episodes", type=int, default=2)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    loaded = load_policy("tiny-untrained", PRUNER, suite="libero_spatial", device="cpu")
    watched = Watched(loaded)
    with (
        tempfile.TemporaryDirectory() as scratch,
        serving(watched, pruner=PRUNER, idle_timeout=1200.0) as server,
    ):
        print(f"libero_spatial 0, {asked.steps} steps; assets {peer_assets().path}")
        peers = Peers(server.port, Path(scratch), asked.steps)
        for number in range(asked.rounds):
            for name, play in (("vla-eval", peers.theirs), ("ours", peers.ours)):
                _show(name, number, play, asked, watched)
        _orders(peers, watched)


def _show(name: str, number: int, play: Any, asked: argparse.Namespace, watched: Watched) -> None:
    """One run of a harness: with few episodes and one more, so that its start can be told apart."""
    one, _ = play(f"{name}-{number}-one", 1)
    before = watched.calls
    many, most = play(f"{name}-{number}-many", 1 + asked.episodes)
    each = (many - one) / asked.episodes
    print(
        f"{name:<9} start and first episode {one:5.1f} s; an episode more {each:5.1f} s, "
        f"{1000 * each / asked.steps:4.0f} ms a control step; {most:5.0f} MiB; "
        f"{watched.calls - before} policy calls",
        flush=True,
    )


def _orders(peers: Peers, watched: Watched) -> None:
    """Two episodes one after the other, and each by itself."""
    del watched.firsts[:]
    peers.theirs("together", 2)
    together = list(watched.firsts)
    del watched.firsts[:]
    for shard in ("0", "1"):
        peers.theirs(f"shard{shard}", 2, "--shard-id", shard, "--num-shards", "2")
    same = len(set(together) & set(watched.firsts))
    print(f"vla-eval: {same} of {len(together)} episodes begin with the same frames when sharded")
    peers.ours("ours-together", 2)
    peers.ours("ours-apart", 1)
    peers.ours("ours-apart", 2)  # the second episode alone: the first is there
    hashes = [
        load_results(peers.scratch / name / "runs").sort_values("trial").scene_hash.tolist()
        for name in ("ours-together", "ours-apart")
    ]
    same = sum(a == b for a, b in zip(*hashes, strict=True))
    print(f"ours:     {same} of 2 episodes begin in the same scene when played apart")


if __name__ == "__main__":
    main()
