"""The port: connections, what is bounded about them, and how they end."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import http
import json
import logging
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from urllib.parse import parse_qs, urlsplit

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from vlaprune_bench.policies.base import SwappablePolicy
from vlaprune_bench.policies.remote.dialect import ServerSide
from vlaprune_bench.policies.remote.openpi import OpenpiServer
from vlaprune_bench.policies.remote.vla_eval import VlaEvalServer, is_hello
from vlaprune_bench.serve.config import ServeConfig
from vlaprune_bench.serve.host import Host, Served
from vlaprune_bench.serve.session import Session
from vlaprune_bench.types import UserError

HELLO_S = 0.3
"""Seconds a client has to say hello (vla-eval) before it is greeted (openpi)."""
OPEN_S = 10.0
"""Seconds a client has for the handshake."""
AGAIN_S = 0.05
"""Seconds of a second look at a client whose time is over: where this process stood still (a busy
machine), what the client said in the meantime is there by then."""
PING_S = 30.0
"""Seconds between pings, which keep a proxy from closing a line on which a call takes long. That
they are answered is not asked: `idle_timeout` is what drops a client."""
GOING_AWAY, UNSUPPORTED = 1001, 1011

log = logging.getLogger(__name__)


class PolicyServer:
    """Serves one policy; `run` returns once it was drained.

    Args:
        policy: loaded.
        config: how it is served.
        ready: is told the port once clients can come.
    """

    def __init__(
        self,
        policy: SwappablePolicy,
        config: ServeConfig,
        ready: Callable[[int], None] = lambda port: None,
    ) -> None:
        self.config = config
        self.policy = policy
        self.served = Served(config, policy.info, policy.resolve(config.pruner))
        _ = self.served.facts  # refused before the port is opened
        self._ready = ready
        self._sessions: dict[ServerConnection, Session | None] = {}
        self._idle: set[ServerConnection] = set()
        """Connections that wait for a message."""

    async def run(self) -> None:
        """Listen until SIGTERM or SIGINT, then drain.

        Raises:
            UserError: the address cannot be listened at.
        """
        self.stopping = asyncio.Event()
        self.host = Host(self.policy, self.served)
        config = self.config
        with self._signals():
            try:
                server = await serve(
                    self._talk,
                    config.host,
                    config.port,
                    process_request=self._admit,
                    compression=None,
                    max_size=config.max_message_mib * 2**20,
                    max_queue=2,
                    open_timeout=OPEN_S,
                    ping_interval=PING_S,
                    ping_timeout=None,
                    close_timeout=config.send_timeout,
                    logger=logging.getLogger("vlaprune_bench.serve.websockets"),
                )
            except OSError as error:
                raise UserError(
                    f"--port is {config.port}; {config.host} cannot be listened at there: "
                    f"{error.strerror or error}."
                ) from error
            self._ready(server.sockets[0].getsockname()[1])
            try:
                await self.stopping.wait()
                await self._drain(server)
            finally:
                self.host.close()

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        caught: tuple[signal.Signals, ...] = (signal.SIGTERM, signal.SIGINT)
        try:
            for number in caught:
                loop.add_signal_handler(number, self.stop)
        except (ValueError, RuntimeError):  # not the main thread: whoever runs it calls `stop`
            caught = ()
        try:
            yield
        finally:
            for number in caught:
                loop.remove_signal_handler(number)

    def stop(self) -> None:
        """Begin to drain; asked a second time, end the episodes that still run."""
        if self.stopping.is_set():
            self._end_all()
        self.stopping.set()

    def _end_all(self) -> None:
        for connection in list(self._sessions):
            connection.transport.abort()

    async def _drain(self, server: Server) -> None:
        """Take nobody in, answer what is asked, let episodes end, up to a bound."""
        log.info("draining: %d connections", len(self._sessions))
        server.close(close_connections=False)
        deadline = time.monotonic() + self.config.drain_timeout
        while self._sessions and time.monotonic() < deadline:
            free = [
                connection
                for connection, session in self._sessions.items()
                if connection in self._idle and (session is None or not session.playing)
            ]
            await self._hang_up(free)
            await asyncio.sleep(0.05)
        await self._hang_up(list(self._sessions))
        self._end_all()
        await server.wait_closed()

    async def _hang_up(self, connections: Sequence[ServerConnection]) -> None:
        """Close connections, all at once: one that does not answer holds up no other."""
        why = "the server is shutting down"
        closing = [asyncio.create_task(c.close(GOING_AWAY, why)) for c in connections]
        if closing:
            _, late = await asyncio.wait(closing, timeout=self.config.send_timeout)
            for task in late:
                task.cancel()

    def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answer plain requests, and refuse clients that may not come."""
        url = urlsplit(request.path)
        draining = self.stopping.is_set()
        if url.path == "/healthz":
            status = http.HTTPStatus.SERVICE_UNAVAILABLE if draining else http.HTTPStatus.OK
            return connection.respond(status, "draining\n" if draining else "OK\n")
        if url.path == "/health":
            return _json({"status": "draining" if draining else "ok"}, draining)
        if not self._has_key(request.headers, url.query):
            return connection.respond(
                http.HTTPStatus.UNAUTHORIZED, "send Authorization: Api-Key KEY\n"
            )
        if url.path in ("/metadata", "/config"):
            return _json(self.host.facts, False)
        if draining:
            return connection.respond(http.HTTPStatus.SERVICE_UNAVAILABLE, "draining\n")
        if len(self._sessions) >= self.config.max_connections:
            said = f"{self.config.max_connections} clients are connected already\n"
            return connection.respond(http.HTTPStatus.SERVICE_UNAVAILABLE, said)
        return None

    def _has_key(self, headers: Headers, query: str) -> bool:
        if self.config.key is None:
            return True
        kind, _, given = headers.get("Authorization", "").partition(" ")
        if kind != "Api-Key":
            given = parse_qs(query).get("api_key", [""])[0]
        return hmac.compare_digest(given.encode(), self.config.key.encode())

    async def _talk(self, connection: ServerConnection) -> None:
        """One client, from its first message to its last."""
        self._sessions[connection] = None
        who = f"{connection.remote_address}"
        try:
            await self._converse(connection)
        except ConnectionClosed as end:
            log.info("%s: %s", who, end)
        except TimeoutError as slow:
            log.warning("%s: dropped: %s", who, slow)
            connection.transport.abort()
        except Exception:
            log.exception("%s: dropped", who)
            await connection.close(UNSUPPORTED, "internal error")
        finally:
            del self._sessions[connection]
            self._idle.discard(connection)

    async def _converse(self, connection: ServerConnection) -> None:
        dialect, frame = await self._first(connection)
        session = Session(self.host, dialect)
        self._sessions[connection] = session
        while True:
            if frame is None:
                frame = await self._receive(connection)
            started = time.perf_counter()
            answer = await session.handle(frame)
            if answer is not None:
                await self._send(connection, answer)
            session.sent(started)
            frame = None

    async def _first(self, connection: ServerConnection) -> tuple[ServerSide, bytes | str | None]:
        """Find out what a client speaks, by what it says first or that it says nothing."""
        frame = None
        with contextlib.suppress(TimeoutError):
            frame = await _heard(connection, HELLO_S)
        if frame is not None and is_hello(frame):
            return VlaEvalServer(), frame
        dialect = OpenpiServer(arena=self.config.greeting == "roboarena")
        await self._send(connection, dialect.greeting(self.host.facts))
        return dialect, frame

    async def _receive(self, connection: ServerConnection) -> bytes | str:
        self._idle.add(connection)
        try:
            return await _heard(connection, self.config.idle_timeout)
        except TimeoutError:
            raise TimeoutError(f"it said nothing for {self.config.idle_timeout:g} s") from None
        finally:
            self._idle.discard(connection)

    async def _send(self, connection: ServerConnection, frame: bytes | str) -> None:
        try:
            async with asyncio.timeout(self.config.send_timeout):
                await connection.send(frame)
        except TimeoutError:
            limit = self.config.send_timeout
            raise TimeoutError(f"it did not take its answer within {limit:g} s") from None


async def _heard(connection: ServerConnection, seconds: float) -> bytes | str:
    """The next message.

    Raises:
        TimeoutError: none came within `seconds`.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            return await connection.recv()
    async with asyncio.timeout(AGAIN_S):
        return await connection.recv()


def _json(data: dict, busy: bool) -> Response:
    """A plain answer in JSON."""
    status = http.HTTPStatus.SERVICE_UNAVAILABLE if busy else http.HTTPStatus.OK
    body = (json.dumps(data) + "\n").encode()
    headers = Headers({"Content-Type": "application/json", "Content-Length": str(len(body))})
    headers["Connection"] = "close"
    return Response(status, status.phrase, headers, body)
