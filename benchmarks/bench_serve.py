"""A policy server under load: clients of both dialects, garbage and half-open sockets.

    python -m benchmarks.bench_serve [--seconds 60]

`vlaprune-serve` runs in a process of its own, with a method that has memory. Every answer a good
client gets is compared with the action computed alone, bit for bit; memory, threads and open files
of the server's process are read before, while and after.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from tests.serve.hostile import alone, storm
from tests.serve.rig import Openpi
from vlaprune_bench.policies import load_policy
from vlaprune_bench.pruning.adp import Adp

SERVE = [sys.executable, "-c", "from vlaprune_bench.cli.serve import main; main()"]
METHOD = ["--method", "adp", "--keep", "0.3"]


def state_of(pid: int) -> str:
    """Memory, threads and open files of a process."""
    status = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    rss = int(status["VmRSS"].split()[0]) / 1024
    files = len(os.listdir(f"/proc/{pid}/fd"))
    return f"{rss:6.0f} MiB, {status['Threads'].strip():>3} threads, {files:3} open files"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--checkpoint", default="tiny-untrained")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    pruner = Adp(keep=0.3)
    policy = load_policy(asked.checkpoint, pruner, suite="libero_spatial", device="cpu")
    wanted = alone(policy, pruner, range(48))

    options = ["--checkpoint", asked.checkpoint, "--device", "cpu", "--port", "0"]
    options += ["--threads", "1", "--max-connections", "256", "--idle-timeout", "5"]
    process = subprocess.Popen(
        [*SERVE, *options, *METHOD],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    server = SimpleNamespace(port=int(process.stdout.readline().rpartition(":")[2]))
    try:
        _measure(server, process, wanted, asked.seconds)
    finally:
        process.send_signal(signal.SIGTERM)
        print(f"SIGTERM: exit code {process.wait(60)}")


def _measure(
    server: SimpleNamespace, process: subprocess.Popen, wanted: dict, seconds: float
) -> None:
    storm(server, wanted, 2.0, good=32, bad=8, vla=range(32, 48))  # what is allocated once
    time.sleep(12)
    print(f"before: {state_of(process.pid)}")
    rounds = []
    for _ in range(2):
        rounds.append(storm(server, wanted, seconds / 2, good=32, bad=8, vla=range(32, 48)))
        print(f"under:  {state_of(process.pid)}")
        time.sleep(12)  # handshakes and silent clients are given up after 10 and 5 s
        print(f"after:  {state_of(process.pid)}")
    waits = 1000.0 * np.concatenate([tally.waits for tally in rounds])
    print(
        f"64 clients (32 openpi, 16 vla-eval, 8 of garbage, 8 half-open), {seconds:g} s: "
        f"{sum(t.answers for t in rounds)} answers, p50 {np.median(waits):.0f} ms, "
        f"p99 {np.quantile(waits, 0.99):.0f} ms; {sum(t.bad for t in rounds)} bad messages and "
        f"connections, {sum(t.errors for t in rounds)} answered with an error"
    )
    wrong = [text for tally in rounds for text in tally.wrong]
    print(f"answers unlike those computed alone, or lost: {len(wrong)} {wrong[:3]}")
    with Openpi(server) as client:
        print(f"still served: {client.metadata['checkpoint']}, {client.metadata['method']}")


if __name__ == "__main__":
    main()
