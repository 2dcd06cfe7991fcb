"""What one client says, answered: where its episodes begin and end, and what each remembers."""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from vlaprune_bench.config import digest
from vlaprune_bench.policies.remote.dialect import (
    Answer,
    Begin,
    End,
    Hello,
    Look,
    Request,
    ServerSide,
    bad,
)
from vlaprune_bench.policies.remote.wire import WireError
from vlaprune_bench.serve.host import Host, Turn
from vlaprune_bench.types import UserError

MOST_EPISODES = 16
"""Episodes a connection may have open at once; of more, the one not heard of longest is closed."""

MOST_CLOSED = 4096
"""Names of closed episodes that a connection is reminded of; then it opens no more."""


@dataclass
class Episode:
    """An episode of a client."""

    seeds: tuple[int, int]
    memory: Any = None
    instruction: str | None = None
    poses: list[np.ndarray] = field(default_factory=list)
    """(7,) each, since the call before, its own included."""
    left: list[np.ndarray] = field(default_factory=list)
    """Actions of the chunk that were not given out yet."""
    broken: str | None = None
    """Why it cannot go on."""


class Session:
    """One connection's conversation.

    Args:
        host: the policy.
        dialect: what is spoken.
    """

    def __init__(self, host: Host, dialect: ServerSide) -> None:
        self.host = host
        self.dialect = dialect
        self.episodes: OrderedDict[str, Episode] = OrderedDict()
        self.closed: set[str] = set()
        """Names of episodes closed because there were too many."""
        self._served = host.served
        self._before: float | None = None
        """Milliseconds the message before took, its sending included."""

    @property
    def playing(self) -> bool:
        """Whether an episode is open that a client would miss."""
        return any(name or self.dialect.one_by_one for name in self.episodes) or (
            bool(self.episodes) and self._served.config.connection_is_episode
        )

    async def handle(self, frame: bytes | str) -> bytes | str | None:
        """The answer to a message; an error is an answer, too."""
        request = None
        try:
            request = self.dialect.read(frame, self._served.cameras)
            return await self._answer(request)
        except WireError as error:
            if request is not None:
                error.seq = request.seq
            return self.dialect.error(error)

    def sent(self, started: float) -> None:
        """Told once an answer is on its way; `started` is when its message had come, seconds."""
        self._before = 1000.0 * (time.perf_counter() - started)

    async def _answer(self, request: Request) -> bytes | str | None:
        if isinstance(request, Look):
            return await self._look(request)
        if isinstance(request, Begin):
            self._open(request.episode, self._draws(request.about))
        elif isinstance(request, End):
            self.episodes.pop(request.episode, None)
            self.closed.discard(request.episode)
        elif not isinstance(request, Hello):
            raise TypeError(f"{type(request).__name__} is no request")
        return self.dialect.done(request, self.host.facts)

    def _draws(self, about: Any) -> tuple[int, int]:
        """Seeds of an episode whose client sends none: they follow from what it says of it."""
        seed = self._served.config.seed
        if about is None:
            return seed, seed
        try:
            drawn = int(digest([seed, about]), 16)
        except (TypeError, ValueError) as error:
            raise WireError("bad-message", f"task is no plain data: {error}.") from error
        return drawn, drawn

    def _open(self, name: str, seeds: tuple[int, int]) -> Episode:
        if len(self.closed) >= MOST_CLOSED:
            said = f"{MOST_CLOSED} sessions were left open: end each with endpoint reset."
            raise WireError("refused", said)
        self.episodes[name] = episode = Episode(seeds)
        if len(self.episodes) > MOST_EPISODES:
            self.closed.add(self.episodes.popitem(last=False)[0])
        return episode

    def _episode(self, look: Look) -> Episode:
        """The episode of an observation.

        Raises:
            WireError: nobody said which, and that matters.
        """
        config = self._served.config
        name = look.episode
        if name is None:
            if self._served.has_memory and not config.connection_is_episode:
                raise WireError(
                    "no-episode",
                    f"method {config.pruner.name} remembers the calls of an episode, and this "
                    "dialect does not say where one ends: serve it with --connection-is-episode "
                    "(one connection, one episode), or send session_id.",
                )
            name = ""
        elif name in self.closed:
            raise WireError(
                "no-episode",
                f"session {name} was closed: a connection has {MOST_EPISODES} at once.",
            )
        episode = self.episodes.get(name)
        if episode is None:
            if self.dialect.one_by_one:
                raise WireError("no-episode", "an observation came before episode_start.")
            episode = self._open(name, look.seeds or self._draws(None))
        self.episodes.move_to_end(name)
        if episode.broken:
            raise WireError("no-episode", f"this episode cannot go on: {episode.broken}.")
        return episode

    async def _look(self, look: Look) -> bytes:
        started = time.perf_counter()
        episode = self._episode(look)
        pose = np.concatenate([look.observation.eef_pos, look.observation.eef_quat])
        if self.dialect.one_by_one and episode.left:
            episode.poses.append(pose)
            answer = Answer(episode.left.pop(0))
        else:
            answer = await self._call(look, episode, pose)
        timing = {"infer_ms": 1000.0 * (time.perf_counter() - started)}
        if self._before is not None:
            timing["prev_total_ms"] = self._before
        return self.dialect.answer(look, Answer(answer.actions, timing, answer.measures))

    async def _call(self, look: Look, episode: Episode, pose: np.ndarray) -> Answer:
        """A call of the policy."""
        self._check_instruction(look, episode)
        poses = self._window(look, episode, pose)
        seeds = look.seeds or episode.seeds
        turn = Turn(look.instruction, seeds, episode.memory, look.observation, poses)
        try:
            chunk = await self.host.act(turn)
        except WireError:
            raise  # nothing was computed, nothing is remembered
        except UserError as error:
            raise WireError("refused", str(error)) from error
        except Exception as failure:
            why = " ".join(f"{type(failure).__name__}: {failure}".split())[:500]
            if self._served.has_memory:
                episode.broken = why
            raise WireError("failed", f"the policy's call failed: {why}.") from failure
        finally:
            episode.memory, episode.instruction = turn.memory, look.instruction
        episode.poses = [pose]
        measures = asdict(chunk.measures)
        if not self.dialect.one_by_one:
            return Answer(chunk.actions, measures=measures)
        first, *episode.left = chunk.actions[: self._served.execute_steps]
        return Answer(first, measures=measures)

    def _check_instruction(self, look: Look, episode: Episode) -> None:
        """See that an instruction is that of the episode, or begin anew where that is nothing.

        Raises:
            WireError: it became another one.
        """
        if episode.memory is None or look.instruction == episode.instruction:
            return
        if self._served.has_memory or look.episode is not None:
            raise WireError(
                "no-episode",
                f"the instruction became {look.instruction!r:.80} within an episode; a new one "
                "needs a new episode.",
            )
        episode.memory, episode.poses = None, []

    def _window(self, look: Look, episode: Episode, pose: np.ndarray) -> np.ndarray:
        """(steps + 1, 7) poses since the call before.

        Raises:
            WireError: the method looks at them and nobody knows them.
        """
        if look.eef_poses is not None:
            return look.eef_poses
        if self.dialect.one_by_one or not episode.poses:
            return np.array([*episode.poses, pose])
        if steps := self._served.config.replan_steps:
            return straight(episode.poses[-1], pose, steps)
        if self._served.pruner.reads_motion:
            raise bad(
                f"{self.dialect.extras}eef_poses is missing; method "
                f"{self._served.pruner.name} looks at the hand's motion: send the poses of every "
                "step since the call before, (steps + 1, 7), or serve with --replan-steps."
            )
        return np.array([episode.poses[-1], pose])


def straight(one: np.ndarray, two: np.ndarray, steps: int) -> np.ndarray:
    """(steps + 1, 7) poses of a straight and even motion: metres, then quaternion xyzw."""
    if np.dot(one[3:], two[3:]) < 0:
        two = np.concatenate([two[:3], -two[3:]])  # the same orientation, the shorter way
    share = np.linspace(0.0, 1.0, steps + 1)[:, None]
    poses = one + share * (two - one)
    poses[:, 3:] /= np.linalg.norm(poses[:, 3:], axis=1, keepdims=True)
    return poses
