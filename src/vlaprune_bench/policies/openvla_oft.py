"""OpenVLA-OFT with its L1 head: two cameras and proprio in, a chunk of 8 actions out in one pass.

The sequence is BOS, the patches of each camera, one proprio token, the rest of the prompt, 56 zero
placeholders (8 actions x 7 dimensions), stop; every token sees every token. The state one position
BEFORE a placeholder predicts it, as in the code that trained the published checkpoints
(arXiv 2502.19645).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlaprune_bench.measure.flops import count_flops, llm_prefill_macs
from vlaprune_bench.measure.latency import StageTimer
from vlaprune_bench.policies.base import Memory, PolicyInfo
from vlaprune_bench.policies.checkpoint import Checkpoint, on_meta
from vlaprune_bench.policies.device import (
    check_attention,
    choose_device,
    choose_dtype,
    describe,
)
from vlaprune_bench.policies.normalize import Bounds, robot_state, to_gripper_command
from vlaprune_bench.policies.preprocess import pixel_values, prepare_frames
from vlaprune_bench.policies.prismatic.decoder import CallDecoder, Prefill
from vlaprune_bench.policies.prismatic.heads import L1Head, ProprioProjector
from vlaprune_bench.policies.prismatic.model import Prismatic, unused_tensors
from vlaprune_bench.pruning.base import PruneContext, Pruner
from vlaprune_bench.types import (
    CAMERAS,
    ActionChunk,
    CallMeasures,
    Observation,
    Protocol,
    TokenLayout,
)

CHUNK = 8
"""Actions per call of every published LIBERO checkpoint; no file of a checkpoint says so."""
PROMPT = "In: What action should the robot take to {}?\nOut:"
SUFFIX_TOKEN = 29871
"""Llama 2's token of a lone space, which prompts end with in training."""
STOP_TOKEN = 2
"""Llama 2's `</s>`."""


@dataclass
class Forward:
    """What one pass through the networks gave."""

    patches_BVD: Tensor
    prefill: Prefill
    action_hidden_BAD: Tensor
    """(1, CHUNK x 7, width): the states the head reads."""
    actions: np.ndarray
    """(CHUNK, 7) float64, normalised."""
    scoring_macs: int


class OpenVLAOFT:
    """A `Policy` (see policies.base); `load_policy` makes one."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        pruner: Pruner,
        *,
        suite: str,
        device: str,
        dtype: str,
        attention: str,
        protocol: Protocol,
        count_every: int,
    ) -> None:
        """Load the networks onto the device. Arguments and errors: see `load_policy`."""
        self.checkpoint = checkpoint
        self.pruner = pruner
        self.protocol = protocol
        self.count_every = count_every
        self.device = choose_device(device)
        self.dtype = choose_dtype(dtype, self.device)
        config = checkpoint.config
        unnorm_key, statistics = checkpoint.suite_statistics(suite)
        self.action_bounds = Bounds.read(statistics, unnorm_key, "action")
        self.proprio_bounds = Bounds.read(statistics, unnorm_key, "proprio")

        with on_meta():
            prismatic = Prismatic(config, check_attention(attention))
            width = prismatic.language_model.width
            proprio_projector = ProprioProjector(len(self.proprio_bounds.low), width)
            head = L1Head(width, len(self.action_bounds.low))
        pruner.check(prismatic.language_model.n_layers)
        place = (self.device, self.dtype)
        self.prismatic = checkpoint.load_model(prismatic, unused_tensors(config), *place)
        self.proprio_projector = checkpoint.load_part(
            proprio_projector, "proprio_projector", *place
        )
        self.head = checkpoint.load_part(head, "action_head", *place)

        self._stop_1 = torch.tensor(
            [config.get("text_config", {}).get("eos_token_id", STOP_TOKEN)], device=self.device
        )
        own = config.get("vlaprune", {})
        self.info = PolicyInfo(
            name=own.get("name", checkpoint.source),
            checkpoint_hash=checkpoint.hash,
            trained=own.get("trained", True),
            assets=own.get("assets", "real"),
            device=describe(self.device),
            dtype=str(self.dtype).removeprefix("torch."),
            attention=attention,
            n_layers=prismatic.language_model.n_layers,
            grids=(prismatic.vision_backbone.grid,) * len(CAMERAS),
            chunk=CHUNK,
            unnorm_key=unnorm_key,
        )

    def start(self, instruction: str, seed: int) -> Memory:
        """Begin an episode: tokenise the instruction and give the method fresh memory.

        Raises:
            UserError: the checkpoint has no tokenizer.json.
        """
        prompt = PROMPT.format(instruction.lower())
        return self.start_with_tokens(self.checkpoint.tokenizer.encode(prompt).ids, seed)

    def start_with_tokens(self, prompt: list[int], seed: int) -> Memory:
        """Begin an episode whose prompt is tokenised already (BOS first)."""
        suffix = self.checkpoint.config.get("prompt_suffix_token_id", SUFFIX_TOKEN)
        if prompt[-1] != suffix:
            prompt = [*prompt, suffix]
        layout = TokenLayout(
            grids=self.info.grids,
            n_prompt=len(prompt),
            has_proprio=True,
            n_actions=CHUNK * self.head.action_dim,
            has_stop=True,
        )
        ids_T = torch.tensor(prompt, device=self.device)
        return Memory(ids_T, layout, seed, self.pruner.start())

    @torch.inference_mode()
    def act(self, memory: Memory, observation: Observation, eef_poses: np.ndarray) -> ActionChunk:
        """One policy call; see `Policy.act`.

        A sampled call (`count_every`) is repeated under torch's FLOP counter after it was timed,
        on a copy of the method's memory: its latency and its effect are those of any other call.
        """
        if observation.images is None or len(observation.images) != len(self.info.grids):
            raise ValueError(f"the policy needs the images of {len(self.info.grids)} cameras")
        sampled = self.count_every > 0 and memory.call % self.count_every == 0
        untouched = copy.deepcopy(memory.pruner) if sampled else None

        timer = StageTimer(self.device)
        size = self.prismatic.vision_backbone.image_size
        frames = prepare_frames(observation.images, self.protocol, size, self.device)
        pixels = pixel_values(frames, self.dtype)
        proprio = self.proprio_bounds.normalize(robot_state(observation))
        result = self.forward(memory, memory.pruner, pixels, proprio, eef_poses, timer)
        actions = to_gripper_command(self.action_bounds.unnormalize(result.actions))
        timer.stop()
        if not np.isfinite(actions).all():
            raise RuntimeError(f"policy call {memory.call} gave actions that are not finite")

        counted = None
        if sampled:
            with count_flops() as counter:
                self.forward(memory, untouched, pixels, proprio, eef_poses, StageTimer(self.device))
            counted = counter.get_total_flops()
        memory.call += 1
        return ActionChunk(
            actions=actions, measures=self._measures(memory.layout, result, timer, counted)
        )

    def forward(
        self,
        memory: Memory,
        pruner_memory: Any,
        pixels_1CHW: Tensor,
        proprio: np.ndarray,
        eef_poses: np.ndarray,
        timer: StageTimer,
    ) -> Forward:
        """One pass through the networks, tokens leaving where the method says.

        Args:
            memory: of the episode; not changed.
            pruner_memory: the method's memory; changed by it.
            pixels_1CHW: as `pixel_values` gives them.
            proprio: (8,) normalised robot state.
            eef_poses: see `act`.
            timer: told about the stages. Embeddings and proprio count as "vision".
        """
        timer.enter("vision")
        layout, language_model = memory.layout, self.prismatic.language_model
        patches_BVD = self.prismatic.patches(pixels_1CHW)
        sequence_BLD = self._sequence(memory.prompt_T, patches_BVD, proprio)
        decoder = CallDecoder(language_model, sequence_BLD, layout)

        def select(layer: int) -> Tensor | None:
            timer.enter("scoring")
            context = PruneContext(
                layout=layout,
                layer=layer,
                call=memory.call,
                seed=memory.call_seed(),
                eef_poses=eef_poses,
                patches=patches_BVD[0],
                decoder=decoder,
            )
            kept_V = self.pruner.select(context, pruner_memory)
            timer.enter("prefill")
            return kept_V

        timer.enter("prefill")
        prefill = language_model.prefill(
            sequence_BLD, layout, select, self.pruner.layers, self.pruner.renumber_positions
        )
        timer.enter("head")
        # only patches leave, and they stand before the actions
        gone = layout.length - prefill.hidden_BND.shape[1]
        first, last = layout.actions.start - gone, layout.actions.stop - gone
        action_hidden_BAD = prefill.hidden_BND[:, first - 1 : last - 1]
        actions = self.head(action_hidden_BAD)[0].double().cpu().numpy()
        return Forward(patches_BVD, prefill, action_hidden_BAD, actions, decoder.macs)

    def _sequence(self, prompt_T: Tensor, patches_BVD: Tensor, proprio: np.ndarray) -> Tensor:
        """Input embeddings of the full sequence, (1, L, width), in the order of TokenLayout."""
        text_TD = self.prismatic.language_model.embed(torch.cat([prompt_T, self._stop_1]))
        state_P = torch.as_tensor(proprio, dtype=self.dtype, device=self.device)
        parts = [
            text_TD[:1],
            patches_BVD[0],
            self.proprio_projector(state_P)[None],
            text_TD[1:-1],
            text_TD.new_zeros(CHUNK * self.head.action_dim, text_TD.shape[-1]),
            text_TD[-1:],
        ]
        return torch.cat(parts)[None]

    def _measures(
        self, layout: TokenLayout, result: Forward, timer: StageTimer, counted: int | None
    ) -> CallMeasures:
        prefill = result.prefill
        kept = list(range(layout.n_visual))
        if prefill.kept_V is not None:
            kept = prefill.kept_V.tolist()
        pruned = len(kept) < layout.n_visual
        prefill_macs = llm_prefill_macs(
            prefill.tokens_per_layer, self.prismatic.language_model.shape
        )
        macs = (
            self.prismatic.patch_macs(len(layout.grids))
            + self.proprio_projector.macs()
            + result.scoring_macs
            + prefill_macs
            + self.head.macs(CHUNK)
        )
        return CallMeasures(
            pruned=pruned,
            visual_tokens=layout.n_visual,
            visual_tokens_kept=len(kept),
            kept_per_camera=layout.per_camera(kept),
            tokens_per_layer=prefill.tokens_per_layer,
            kept_visual=kept if pruned else None,
            llm_prefill_macs=prefill_macs,
            total_flops=2 * macs,
            scoring_flops=2 * result.scoring_macs,
            counted_flops=counted,
            latency_total_ms=timer.total_ms,
            **{f"latency_{stage}_ms": ms for stage, ms in timer.ms.items()},
        )
