"""Worker processes of this machine, and how many it can take.

`Worker` and `Pool` are what the server of episodes (`server`) knows of simulators elsewhere; a
transport of another kind (a cluster) implements these two.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import wait as wait_for
from typing import Any, Literal, Protocol, cast

from vlaprune_bench.measure.machine import available_mib, usable_cores
from vlaprune_bench.rollout.messages import Message, Order, WorkerDied
from vlaprune_bench.types import ActionChunk

MODULE = "vlaprune_bench.rollout.worker"
"""What a worker process runs."""
WORKER_MIB = 512
"""Memory for a worker: 250 to 300 MiB of its own with a task open, 370 while one is opened."""
SPARE_MIB = 1024
"""Memory left alone when workers are counted."""
EXIT_S = 10.0
"""How long a process that has closed its socket may take to end."""
LOG_CHARS = 300
"""Of the last line a dead worker printed."""


class Worker(Protocol):
    """A simulator elsewhere: takes orders and answers, gives messages.

    It must say `Ready` first. It ends by itself when this process does.
    """

    def send(self, message: Order | ActionChunk | None) -> None:
        """Give an order, or the answer to an `ActionRequest` (None: the call failed). Does not
        wait, and does not complain where the worker has died: `receive` does."""
        ...

    def receive(self) -> Message:
        """The next message; waits for it.

        Raises:
            WorkerDied: there will be none.
        """
        ...

    def kill(self) -> None:
        """End it now, whatever it does; harmless where it has ended."""
        ...


class Pool(Protocol):
    """Where workers come from."""

    def start(self) -> Worker:
        """Start a worker; does not wait until it stands."""
        ...

    def wait(self, workers: Sequence[Worker], timeout: float | None) -> Sequence[Worker]:
        """Those of `workers` that have a message or have died, as soon as there is one.

        Args:
            workers: started by this pool.
            timeout: seconds until it returns in any case; None: for ever.
        """
        ...


class Process:
    """A worker in a process of this machine, at the other end of a socket."""

    def __init__(self, module: str) -> None:
        self.socket, theirs = Pipe()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `kill`
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", module, str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            pass_fds=[theirs.fileno()],
            process_group=0,  # Ctrl-C is for this process to deal with
            env={
                "OMP_NUM_THREADS": "1",  # one worker a core
                **os.environ,
                "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            },
        )
        theirs.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, message: Order | ActionChunk | None) -> None:
        with suppress(OSError):  # it has died, which `receive` tells
            self.socket.send(message)

    def receive(self) -> Message:
        try:
            return cast(Message, self.socket.recv())
        except (EOFError, OSError):
            how = self._how_it_ended()
        self.kill()
        raise WorkerDied(how)

    def _how_it_ended(self) -> str:
        try:
            code = self._process.wait(EXIT_S)
        except subprocess.TimeoutExpired:
            return "it closed its socket"
        if code < 0:
            names = {number.value: number.name for number in signal.Signals}
            how = f"it was killed by signal {-code} ({names.get(-code, 'real-time')})"
        else:
            how = f"it ended with exit code {code}"
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f"{how}: {last[-LOG_CHARS:]}" if last else how

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self.socket.close()
        self._log.close()


class Processes:
    """A `Pool` of processes of this machine.

    Args:
        module: what each runs.
    """

    def __init__(self, module: str = MODULE) -> None:
        self._module = module

    def start(self) -> Process:
        return Process(self._module)

    def wait(self, workers: Sequence[Worker], timeout: float | None) -> Sequence[Worker]:
        by_socket: dict[Any, Worker] = {cast(Process, worker).socket: worker for worker in workers}
        return [by_socket[socket] for socket in wait_for(list(by_socket), timeout)]


def count_workers(asked: int | Literal["auto"]) -> tuple[int, str | None]:
    """How many workers to run, and, where that was for us to say, why so many."""
    if asked != "auto":
        return asked, None
    cores, mib = usable_cores(), available_mib()
    fit = max(1, int((mib - SPARE_MIB) // WORKER_MIB))
    number = max(1, min(cores, fit))
    return number, (
        f"--workers auto: {number} ({cores} cores, {mib / 1024:.1f} GiB of memory available, "
        f"{WORKER_MIB / 1024:g} GiB a worker)"
    )
