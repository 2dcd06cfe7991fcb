"""What OpenVLA and OpenVLA-OFT share: loading, one call through the networks, its measures."""

from __future__ import annotations

import copy
import json
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
from vlaprune_bench.policies.call_data import Acted, Forward, Inputs, Prediction
from vlaprune_bench.policies.checkpoint import Checkpoint, on_meta
from vlaprune_bench.policies.device import (
    check_attention,
    choose_device,
    choose_dtype,
    describe,
)
from vlaprune_bench.policies.measures import call_measures
from vlaprune_bench.policies.normalize import Bounds, to_gripper_command
from vlaprune_bench.policies.preprocess import pixel_values, prepare_frames
from vlaprune_bench.policies.prismatic.graphs import Graphs
from vlaprune_bench.policies.prismatic.model import Prismatic, unused_tensors
from vlaprune_bench.policies.prismatic.prefill import Prefill
from vlaprune_bench.policies.prismatic.requests import Patches, Work, alone, compute, together
from vlaprune_bench.policies.prismatic.scoring import CallDecoder
from vlaprune_bench.policies.settings import SUFFIX_TOKEN
from vlaprune_bench.pruning.base import PruneContext, Pruner, Selection
from vlaprune_bench.pruning.decoder import ModelShape
from vlaprune_bench.types import ActionChunk, EvalProtocol, Observation, TokenLayout, UserError

PROMPT = "In: What action should the robot take to {}?\nOut:"


class PrismaticVLA(ABC):
    """A `Policy` (see policies.base) on a Prismatic model; `load_policy` makes one."""

    name: ClassVar[str]
    cameras: int
    """How many it sees, the first of LIBERO's; of the class: unless said otherwise."""
    most_cameras: ClassVar[int]
    chunk: ClassVar[int]
    """Actions per call."""
    causal: ClassVar[bool]
    """Whether a token sees only those before it, or all."""
    epsilon: ClassVar[float]
    """Added to the range of actions and proprio when scaling."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        pruner: Pruner,
        *,
        suite: str,
        device: str,
        dtype: str,
        attention: str,
        protocol: EvalProtocol,
        count_every: int,
        logits: bool,
        cameras: int | None = None,
        unnorm_key: str | None = None,
        notes: tuple[str, ...] = (),
    ) -> None:
        """Load the networks onto the device. Arguments and errors: see `load_policy`.

        `logits` says whether the language model's token logits are needed; `notes` become
        `PolicyInfo.notes`.
        """
        self.checkpoint = checkpoint
        self.protocol = protocol
        self.count_every = count_every
        self.device = choose_device(device)
        self.dtype = choose_dtype(dtype, self.device)
        config = checkpoint.config
        options = self._choose_cameras(cameras)
        key, self.statistics = checkpoint.suite_statistics(suite, unnorm_key)
        if unnorm_key not in (None, suite, f"{suite}_no_noops"):
            options["unnorm_key"] = key
        self._read_statistics(key)

        check_attention(attention)
        with checkpoint.describing(), on_meta():
            self.prismatic = Prismatic(config, attention, causal=self.causal, logits=logits)
        self.normalization = checkpoint.normalization(self.prismatic.vision_backbone.image_size)
        self.pruner = pruner  # refused before anything is read
        checkpoint.load_model(
            self.prismatic, unused_tensors(config, logits), self.device, self.dtype
        )
        self.graphs: Graphs | None = None
        """Where set, calls made alone replay CUDA graphs."""
        own = config.get("vlaprune", {})
        name = own.get("name", checkpoint.source)
        if options:  # rows of other inputs are never compared as the same model's
            name += f" ({', '.join(f'{key} {value}' for key, value in options.items())})"
        self.info = PolicyInfo(
            policy=self.name,
            name=name,
            checkpoint_hash=checkpoint.hash,
            trained=own.get("trained", True),
            assets=own.get("assets", "real"),
            device=describe(self.device),
            dtype=str(self.dtype).removeprefix("torch."),
            attention=attention,
            n_layers=self.prismatic.language_model.n_layers,
            grids=(self.prismatic.vision_backbone.grid,) * self.cameras,
            chunk=self.chunk,
            unnorm_key=key,
            options=json.dumps(options, sort_keys=True),
            notes=notes,
        )

    def _read_statistics(self, key: str) -> None:
        """Take from the dataset's statistics what scales inputs and actions.

        Raises:
            UserError: it is not there, or of the wrong kind.
        """
        self.action_bounds = Bounds.read(self.statistics, key, "action", self.epsilon)

    def _choose_cameras(self, cameras: int | None) -> dict[str, Any]:
        """Set how many cameras are seen.

        Returns:
            {"cameras": how many}, where that is not what is usual; else nothing.

        Raises:
            UserError: more than the policy takes, or not what config.json says.
        """
        usual = type(self).cameras
        said = self.checkpoint.config.get("num_images_in_input")
        if said is not None and cameras not in (None, said):
            raise UserError(
                f"--cameras is {cameras}; num_images_in_input in config.json is {said}."
            )
        flag = "--cameras" if said is None else "num_images_in_input in config.json"
        self.cameras = said or cameras or usual
        if self.cameras not in range(1, self.most_cameras + 1):
            raise UserError(
                f"{flag} is {self.cameras}; {self.name} on LIBERO takes "
                f"{' or '.join(map(str, range(1, self.most_cameras + 1)))}."
            )
        return {} if self.cameras == usual or said else {"cameras": self.cameras}

    @property
    def pruner(self) -> Pruner:
        """The method of episodes that name none, fitted to this model.

        Raises:
            UserError: on assignment, of one that does not fit.
        """
        return self._pruner

    @pruner.setter
    def pruner(self, pruner: Pruner) -> None:
        self._pruner = self.resolve(pruner)

    def resolve(self, pruner: Pruner) -> Pruner:
        """A method as this model runs it; see `SwappablePolicy`."""
        grids = (self.prismatic.vision_backbone.grid,) * self.cameras
        return pruner.resolve(ModelShape(self.prismatic.language_model.n_layers, grids))

    @property
    def action_dim(self) -> int:
        return len(self.action_bounds.low)

    @abstractmethod
    def _layout(self, n_prompt: int) -> TokenLayout:
        """The prefill's sequence for a prompt of that many tokens."""

    @abstractmethod
    def _sequence(self, prompt_TD: Tensor, patches_VD: Tensor, proprio_P: Tensor | None) -> Tensor:
        """Input embeddings of the full sequence, (1, L, width), in the order of TokenLayout."""

    @abstractmethod
    def _predict(
        self, decoder: CallDecoder, prefill: Prefill, layout: TokenLayout, timer: StageTimer
    ) -> Work[Prediction]:
        """From the prefill's states to actions; enters the stages "decode" and "head"."""

    def _proprio(self, observation: Observation) -> np.ndarray | None:
        """The normalised robot state, where the policy takes one."""
        return None

    def _input_macs(self) -> int:
        """MAC of what makes the sequence, beside vision towers and projector."""
        return 0

    def start(self, instruction: str, seed: int, pruner: Pruner | None = None) -> Memory:
        """Begin an episode: tokenise the instruction and give the method fresh memory.

        Arguments: see `Policy.start`.

        Raises:
            UserError: the checkpoint has no tokenizer.json.
        """
        prompt = PROMPT.format(instruction.lower())
        return self.start_with_tokens(self.checkpoint.tokenizer.encode(prompt).ids, seed, pruner)

    def start_with_tokens(
        self, prompt: list[int], seed: int, pruner: Pruner | None = None
    ) -> Memory:
        """Begin an episode whose prompt is tokenised already (BOS first)."""
        suffix = self.checkpoint.config.get("prompt_suffix_token_id", SUFFIX_TOKEN)
        if prompt[-1] != suffix:
            prompt = [*prompt, suffix]
        ids_T = torch.tensor(prompt, device=self.device)
        layout = self._layout(len(prompt))
        method = self.pruner if pruner is None else self.resolve(pruner)
        return Memory(ids_T, layout, seed, method, method.start())

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
        memory, observation = call.memory, call.observation
        if observation.images is None or len(observation.images) < self.cameras:
            raise ValueError(f"the policy needs the images of {self.cameras} cameras")
        size = self.prismatic.vision_backbone.image_size
        images = observation.images[: self.cameras]
        frames = prepare_frames(images, self.protocol, size, self.device)
        pixels = pixel_values(frames, self.dtype, self.normalization.means, self.normalization.stds)
        inputs = Inputs(frames, pixels, self._proprio(observation))
        result = yield from self._forward(memory, memory.pruner, inputs, call.eef_poses, timer)
        timer.enter("head")
        actions = to_gripper_command(self.action_bounds.unnormalize(result.prediction.actions))
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
        decoder, prediction = acted.forward.decoder, acted.forward.prediction
        memory.call += 1
        if memory.method.keeps_cache:
            memory.cache = decoder.cache.cut(memory.layout.length)
        around_macs = (
            self.prismatic.patch_macs(self.cameras) + self._input_macs() + prediction.head_macs
        )
        measures = call_measures(
            memory.layout,
            decoder,
            acted.forward.prefill,
            around_macs,
            timer,
            counted_flops,
            batch_size,
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
        layout, language_model, pruner = memory.layout, self.prismatic.language_model, memory.method
        proprio_P = None
        if inputs.proprio is not None:
            # before the towers: a copy to a GPU waits for the work launched before it
            proprio_P = torch.as_tensor(inputs.proprio, dtype=self.dtype, device=self.device)
        patches_BVD = yield Patches(self.prismatic, inputs.pixels_1CHW)
        prompt_TD = language_model.embed(memory.prompt_T)
        sequence_BLD = self._sequence(prompt_TD, patches_BVD[0], proprio_P)
        decoder = CallDecoder(
            language_model,
            sequence_BLD,
            layout,
            tapped_layers=pruner.tapped_layers,
            previous=memory.cache,
        )
        seed = memory.call_seed()

        def context(layer: int) -> PruneContext:
            return PruneContext(
                layout=layout,
                layer=layer,
                call=memory.call,
                seed=seed,
                eef_poses=eef_poses,
                patches=patches_BVD[0],
                prompt=prompt_TD,
                frames=inputs.frames_NCHW,
                causal=self.causal,
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
        prediction = yield from self._predict(decoder, prefill, layout, timer)
        timer.enter("scoring")
        pruner.finish(context(decoder.n_layers), pruner_memory)
        return Forward(patches_BVD, prefill, prediction, decoder)
