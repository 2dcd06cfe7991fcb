"""A server in a thread of this process, and clients written by hand: nothing of ours in between."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from dataclasses import replace

import msgpack
import numpy as np
from websockets.sync.client import connect

from vlaprune_bench.serve.config import ServeConfig
from vlaprune_bench.serve.server import HELLO_S, PolicyServer


class TooLate(Exception):
    """A client was held up, by a busy machine, for longer than the server waits for one."""


@contextlib.contextmanager
def serving(policy, **options):
    """Serve a policy; gives the `PolicyServer`, with `port`."""
    options = {"port": 0, "drain_timeout": 1.0, "send_timeout": 2.0, **options}
    up, failed = threading.Event(), []

    def ready(port):
        server.port = port
        up.set()

    def run():
        try:
            asyncio.run(body())
        except BaseException as error:  # noqa: BLE001 - raised again where the test is
            failed.append(error)
            up.set()

    async def body():
        server.loop = asyncio.get_running_loop()
        await server.run()

    server = PolicyServer(policy, replace(ServeConfig(), **options), ready)
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert up.wait(20)
    if failed:
        raise failed[0]
    try:
        yield server
    finally:
        server.loop.call_soon_threadsafe(server.stop)
        thread.join(20)
        assert not thread.is_alive(), "the server did not end"
        if failed:
            raise failed[0]


def url(server, path=""):
    return f"ws://127.0.0.1:{server.port}{path}"


def pack(data, keys=bytes):
    """As openpi's clients (keys of bytes) and vla-eval's (of text) write arrays."""

    def default(value):
        name = (lambda key: key.encode()) if keys is bytes else str
        return {
            name("__ndarray__"): True,
            name("data"): value.tobytes(),
            name("dtype"): value.dtype.str,
            name("shape"): list(value.shape),
        }

    return msgpack.packb(data, default=default)


def unpack(data):
    def hook(found):
        names = {k if isinstance(k, str) else k.decode(): v for k, v in found.items()}
        if "__ndarray__" in names:
            return np.frombuffer(names["data"], names["dtype"]).reshape(names["shape"])
        return found

    return msgpack.unpackb(data, object_hook=hook)


def look(call=0, size=32, prompt="reach", variant=0, **more):
    """An observation in openpi's keys; the hand's height says which call it is."""
    random = np.random.default_rng([call, variant])
    return {
        "observation/image": random.integers(0, 256, (size, size, 3), dtype=np.uint8),
        "observation/wrist_image": random.integers(0, 256, (size, size, 3), dtype=np.uint8),
        "observation/state": np.array([0.1, 0.2, 0.01 * call, 3.1, 0.1, 0, 0.04, -0.04]),
        "prompt": prompt,
        **more,
    }


def seen(call=0, prompt="reach", variant=0):
    """The same in vla-eval's."""
    data = look(call, prompt=prompt, variant=variant)
    return {
        "images": {
            "agentview": data["observation/image"],
            "wrist": data["observation/wrist_image"],
        },
        "states": data["observation/state"],
        "task_description": prompt,
    }


class Openpi:
    """A client of openpi's dialect; `patience` is in seconds."""

    def __init__(self, server, path="", patience=30.0, **options):
        self.open, self.patience = contextlib.ExitStack(), patience
        options |= {"compression": None, "max_size": None, "open_timeout": patience}
        self.socket = self.open.enter_context(connect(url(server, path), **options))
        self.metadata = unpack(self.socket.recv(timeout=patience))

    def ask(self, data):
        self.socket.send(data if isinstance(data, bytes | str) else pack(data))
        reply = self.socket.recv(timeout=self.patience)
        return reply if isinstance(reply, str) else unpack(reply)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.open.close()


class VlaEval:
    """A client of vla-eval's dialect; `patience` is in seconds."""

    def __init__(self, server, patience=30.0, **options):
        self.open, self.patience = contextlib.ExitStack(), patience
        options |= {"compression": None, "max_size": None, "open_timeout": patience}
        started, self.seq = time.monotonic(), 0
        self.socket = self.open.enter_context(connect(url(server), **options))
        self.tell("hello", {"harness_version": "0.8.0", "protocol_version": 1})
        took = time.monotonic() - started
        self.hello = unpack(self.socket.recv(timeout=patience))
        if "type" not in self.hello and took >= HELLO_S:
            raise TooLate(f"hello came {took:.1f} s after the connection was begun")
        assert self.hello["type"] == "hello"

    def tell(self, kind, payload):
        self.seq += 1
        data = {"type": kind, "payload": payload, "seq": self.seq, "timestamp": time.time()}
        self.socket.send(pack(data, str))

    def ask(self, kind, payload):
        self.tell(kind, payload)
        reply = unpack(self.socket.recv(timeout=self.patience))
        assert reply["seq"] == self.seq
        return reply

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.open.close()
