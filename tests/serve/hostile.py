"""Clients nobody wants, and many that are wanted: what a server must bear.

Used by a short test (`test_load.py`) and a long measurement (`benchmarks/bench_serve.py`).
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import struct
import threading
import time
from dataclasses import dataclass, field

import msgpack
import numpy as np
from websockets.exceptions import WebSocketException

from tests.serve.rig import Openpi, TooLate, VlaEval, look, pack, seen
from vlaprune_bench.policies.remote.dialect import quat_of
from vlaprune_bench.serve.server import OPEN_S
from vlaprune_bench.types import Observation

GIVEN_UP = (OSError, EOFError, WebSocketException, TimeoutError)
"""What a bad client may see: it is dropped."""
LOST_S = 240.0
"""Seconds after which an answer is taken for lost: no machine is that busy."""


@dataclass
class Tally:
    """What came of it."""

    answers: int = 0
    """Of good clients."""
    errors: int = 0
    """Error replies to bad ones."""
    wrong: list[str] = field(default_factory=list)
    """What a good client must not see."""
    waits: list[float] = field(default_factory=list)
    """Seconds from request to reply, of good clients."""
    late: list[str] = field(default_factory=list)
    """Good clients that were held up for longer than the server waits for one, and began again."""
    held_up: float = 0.0
    """Seconds that a sleep of 10 ms took longer, at most: how busy the machine was."""
    bad: int = 0
    """Bad messages and connections."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, **numbers):
        with self.lock:
            for name, number in numbers.items():
                setattr(self, name, getattr(self, name) + number)


def extras(name, call):
    """Seeds and the hand's path of a client's call."""
    poses = np.random.default_rng([name, call]).normal(size=(9 if call else 1, 7)) / 100
    poses[-1, 2] = 0.01 * call  # where its observation has it
    return {"seed": name, "noise_seed": name, "eef_poses": poses}


def observed(name, call):
    """What `good_openpi` and `good_vla_eval` send, as a policy is given it."""
    data = look(call, variant=name)
    state = data["observation/state"]
    images = np.stack([data["observation/image"], data["observation/wrist_image"]])
    return Observation(state[:3], quat_of(state[3:6]), state[6:], images)


def alone(policy, pruner, names, calls=3):
    """Actions of each client's calls, computed by themselves."""
    found = {}
    for name in names:
        memory = policy.start("reach", name, pruner, name)
        found[name] = [
            policy.act(memory, observed(name, call), extras(name, call)["eef_poses"]).actions
            for call in range(calls)
        ]
    return found


class Paced:
    """A good client that knows whether it was late.

    That an answer does not come within `LOST_S` is a fault. That the server hangs up is one, too,
    unless the client had taken longer than the server waits: to connect, or from one word of its
    own to the next. The server's time for the answer between is counted in, so an idle timeout well
    above that is what tells the two apart.

    Args:
        make: the client.
        server: of `rig.serving`.
    """

    def __init__(self, make, server):
        self.patience, self.spoke = server.config.idle_timeout, time.monotonic()
        try:
            self.client = make(server, patience=LOST_S)
        except TimeoutError:
            raise
        except GIVEN_UP as error:
            self._judge(time.monotonic() - self.spoke, OPEN_S, error)

    def ask(self, *said):
        return self._say(self.client.ask, said)

    def tell(self, *said):
        return self._say(self.client.tell, said)

    def _say(self, how, said):
        before, self.spoke = self.spoke, time.monotonic()
        try:
            return how(*said)
        except TimeoutError:
            raise
        except GIVEN_UP as error:
            self._judge(self.spoke - before, self.patience, error)

    def _judge(self, took, allowed, error):
        if took < allowed:
            raise AssertionError(f"dropped though it took {took:.1f} s of {allowed:g} s") from error
        raise TooLate(f"it took {took:.1f} s of {allowed:g} s") from error

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.client.open.close()


def good(play, server, tally, name, wanted, until):
    """Play episodes of a good client until then; one that was late begins again."""
    while time.monotonic() < until:
        try:
            play(server, tally, name, wanted, until)
        except TooLate as late:
            tally.late.append(f"{name}: {late}")
        except BaseException as error:  # noqa: BLE001 - told in the test's own thread
            tally.wrong.append(f"{name}: {type(error).__name__}: {error!s:.300}")
            return


def good_openpi(server, tally, name, wanted, until):
    """Three episodes of an openpi client, each a session; `wanted` has the actions of its calls."""
    with Paced(Openpi, server) as client:
        for episode in range(3):
            if time.monotonic() > until:
                return
            session = f"{name}-{episode}"
            for call, actions in enumerate(wanted):
                more = {f"observation/{k}": v for k, v in extras(name, call).items()}
                data = look(call, variant=name, session_id=session, **more)
                _ask(tally, lambda data=data: client.ask(data), "actions", actions)
            client.ask({"endpoint": "reset", "session_id": session})


def good_vla_eval(server, tally, name, wanted, until):
    """Episodes of a vla-eval client, which takes one action at a time."""
    with Paced(VlaEval, server) as client:
        while time.monotonic() < until:
            client.tell("episode_start", {"task": {"name": "reach"}})
            for call, actions in enumerate(wanted):
                data = {**seen(call, variant=name), **extras(name, call)}
                for action in actions:
                    ask = lambda data=data: client.ask("observation", data)["payload"]  # noqa: E731
                    _ask(tally, ask, "actions", action)
            client.tell("episode_end", {})


def _ask(tally, ask, key, wanted):
    started = time.perf_counter()
    reply = ask()
    if not isinstance(reply, dict) or key not in reply:
        raise AssertionError(f"{reply!r:.300}")
    actions = reply[key]
    with tally.lock:
        tally.waits.append(time.perf_counter() - started)
        tally.answers += 1
        if not np.array_equal(actions, wanted):
            tally.wrong.append("actions are not those computed alone")


def bad_frames(server, tally, name, until):
    """Fuzzed msgpack, arrays that lie about themselves, wrong dtypes and shapes, text."""
    rng = random.Random(name)
    good = pack(look(0))
    lies = [
        {"shape": [2**40, 2**40]},
        {"dtype": "|O"},
        {"dtype": "<U9"},
        {"shape": [-1]},
        {"data": b""},
        {"dtype": "f8,f8"},
    ]
    while time.monotonic() < until:
        with contextlib.suppress(*GIVEN_UP), Openpi(server) as client:
            for _ in range(20):
                kind = rng.randrange(6)
                if kind == 0:  # bytes turned over
                    frame = bytearray(good)
                    for _ in range(rng.randrange(1, 40)):
                        frame[rng.randrange(len(frame))] = rng.randrange(256)
                    frame = bytes(frame)
                elif kind == 1:  # cut short
                    frame = good[: rng.randrange(len(good))]
                elif kind == 2:
                    frame = rng.randbytes(rng.randrange(200))
                elif kind == 3:  # a header that promises gigabytes
                    head = rng.choice([b"\xdd", b"\xdf", b"\xc6", b"\xdb", b"\xc9"])
                    frame = head + struct.pack(">I", 2**32 - 1) + rng.randbytes(20)
                elif kind == 4:
                    whole = {"data": bytes(8), "dtype": "<f8", "shape": [1]} | rng.choice(lies)
                    array = {k.encode(): v for k, v in whole.items()} | {b"__ndarray__": True}
                    frame = msgpack.packb({"observation/image": array, "prompt": "x"})
                else:
                    frame = rng.choice(["text", "\x00" * 1000])
                tally.add(bad=1)
                reply = client.ask(frame)
                tally.add(errors=isinstance(reply, str))


def half_open(server, tally, name, until):
    """Sockets that say nothing, half a handshake, half a frame, or vanish."""
    rng = random.Random(name)
    upgrade = (
        b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    held = []
    while time.monotonic() < until:
        with contextlib.suppress(*GIVEN_UP):
            line = socket.create_connection(("127.0.0.1", server.port), timeout=5)
            tally.add(bad=1)
            kind = rng.randrange(5)
            if kind == 1:
                line.send(upgrade[: rng.randrange(1, len(upgrade))])
            elif kind >= 2:
                line.send(upgrade)
                if kind == 3:  # a frame of 2^62 bytes begins
                    line.send(b"\x82\xff" + struct.pack(">Q", 2**62) + b"mask" + b"x" * 100)
                if kind == 4:  # half of a small one
                    line.send(b"\x82\xfe\x10\x00mask" + b"x" * 10)
            if rng.random() < 0.5:  # reset, not closed
                line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            held.append(line)
        while len(held) > 8:
            held.pop(0).close()
        time.sleep(0.05)
    for line in held:
        line.close()


def _metronome(tally, until):
    while (now := time.monotonic()) < until:
        time.sleep(0.01)
        tally.held_up = max(tally.held_up, time.monotonic() - now - 0.01)


def storm(server, wanted, seconds, openpi=4, bad=2, vla=()):
    """Run clients of every kind for some time.

    Args:
        server: of `rig.serving`.
        wanted: actions of each good client's calls, computed alone, by its name (its seed).
        seconds: how long.
        openpi: how many names speak it; those of `vla` speak vla-eval.
        bad: clients of garbage, and as many half-open ones.
        vla: names.
    """
    tally, until = Tally(), time.monotonic() + seconds
    jobs = [(good_openpi, name) for name in list(wanted)[:openpi]]
    jobs += [(good_vla_eval, name) for name in vla]
    threads = [
        threading.Thread(target=good, args=(play, server, tally, name, wanted[name], until))
        for play, name in jobs
    ]
    threads += [threading.Thread(target=_metronome, args=(tally, until))]
    for kind in (bad_frames, half_open):
        threads += [
            threading.Thread(target=kind, args=(server, tally, name, until)) for name in range(bad)
        ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds + 2 * LOST_S)
        assert not thread.is_alive(), "a client hangs"
    return tally


def open_files() -> int:
    """Files this process has open."""
    return len(os.listdir("/proc/self/fd"))
