"""A client's line to a policy server: connect, find out what is spoken, ask, take the answer."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, Literal, Protocol

import numpy as np
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI
from websockets.sync.client import ClientConnection, connect

from vlaprune_bench.policies.normalize import robot_state
from vlaprune_bench.policies.remote import openpi, vla_eval
from vlaprune_bench.policies.remote.dialect import Answer, Look
from vlaprune_bench.policies.remote.wire import WireError
from vlaprune_bench.types import EvalProtocol, UserError

Dialect = Literal["openpi", "vla-eval", "auto"]
API_KEY = "VLAPRUNE_API_KEY"
"""Environment variable of the key a server asks for."""
CONNECT_S, GREETING_S, ANSWER_S = 10.0, 10.0, 300.0
"""Seconds a server has to take a connection, to say who it is, and to answer (it may compile)."""
SILENT_S = 1.0
"""Seconds without a greeting after which a server is said hello to: longer than servers wait for a
hello, ours among them."""
LOST = (ConnectionClosed, OSError, TimeoutError)
"""What a line that broke raises."""


class ClientSide(Protocol):
    """A dialect as a client speaks it with one server."""

    name: Dialect
    facts: dict[Any, Any]
    """What a server of ours says of itself (see `serve.host.Served.facts`); else nothing."""
    metadata: dict[Any, Any]
    """What the server said of itself, as it came."""
    remembers: bool
    """Whether the server may remember an episode's calls: a broken line then ends the episode."""

    def begin(self, about: dict[str, Any]) -> bytes | None: ...

    def request(self, look: Look) -> bytes: ...

    def reply(self, frame: bytes | str) -> Answer: ...

    def end(self, episode: str) -> tuple[bytes | None, bool]:
        """What is sent at an episode's end, and whether an answer comes."""
        ...

    def check(self, protocol: EvalProtocol) -> list[str]:
        """What the reader of rows must know.

        Raises:
            UserError: the server wants what LIBERO, or this client, does not give.
        """
        ...


class OpenpiClient:
    """openpi's dialect."""

    name: Dialect = "openpi"

    def __init__(self, metadata: dict[Any, Any]) -> None:
        self.metadata = metadata
        self.facts = metadata if "takes" in metadata else {}
        self.remembers = bool(self.facts)

    def begin(self, about: dict[str, Any]) -> None:
        return None

    def request(self, look: Look) -> bytes:
        assert look.observation.images is not None
        images = openpi.frames_for(look.observation.images, self.metadata)
        state = robot_state(look.observation)
        look = replace(look, observation=replace(look.observation, images=images))
        return openpi.request(look, self.metadata, state)

    def reply(self, frame: bytes | str) -> Answer:
        return openpi.reply(frame)

    def end(self, episode: str) -> tuple[bytes | None, bool]:
        return (openpi.end(episode), True) if self.facts else (None, False)

    def check(self, protocol: EvalProtocol) -> list[str]:
        if not self.facts and openpi.is_arena(self.metadata):
            raise UserError(
                "--dialect is openpi; the server speaks RoboArena's, whose actions are 8 wide "
                "(joints and gripper) and not LIBERO's 7: it cannot be evaluated here."
            )
        return []


class VlaEvalClient:
    """vla-eval's dialect."""

    name: Dialect = "vla-eval"
    remembers = True

    def __init__(self, hello: dict[Any, Any]) -> None:
        self.metadata = hello
        self.facts = hello.get("vlaprune", {})
        self.wants: dict[str, Any] = hello.get("observation_params") or {}

    def begin(self, about: dict[str, Any]) -> bytes:
        return vla_eval.write("episode_start", {"task": about}, 0)

    def request(self, look: Look) -> bytes:
        return vla_eval.request(look, self.facts, self.wants)

    def reply(self, frame: bytes | str) -> Answer:
        return vla_eval.reply(frame)

    def end(self, episode: str) -> tuple[bytes | None, bool]:
        return vla_eval.write("episode_end", {}, 0), False

    def check(self, protocol: EvalProtocol) -> list[str]:
        return vla_eval.check(self.metadata, protocol)


class Line:
    """An open connection; to be closed.

    Args:
        url: ws://host:port or wss://host.
        dialect: what to speak; auto: what the server speaks.

    Raises:
        UserError: there is no server, it takes no client, or it speaks something else.
    """

    def __init__(self, url: str, dialect: Dialect) -> None:
        self.url = url
        self._open = ExitStack()
        key = os.environ.get(API_KEY)
        headers = {"Authorization": f"Api-Key {key}"} if key else None
        try:
            self._socket: ClientConnection = self._open.enter_context(
                connect(
                    url,
                    compression=None,
                    max_size=None,
                    open_timeout=CONNECT_S,
                    ping_interval=None,  # a server may be busy with one call for long
                    additional_headers=headers,
                )
            )
        except InvalidURI as error:
            raise UserError(f"--url is {url}; it must be like ws://host:8000.") from error
        except InvalidHandshake as error:
            raise UserError(f"--url is {url}; the server takes no client: {error}.") from error
        except (OSError, TimeoutError) as error:
            why = str(error) or "no answer"
            raise UserError(f"--url is {url}; there is no server: {why}.") from error
        try:
            self.side = self._greet(dialect)
        except BaseException:
            self.close()
            raise

    def _greet(self, dialect: Dialect) -> ClientSide:
        """Learn who the server is.

        Raises:
            UserError: it speaks another dialect, or none.
        """
        try:
            if dialect != "vla-eval":
                patience = SILENT_S if dialect == "auto" else GREETING_S
                try:
                    return OpenpiClient(openpi.message(self._socket.recv(patience)))
                except TimeoutError:
                    if dialect == "openpi":
                        raise
            self._socket.send(vla_eval.hello())
            kind, payload, _ = vla_eval.parts(self._socket.recv(GREETING_S))
            if kind == "error":
                raise WireError("refused", str(payload.get("error", payload)))
            return VlaEvalClient(payload)
        except TimeoutError as error:
            said = f"it said nothing for {GREETING_S:g} s"
            raise UserError(self._unlike(dialect, said)) from error
        except (*LOST, WireError) as error:
            raise UserError(self._unlike(dialect, str(error).rstrip("."))) from error

    def _unlike(self, dialect: Dialect, why: str) -> str:
        spoken = "openpi nor vla-eval" if dialect == "auto" else dialect
        no = "neither " if dialect == "auto" else "not "
        return f"--url is {self.url}; the server speaks {no}{spoken}: {why}."

    def tell(self, frame: bytes) -> None:
        self._socket.send(frame)

    def take(self) -> bytes | str:
        """The next message.

        Raises:
            TimeoutError: none came in time.
        """
        try:
            return self._socket.recv(ANSWER_S)
        except TimeoutError:
            raise TimeoutError(f"no answer within {ANSWER_S:g} s") from None

    def end(self, episode: str) -> None:
        """Say that an episode is over, and hang up."""
        try:
            frame, answered = self.side.end(episode)
            if frame is not None:
                self._socket.send(frame)
                if answered:
                    self._socket.recv(GREETING_S)
        except LOST:
            pass  # it has ended, then
        finally:
            self.close()

    def close(self) -> None:
        self._open.close()


def checked(answer: Answer) -> np.ndarray:
    """Actions ready for the simulator, (n, 7) float64.

    Raises:
        WireError: they are no such thing.
    """
    actions = answer.actions
    if actions.ndim != 2 or len(actions) == 0 or actions.dtype.kind not in "fiu":
        shape = f"{actions.shape} {actions.dtype}"
        raise WireError("bad-message", f"actions are {shape}; they must be (n, 7) numbers")
    if actions.shape[1] != 7:
        raise WireError(
            "bad-message", f"actions are {actions.shape[1]} wide; LIBERO takes 7 numbers"
        )
    if not np.isfinite(actions).all():
        raise WireError("bad-message", "the server gave actions that are not finite")
    return actions.astype(np.float64)


def pause(attempt: int) -> None:
    """Wait before a line is tried again: half a second, doubled each time."""
    time.sleep(0.5 * 2**attempt)
