"""What all our policies share: an episode's memory, one call through the networks, its measures.

A call is: inputs from an observation; the prefix, a sequence of embeddings with its layout; the
prefill, in which tokens leave; actions predicted from what is left. A family says what each is.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from vlaprune_bench.measure.flops import count_flops
from vlaprune_bench.measure.latency import StageTimer
from vlaprune_bench.policies.base import Memory, PolicyCall, PolicyInfo
from vlaprune_bench.policies.call_data import Acted, Forward, Inputs, Prediction, Prefix
from vlaprune_bench.policies.checkpoint import Checkpoint
from vlaprune_bench.policies.device import choose_device, choose_dtype
from vlaprune_bench.policies.measures import call_measures
from vlaprune_bench.policies.transformer.graphs import Graphs
from vlaprune_bench.policies.transformer.prefill import Prefill
from vlaprune_bench.policies.transformer.requests import (
    Patches,
    TwoStageEncoder,
    Work,
    alone,
    compute,
    together,
)
from vlaprune_bench.policies.transformer.scoring import CallDecoder
from vlaprune_bench.policies.transformer.stack import Stack
from vlaprune_bench.pruning.base import PruneContext, Pruner, Selection, Vision
from vlaprune_bench.pruning.decoder import ModelShape
from vlaprune_bench.types import ActionChunk, EvalProtocol, Observation, TokenLayout, UserError


class VLA(ABC):
    """A `Policy` (see policies.base); `load_policy` makes one."""

    name: ClassVar[str]
    info: PolicyInfo
    stack: Stack
    """The language model: what tokens leave."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        device: str,
        dtype: str,
        protocol: EvalProtocol,
        count_every: int,
    ) -> None:
        """Arguments and errors: see `load_policy`."""
        self.checkpoint = checkpoint
        self.protocol = protocol
        self.count_every = count_every
        self.device = choose_device(device)
        self.dtype = choose_dtype(dtype, self.device)
        self.graphs: Graphs | None = None
        """Where set, calls made alone replay CUDA graphs."""

    @classmethod
    @abstractmethod
    def reads(cls, checkpoint: Checkpoint) -> bool:
        """Whether the checkpoint's files say that it is one of this policy.

        Raises:
            UserError: they say it is one of a kind that the family does not support.
        """

    @classmethod
    def read_options(
        cls, options: Sequence[str], cameras: int | None, unnorm_key: str | None
    ) -> dict[str, Any]:
        """What a user may choose of the policy, as its constructor takes it: by default nothing.

        Args:
            options: each "key=value".
            cameras: see `load_policy`.
            unnorm_key: see `load_policy`.

        Raises:
            UserError: there is no such option, or a value is none of its.
        """
        if options:
            raise UserError(f"--policy-options has {options[0]}; {cls.name} has no options.")
        for flag, value in (("cameras", cameras), ("unnorm-key", unnorm_key)):
            if value is not None:
                raise UserError(f"--{flag} is {value}; a {cls.name} checkpoint says so itself.")
        return {}

    @abstractmethod
    def start(
        self,
        instruction: str,
        seed: int,
        pruner: Pruner | None = None,
        noise_seed: int | None = None,
    ) -> Memory:
        """Begin an episode; see `Policy.start`.

        Raises:
            UserError: the checkpoint has no tokenizer.
        """

    def end(self, memory: Memory) -> None:  # noqa: B027 - nothing to do, for most
        """End an episode: what it remembers is in its memory alone."""

    @abstractmethod
    def _grids(self) -> tuple[tuple[int, int], ...]:
        """(rows, columns) of visual tokens, one entry a camera."""

    def _action_layers(self) -> tuple[int, ...] | None:
        """Decoder layers that action tokens attend at; None: all."""
        return None

    def _encoder(self) -> TwoStageEncoder | None:
        """Vision towers and projector, for `_patches`; None: the policy goes another way."""
        return None

    @abstractmethod
    def _inputs(self, memory: Memory, observation: Observation) -> Inputs:
        """What a call feeds to the networks."""

    @abstractmethod
    def _prefix(self, memory: Memory, inputs: Inputs) -> Work[Prefix]:
        """The sequence before anything left it."""

    @abstractmethod
    def _predict(
        self, decoder: CallDecoder, prefill: Prefill, inputs: Inputs, timer: StageTimer
    ) -> Work[Prediction]:
        """From the prefill to actions; enters the stages "decode" or "denoise", and "head"."""

    @abstractmethod
    def _actions(self, normalised: np.ndarray) -> np.ndarray:
        """(chunk, 7) float64, ready for the environment, of the model's own."""

    @abstractmethod
    def _around_macs(self, inputs: Inputs) -> int:
        """MAC of what makes the prefix."""

    def _patches(
        self, memory: Memory, inputs: Inputs, layout: TokenLayout
    ) -> Work[tuple[Tensor, int]]:
        """Projected patch embeddings, (1, V, width), masked cameras' included, and how many of the
        towers' outputs are an earlier call's."""
        encoder, pixels_1CHW = self._encoder(), inputs.pixels_1CHW
        assert encoder is not None
        if not memory.method.fuses:
            patches_1VD = yield Patches(encoder, pixels_1CHW)
            return patches_1VD, 0
        cameras, widths = len(layout.grids), encoder.tower_widths
        features_1PC = yield Patches(encoder, pixels_1CHW, "features")
        pixels_NtCHW = pixels_1CHW[0].unflatten(0, (-1, len(widths), 3))
        features_NPC = features_1PC[0].unflatten(0, (len(pixels_NtCHW), -1))
        vision = Vision(
            layout,
            pixels_NtCHW[:cameras].unbind(1),
            features_NPC[:cameras].split(widths, dim=-1),
        )
        fused, count = memory.method.fuse(vision, memory.pruner)
        features_NPC = torch.cat([torch.cat(list(fused), dim=-1), features_NPC[cameras:]])
        patches_1VD = yield Patches(encoder, features_NPC.flatten(0, 1)[None], "project")
        return patches_1VD, count

    def _decoder(self, prefix: Prefix, **options: Any) -> CallDecoder:
        """The language model as this call runs through it."""
        return CallDecoder(self.stack, prefix.sequence_BLD, prefix.layout, **options)

    @property
    def pruner(self) -> Pruner:
        """The method of episodes that name none, as this model runs it.

        Raises:
            UserError: on assignment, of one that does not fit.
        """
        return self._pruner

    @pruner.setter
    def pruner(self, pruner: Pruner) -> None:
        self._pruner = self.resolve(pruner)

    def resolve(self, pruner: Pruner) -> Pruner:
        """A method as this model runs it; see `SwappablePolicy`."""
        return pruner.resolve(
            ModelShape(
                self.stack.n_layers,
                self._grids(),
                self._action_layers(),
                shows_features=self._encoder() is not None,
            )
        )

    def _method(self, pruner: Pruner | None) -> Pruner:
        """The method of an episode that names this one, or none."""
        return self.pruner if pruner is None else self.resolve(pruner)

    def act(self, memory: Memory, observation: Observation, eef_poses: np.ndarray) -> ActionChunk:
        """One policy call; see `Policy.act`.

        A sampled call (`count_every`) is repeated under torch's FLOP counter after it was timed,
        on a copy of the method's memory: its latency and its effect are those of any other call.
        """
        (answer,) = self.act_many([PolicyCall(memory, observation, eef_poses)])
        if isinstance(answer, Exception):
            raise answer
        return answer

    @torch.inference_mode()
    def act_many(self, calls: Sequence[PolicyCall]) -> list[ActionChunk | Exception]:
        """Calls of several episodes; see `Policy.act_many`.

        Sampled calls are repeated one by one, after all were timed.
        """
        if len({id(call.memory) for call in calls}) < len(calls):
            raise ValueError("two calls of one episode cannot be made at once")
        before = [self._copy_if_sampled(call.memory) for call in calls]
        timer = StageTimer(self.device)
        # one call enters its stages itself; of several, whoever goes on may find another's
        enter = timer.enter if len(calls) > 1 else lambda _: None
        run = compute
        # a graph's results do not outlive the call
        if self.graphs is not None and len(calls) == 1 and not calls[0].memory.method.keeps_cache:
            run = self.graphs.run
        results, batch_size = together([self._acting(call, timer) for call in calls], enter, run)
        timer.stop()
        answers: list[ActionChunk | Exception] = []
        for call, copied, acted in zip(calls, before, results, strict=True):
            if isinstance(acted, Exception):
                answers.append(acted)
                continue
            try:
                counted = self._count(copied, acted.inputs, call.eef_poses) if copied else None
            except Exception as error:  # noqa: BLE001 - the answer to this call; the others go on
                answers.append(error)
                continue
            answers.append(self._finish(call.memory, acted, timer, counted, batch_size))
        return answers

    def _acting(self, call: PolicyCall, timer: StageTimer) -> Work[Acted]:
        """From an observation to actions.

        Raises:
            RuntimeError: they are not finite.
        """
        memory = call.memory
        inputs = self._inputs(memory, call.observation)
        result = yield from self._forward(memory, memory.pruner, inputs, call.eef_poses, timer)
        timer.enter("head")
        actions = self._actions(result.prediction.actions)
        if not np.isfinite(actions).all():
            raise RuntimeError(f"policy call {memory.call} gave actions that are not finite")
        return Acted(inputs, result, actions)

    def _copy_if_sampled(self, memory: Memory) -> Memory | None:
        """The memory with a copy of the method's own, where the call is to be counted."""
        if self.count_every == 0 or memory.call % self.count_every:
            return None
        return replace(memory, pruner=copy.deepcopy(memory.pruner))

    def _count(self, memory: Memory, inputs: Inputs, eef_poses: np.ndarray) -> int:
        """FLOP of a call by torch's counter."""
        with count_flops() as counter:
            self.forward(memory, memory.pruner, inputs, eef_poses, StageTimer(self.device))
        return counter.get_total_flops()

    def _finish(
        self,
        memory: Memory,
        acted: Acted,
        timer: StageTimer,
        counted_flops: int | None,
        batch_size: int,
    ) -> ActionChunk:
        """Remember the call, and say what it cost."""
        forward = acted.forward
        memory.call += 1
        if memory.method.keeps_cache:
            memory.cache = forward.decoder.cache.cut(forward.prefix.layout.length)
        around_macs = self._around_macs(acted.inputs) + forward.prediction.macs
        measures = call_measures(
            forward, acted.inputs, around_macs, timer, counted_flops, batch_size
        )
        return ActionChunk(actions=acted.actions, measures=measures)

    def forward(
        self,
        memory: Memory,
        pruner_memory: Any,
        inputs: Inputs,
        eef_poses: np.ndarray,
        timer: StageTimer,
    ) -> Forward:
        """One pass through the networks, tokens leaving where the method says.

        Args:
            memory: of the episode; not changed.
            pruner_memory: the method's memory; changed by it.
            inputs: frames and state.
            eef_poses: see `act`.
            timer: told about the stages. Embeddings and proprio count as "vision".
        """
        return alone(self._forward(memory, pruner_memory, inputs, eef_poses, timer))

    def _forward(
        self,
        memory: Memory,
        pruner_memory: Any,
        inputs: Inputs,
        eef_poses: np.ndarray,
        timer: StageTimer,
    ) -> Work[Forward]:
        """See `forward`."""
        timer.enter("vision")
        pruner = memory.method
        prefix = yield from self._prefix(replace(memory, pruner=pruner_memory), inputs)
        decoder = self._decoder(prefix, tapped_layers=pruner.tapped_layers, previous=memory.cache)

        seed = memory.call_seed()

        def context(layer: int) -> PruneContext:
            return PruneContext(
                layout=prefix.layout,
                layer=layer,
                call=memory.call,
                seed=seed,
                eef_poses=eef_poses,
                patches=prefix.patches_VD,
                prompt=prefix.prompt_TD,
                frames=inputs.frames_NCHW,
                causal=self.stack.causal,
                decoder=decoder,
                alive=decoder.kept_V,
            )

        def select(layer: int) -> Selection | None:
            timer.enter("scoring")
            chosen = pruner.select(context(layer), pruner_memory)
            if not isinstance(chosen, Selection | None):
                asked, got = type(pruner).__name__, type(chosen).__name__
                raise TypeError(f"{asked}.select gives a {got}, not a Selection or None")
            timer.enter("prefill")
            return chosen

        timer.enter("prefill")
        prefill = yield from decoder.prefilling(select, pruner.layers, pruner.renumber_positions)
        prediction = yield from self._predict(decoder, prefill, inputs, timer)
        timer.enter("scoring")
        pruner.finish(context(decoder.n_layers), pruner_memory)
        return Forward(prefix, prefill, prediction, decoder)
