"""A policy server under load: clients of both dialects, garbage and half-open sockets.

    python -m benchmarks.bench_serve [--seconds 60]

`vlaprune-serve` runs in a process of its own, with a method that has memory. Every answer a good
client gets is compared with the action computed alone, bit for bit; memory, threads and open files
of the server's process are read before, while and after. The exit code is 1 after a fault: an
answer that is another or none, a client dropped that was in time, a thread or file left open,
memory that still grows, a server that does not end. What a busy machine does is counted beside it:
clients held up for longer than the server waits for one (`tests.serve.hostile.Paced`).
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, fields
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from tests.serve.hostile import Tally, alone, storm
from tests.serve.rig import Openpi
from vlaprune_bench.policies import load_policy
from vlaprune_bench.pruning.adp import Adp
from vlaprune_bench.serve.config import ServeConfig
from vlaprune_bench.serve.server import OPEN_S

SERVE = [sys.executable, "-c", "from vlaprune_bench.cli.serve import main; main()"]
METHOD = ["--method", "adp", "--keep", "0.3"]


IDLE_S = 20.0
"""Patience of the server with a silent client: well above the wait for an answer."""
GROWS_MIB = 16.0
"""Memory that the second half may hold above the first: what is allocated is not all given back."""


@dataclass(frozen=True)
class State:
    """What a process holds."""

    mib: float
    threads: int
    files: int
    waited: float
    """Seconds its threads were ready to run and no core was free, so far."""

    @classmethod
    def of(cls, pid: int) -> State:
        proc = Path(f"/proc/{pid}")
        status = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
        delays = [int(path.read_text().split()[1]) for path in proc.glob("task/*/schedstat")]
        return cls(
            mib=int(status["VmRSS"].split()[0]) / 1024,
            threads=int(status["Threads"]),
            files=len(os.listdir(proc / "fd")),
            waited=sum(delays) / 1e9,
        )

    def __str__(self) -> str:
        return f"{self.mib:6.0f} MiB, {self.threads:2} threads, {self.files:3} open files"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--checkpoint", default="tiny-untrained")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    pruner = Adp(keep=0.3)
    policy = load_policy(asked.checkpoint, pruner, suite="libero_spatial", device="cpu")
    wanted = alone(policy, pruner, range(48))

    options = ["--checkpoint", asked.checkpoint, "--device", "cpu", "--port", "0"]
    options += ["--threads", "1", "--max-connections", "256", "--idle-timeout", f"{IDLE_S:g}"]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [*SERVE, *options, *METHOD], stdout=subprocess.PIPE, stderr=log, text=True
        )
        assert process.stdout is not None
        server = SimpleNamespace(
            port=int(process.stdout.readline().rpartition(":")[2]),
            config=ServeConfig(idle_timeout=IDLE_S),
        )
        try:
            faults = _measure(server, process.pid, wanted, asked.seconds)
        finally:
            process.send_signal(signal.SIGTERM)
            code = process.wait(60)
        log.seek(0)
        faults += [line.strip() for line in log if line.startswith("Traceback")]
    print(f"SIGTERM: exit code {code}")
    faults += [f"exit code {code}"] * (code != 0)
    print(f"faults: {len(faults)}" + "".join(f"\n  {fault}" for fault in faults))
    return bool(faults)


def _measure(server: SimpleNamespace, pid: int, wanted: dict, seconds: float) -> list[str]:
    """Two halves of a storm; what went wrong."""
    _round(server, pid, wanted, 2.0)  # what is allocated once
    states, tallies = [State.of(pid)], []
    print(f"before: {states[0]}")
    for _ in range(2):
        tally, most = _round(server, pid, wanted, seconds / 2)
        states.append(State.of(pid))
        tallies.append(tally)
        print(f"under:  {most}, at most\nafter:  {states[-1]}")
    waits = 1000.0 * np.concatenate([tally.waits for tally in tallies])
    print(
        f"64 clients (32 openpi, 16 vla-eval, 8 of garbage, 8 half-open), {seconds:g} s: "
        f"{len(waits)} answers, p50 {np.median(waits):.0f} ms, p99 {np.quantile(waits, 0.99):.0f} "
        f"ms, at most {waits.max():.0f} ms; {sum(t.bad for t in tallies)} bad messages and "
        f"connections, {sum(t.errors for t in tallies)} answered with an error"
    )
    late = [text for tally in tallies for text in tally.late]
    print(
        f"machine: the server waited {states[-1].waited - states[0].waited:.1f} s for a core, a "
        f"client was held up {max(t.held_up for t in tallies):.1f} s at most; {len(late)} clients "
        f"were later than the server waits {late[:3]}"
    )
    with Openpi(server) as client:
        print(f"still served: {client.metadata['checkpoint']}, {client.metadata['method']}")
    return [text for tally in tallies for text in tally.wrong] + _left(states)


def _round(server: SimpleNamespace, pid: int, wanted: dict, seconds: float) -> tuple[Tally, State]:
    """A storm, and the most that the server held; afterwards it has given up whom it will."""
    seen, over = [State.of(pid)], threading.Event()

    def watch() -> None:
        while not over.wait(0.25):
            seen.append(State.of(pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        tally = storm(server, wanted, seconds, openpi=32, bad=8, vla=range(32, 48))
    finally:
        over.set()
        watcher.join()
    time.sleep(OPEN_S + 2.0)  # sockets that never shook hands
    most = State(*(max(getattr(s, f.name) for s in seen) for f in fields(State)))
    return tally, most


def _left(states: list[State]) -> list[str]:
    """What the server did not give back, from before over the halves."""
    before, half, end = states
    found = []
    for name in ("threads", "files"):
        one, two = getattr(before, name), getattr(end, name)
        if two > one:
            found.append(f"{two} {name} are left of {one}")
    if end.mib - half.mib > GROWS_MIB:
        found.append(f"memory grew by {end.mib - half.mib:.0f} MiB in the second half")
    return found


if __name__ == "__main__":
    sys.exit(main())
