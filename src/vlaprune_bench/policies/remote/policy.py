"""A policy that runs elsewhere: the harness as the client of a policy server.

One connection an episode, so that whatever a server remembers by connection is of that episode
alone. What a call cost is what the server says; what it does not say is null.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np

from vlaprune_bench.policies.base import PolicyCall, PolicyInfo, ServedMethod
from vlaprune_bench.policies.remote.dialect import Answer, Look
from vlaprune_bench.policies.remote.line import LOST, ClientSide, Dialect, Line, checked, pause
from vlaprune_bench.policies.remote.wire import WireError
from vlaprune_bench.types import ActionChunk, CallMeasures, EvalProtocol, Observation, UserError

if TYPE_CHECKING:
    from vlaprune_bench.pruning.base import Pruner

ATTEMPTS = 4
"""Times a connection, or a call that nobody remembers, is tried."""
UNKNOWN = "unknown"
MEASURES = {f.name for f in fields(CallMeasures)}


@dataclass(eq=False)
class RemoteMemory:
    """An episode's connection."""

    episode: str
    instruction: str
    seeds: tuple[int, int]
    call: int = 0
    line: Line | None = None
    """None: not connected yet, or lost."""


class RemotePolicy:
    """A `Policy` behind a websocket.

    Args:
        url: ws://host:port.
        dialect: openpi, vla-eval, or auto: what the server speaks.
        protocol: of the evaluation.

    Raises:
        UserError: there is no server, or it cannot be evaluated on LIBERO.
    """

    name = "remote"
    info: PolicyInfo

    def __init__(self, url: str, dialect: Dialect, protocol: EvalProtocol) -> None:
        self.url = url
        self._numbers = count()
        line = self._connect(dialect)
        self.dialect: Dialect = line.side.name
        try:
            notes = line.side.check(protocol)
            chunk = self._try_out(line, protocol)
        except LOST as error:
            raise UserError(f"--url is {url}; the server hung up: {error}.") from error
        finally:
            line.end("probe")
        self.info = _info(url, line.side, chunk, protocol, notes)

    @classmethod
    def reads(cls, checkpoint: object) -> bool:
        """No checkpoint is one of a policy elsewhere."""
        return False

    def _connect(self, dialect: Dialect) -> Line:
        for attempt in range(ATTEMPTS - 1):
            try:
                return Line(self.url, dialect)
            except UserError as error:
                if not isinstance(error.__cause__, LOST):
                    raise  # it is there, and means it
                pause(attempt)
        return Line(self.url, dialect)

    def _try_out(self, line: Line, protocol: EvalProtocol) -> int:
        """Actions of a call, learnt from one on black frames.

        Raises:
            UserError: it gives none that LIBERO takes.
        """
        size = protocol.camera_size
        black = Observation(
            np.array([-0.2, 0.0, 1.2]),
            np.array([1.0, 0.0, 0.0, 0.0]),
            np.array([0.04, -0.04]),
            np.zeros((2, size, size, 3), np.uint8),
        )
        memory = RemoteMemory("probe", "do nothing", (0, 0), line=line)
        try:
            self._begin(memory)
            line.tell(line.side.request(self._look(memory, black, np.zeros((1, 7)))))
            return len(checked(line.side.reply(line.take())))
        except WireError as error:
            said = error.sentence.rstrip(".")
            raise UserError(f"--url is {self.url}; a call with black frames: {said}.") from error

    def resolve(self, pruner: Pruner) -> Pruner:
        """The method, which must be none: the server has its own.

        Raises:
            UserError: it is another.
        """
        if pruner.name != "none":
            raise UserError(
                f"--method is {pruner.name}; a remote policy prunes where it runs (vlaprune-serve "
                "--method): leave it out here."
            )
        return pruner

    def start(
        self,
        instruction: str,
        seed: int,
        pruner: Pruner | None = None,
        noise_seed: int | None = None,
    ) -> RemoteMemory:
        """Begin an episode; it is connected at its first call. See `Policy.start`."""
        number = next(self._numbers)
        seeds = seed, seed if noise_seed is None else noise_seed
        return RemoteMemory(f"{number}", instruction, seeds)

    def end(self, memory: RemoteMemory) -> None:
        """End an episode, whatever became of it."""
        if memory.line is not None:
            memory.line.end(memory.episode)
            memory.line = None

    def act(
        self, memory: RemoteMemory, observation: Observation, eef_poses: np.ndarray
    ) -> ActionChunk:
        """One policy call; see `Policy.act`.

        Raises:
            RuntimeError: the server is lost, or gave no actions; the message names the call.
        """
        (answer,) = self.act_many([PolicyCall(memory, observation, eef_poses)])  # type: ignore[arg-type]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def act_many(self, calls: Sequence[PolicyCall]) -> list[ActionChunk | Exception]:
        """Calls of several episodes: all are asked before the first answer is waited for."""
        asked = [self._ask(call) for call in calls]
        return [
            one if isinstance(one, Exception) else self._take(call, one, len(calls))
            for call, one in zip(calls, asked, strict=True)
        ]

    def _ask(self, call: PolicyCall) -> float | Exception:
        """Send a call; when that was, seconds."""
        memory: Any = call.memory
        for attempt in range(ATTEMPTS):
            try:
                return self._send(memory, call)
            except UserError as error:  # no connection, which was tried often enough
                return self._failed(memory, error)
            except LOST as error:
                if attempt == ATTEMPTS - 1 or not self._again(memory, error):
                    return self._failed(memory, error)
            pause(attempt)
        raise AssertionError("the last attempt returns")

    def _send(self, memory: RemoteMemory, call: PolicyCall) -> float:
        if memory.line is None:
            memory.line = self._connect(self.dialect)
            self._begin(memory)
        look = self._look(memory, call.observation, call.eef_poses)
        frame = memory.line.side.request(look)
        started = time.perf_counter()
        memory.line.tell(frame)
        return started

    def _take(self, call: PolicyCall, started: float, together: int) -> ActionChunk | Exception:
        memory: Any = call.memory
        for attempt in range(ATTEMPTS):
            try:
                assert memory.line is not None
                answer = memory.line.side.reply(memory.line.take())
                took = 1000.0 * (time.perf_counter() - started)
                actions = checked(answer)
                memory.call += 1
                return ActionChunk(actions=actions, measures=measures(answer, took, together))
            except (*LOST, WireError) as error:
                if attempt == ATTEMPTS - 1 or not self._again(memory, error):
                    return self._failed(memory, error)
            pause(attempt)
            asked = self._ask(call)
            if isinstance(asked, Exception):
                return asked
            started = asked
        raise AssertionError("the last attempt returns")

    def _again(self, memory: RemoteMemory, error: Exception) -> bool:
        """Whether a call may be made again: nothing of it is remembered anywhere."""
        if isinstance(error, WireError):
            return error.kind == "busy"
        assert memory.line is not None
        if memory.line.side.remembers:
            return False
        memory.line.close()
        memory.line = None
        return True

    def _failed(self, memory: RemoteMemory, error: Exception) -> RuntimeError:
        if isinstance(error, WireError):
            said = error.sentence
        else:
            said = f"the server at {self.url} is lost: {error}"
        failure = RuntimeError(f"policy call {memory.call}: {said.rstrip('.')}")
        failure.__cause__ = error
        return failure.with_traceback(error.__traceback__)

    def _begin(self, memory: RemoteMemory) -> None:
        assert memory.line is not None
        about = {"name": memory.instruction, "suite": "LIBERO", "episode_idx": memory.seeds[1]}
        frame = memory.line.side.begin(about)
        if frame is not None:
            memory.line.tell(frame)

    def _look(self, memory: RemoteMemory, observation: Observation, eef_poses: np.ndarray) -> Look:
        said = memory.instruction
        return Look(memory.episode, observation, said, eef_poses, memory.seeds, memory.call + 1)


def measures(answer: Answer, took: float, together: int) -> CallMeasures:
    """The measures of a call.

    Args:
        answer: of the server; what it says of its costs is taken from a server of ours alone.
        took: milliseconds from request to reply.
        together: calls asked at once.
    """
    told = answer.measures or {}
    known: dict[str, Any] = dict.fromkeys(MEASURES) | {k: told[k] for k in told if k in MEASURES}
    ms = answer.timing.get("infer_ms")
    known |= {
        "batch_size": max(together, told.get("batch_size", 1)),
        "round_trip_ms": took,
        "server_ms": float(ms) if isinstance(ms, int | float) else None,
    }
    return CallMeasures(**known)


def _info(
    url: str,
    side: ClientSide,
    chunk: int,
    protocol: EvalProtocol,
    notes: list[str],
) -> PolicyInfo:
    """What rows say of a remote policy: what its server says, or that it does not."""
    facts = side.facts
    if not facts:
        notes = [*notes, f"the server at {url} says nothing of tokens and FLOPs: they are null"]
    elif facts["protocol"] != protocol.name:
        made = facts["protocol"]
        notes = [*notes, f"the policy served was made for {made}; {protocol.name} was evaluated"]
    name = facts.get("checkpoint", url)
    said = {"dialect": side.name} | ({"served": facts["policy"]} if facts else {})
    said |= facts.get("policy_options", {})
    return PolicyInfo(
        policy=RemotePolicy.name,
        name=name,
        checkpoint_hash=facts.get("checkpoint_hash") or _digest([url, _plain(side.metadata)]),
        trained=facts.get("trained", True),
        assets=facts.get("assets", "real"),
        device=f"remote: {facts.get('device', UNKNOWN)}",
        dtype=facts.get("dtype", UNKNOWN),
        attention=facts.get("attention", UNKNOWN),
        n_layers=facts.get("n_layers", 0),
        grids=tuple((rows, columns) for rows, columns in facts.get("grids", ())),
        chunk=chunk,
        unnorm_key=facts.get("suite", UNKNOWN),
        options=json.dumps(said, sort_keys=True),
        notes=tuple(notes),
        served=ServedMethod(
            facts.get("method", UNKNOWN),
            json.dumps(facts.get("method_options", {})),
            facts.get("keep"),
        ),
    )


def _digest(data: Any) -> str:
    """Hash of plain data, 12 hex digits."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, default=str).encode()).hexdigest()[:12]


def _plain(metadata: Any) -> Any:
    """Metadata without what changes from start to start."""
    if isinstance(metadata, dict):
        return {str(k): _plain(v) for k, v in metadata.items() if k not in ("seq", "timestamp")}
    return metadata.tolist() if isinstance(metadata, np.ndarray) else metadata
