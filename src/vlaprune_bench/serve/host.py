"""The policy as connections share it: what is known of it, and the queue of calls."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from vlaprune_bench.config import method_options
from vlaprune_bench.policies.base import PolicyCall, PolicyInfo, SwappablePolicy
from vlaprune_bench.policies.remote.dialect import ACTION, ACTION_SPACE, EXTRAS
from vlaprune_bench.policies.remote.wire import WireError
from vlaprune_bench.serve.config import ServeConfig
from vlaprune_bench.types import ActionChunk, Observation, UserError

if TYPE_CHECKING:
    from vlaprune_bench.pruning.base import Pruner

NAME = f"vlaprune-bench {version('vlaprune-bench')}"


@dataclass(frozen=True)
class Served:
    """A loaded policy with the method it is served with: what follows from both."""

    config: ServeConfig
    info: PolicyInfo
    pruner: Pruner
    """As the model runs it."""

    @property
    def has_memory(self) -> bool:
        """Whether the method remembers calls of an episode."""
        return self.pruner.start() is not None or self.pruner.keeps_cache

    @property
    def cameras(self) -> int:
        """Cameras the policy sees."""
        return len(self.info.grids)

    @property
    def execute_steps(self) -> int:
        """Actions of a chunk that are given out one by one.

        Raises:
            UserError: more are asked for than a call gives.
        """
        asked, chunk = self.config.execute_steps, self.info.chunk
        if asked is not None and asked > chunk:
            raise UserError(
                f"--execute-steps is {asked}; a call of {self.info.name} gives {chunk} "
                f"action{'s' * (chunk > 1)}: give 1 to {chunk}."
            )
        return min(
            asked or self.config.evaluation.execute_steps or self.info.action_steps or chunk, chunk
        )

    @property
    def facts(self) -> dict[str, Any]:
        """What clients are told: plain data."""
        config, info = self.config, self.info
        episodes = "connections" if config.connection_is_episode else "sessions"
        return {
            "server": NAME,
            "checkpoint": info.name,
            "checkpoint_hash": info.checkpoint_hash,
            "trained": info.trained,
            "assets": info.assets,
            "policy": info.policy,
            "policy_options": json.loads(info.options),
            "method": config.pruner.name,
            "method_options": method_options(config.pruner),
            "keep": config.pruner.keep_ratio,
            "suite": config.suite,
            "protocol": config.evaluation.name,
            "env_seed": config.evaluation.env_seed,
            "chunk": info.chunk,
            "execute_steps": self.execute_steps,
            "action_space": ACTION_SPACE,
            "action_dim": ACTION,
            "cameras": self.cameras,
            "grids": [list(grid) for grid in info.grids],
            "image_resolution": None,
            "device": info.device,
            "dtype": info.dtype,
            "attention": info.attention,
            "n_layers": info.n_layers,
            "episodes": episodes if self.has_memory else "none needed",
            "takes": list(EXTRAS),
        }


@dataclass
class Turn:
    """A call that waits for the policy."""

    instruction: str
    seeds: tuple[int, int]
    memory: Any
    """Of the episode; None: it begins with this call, which fills it in."""
    observation: Observation
    eef_poses: np.ndarray


class Host:
    """Answers calls one after the other in a thread of its own; made within a running loop.

    Args:
        policy: loaded.
        served: what it is served as.
    """

    def __init__(self, policy: SwappablePolicy, served: Served) -> None:
        self.served = served
        self.facts = served.facts
        self.answered = 0
        """Calls so far."""
        self._policy = policy
        self._waiting: asyncio.Queue[tuple[Turn, asyncio.Future[ActionChunk]]]
        self._waiting = asyncio.Queue(served.config.max_waiting)
        self._thread = ThreadPoolExecutor(1, "policy")
        self._worker = asyncio.create_task(self._work())

    async def act(self, turn: Turn) -> ActionChunk:
        """Actions for a call, when its turn has come.

        Raises:
            WireError: too many calls wait.
            Exception: what the policy raised.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[ActionChunk] = loop.create_future()
        try:
            self._waiting.put_nowait((turn, answer))
        except asyncio.QueueFull:
            limit = self.served.config.max_waiting
            raise WireError("busy", f"{limit} calls wait already: ask again later.") from None
        return await answer

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            served = [await self._waiting.get()]
            while len(served) < self.served.config.batch and not self._waiting.empty():
                served.append(self._waiting.get_nowait())
            turns = [turn for turn, _ in served]
            try:
                results = await loop.run_in_executor(self._thread, self._act, turns)
            except Exception as failure:  # noqa: BLE001 - nobody would be answered any more
                results = [failure] * len(turns)
            self.answered += len(served)
            for (_, answer), result in zip(served, results, strict=True):
                if answer.done():  # its client is gone
                    continue
                if isinstance(result, Exception):
                    answer.set_exception(result)
                else:
                    answer.set_result(result)

    def _act(self, turns: list[Turn]) -> list[ActionChunk | Exception]:
        """Runs in the policy's thread."""
        results: dict[int, ActionChunk | Exception] = {}
        for index, turn in enumerate(turns):
            try:
                if turn.memory is None:
                    method, (one, two) = self.served.config.pruner, turn.seeds
                    turn.memory = self._policy.start(turn.instruction, one, method, two)
            except Exception as failure:  # noqa: BLE001 - the answer to this call; others go on
                results[index] = failure
        left = [index for index in range(len(turns)) if index not in results]
        results |= zip(left, self._call([turns[index] for index in left]), strict=True)
        return [results[index] for index in range(len(turns))]

    def _call(self, turns: list[Turn]) -> list[ActionChunk | Exception]:
        calls = [PolicyCall(turn.memory, turn.observation, turn.eef_poses) for turn in turns]
        try:
            if len(calls) > 1:
                return self._policy.act_many(calls)
            return [self._policy.act(c.memory, c.observation, c.eef_poses) for c in calls]
        except Exception as failure:  # noqa: BLE001 - the answer to these calls; others go on
            return [failure] * len(calls)

    def close(self) -> None:
        """End the thread once its call is done."""
        self._worker.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)
