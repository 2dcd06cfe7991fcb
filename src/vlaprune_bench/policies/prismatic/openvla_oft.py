"""OpenVLA-OFT: one or two cameras in, a chunk of 8 actions out in one pass.

The sequence is BOS, the patches of each camera, one proprio token, the rest of the prompt, 56 zero
placeholders (8 actions x 7 dimensions), stop; every token sees every token. The state one position
BEFORE a placeholder predicts it, as in the code that trained the published checkpoints
(arXiv 2502.19645). Published LIBERO checkpoints have the L1 head, two cameras and proprio; without
an action head each placeholder is a token, decoded in parallel, and without a proprio_projector
there is no proprio token. How many cameras it was trained with no file says.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlaprune_bench.measure.latency import StageTimer
from vlaprune_bench.policies.call_data import Inputs, Prediction
from vlaprune_bench.policies.checkpoint import Checkpoint, on_meta
from vlaprune_bench.policies.normalize import EPSILON, Bounds, robot_state
from vlaprune_bench.policies.prismatic.heads import ActionTokens, L1Head, ProprioProjector
from vlaprune_bench.policies.prismatic.policy import PrismaticVLA
from vlaprune_bench.policies.transformer.prefill import Prefill
from vlaprune_bench.policies.transformer.requests import Work
from vlaprune_bench.policies.transformer.scoring import CallDecoder
from vlaprune_bench.pruning.base import Pruner
from vlaprune_bench.types import Observation, TokenLayout, UserError

STOP_TOKEN = 2
"""Llama 2's `</s>`."""
NO_PROPRIO = "{} has no proprio_projector, so it ran without the robot's state"


class OpenVLAOFT(PrismaticVLA):
    """OpenVLA-OFT with the L1 head, or with parallel token decoding where the file is absent."""

    name = "openvla-oft"
    cameras = most_cameras = 2
    chunk = 8  # of every published LIBERO checkpoint; no file of a checkpoint says so
    sees = "all"
    epsilon = EPSILON

    def __init__(self, checkpoint: Checkpoint, pruner: Pruner, **options: Any) -> None:
        """Load the networks onto the device. Arguments and errors: see `load_policy`."""
        has_head = checkpoint.has_part("action_head")
        has_proprio = checkpoint.has_part("proprio_projector")
        steps = {checkpoint.part_step(stem) for stem in ("action_head", "proprio_projector")}
        if has_head and has_proprio and len(steps - {None}) > 1:
            raise UserError(
                f"checkpoint {checkpoint.source}: action_head and proprio_projector are of "
                f"different steps ({' and '.join(sorted(filter(None, steps)))}); they belong "
                "together."
            )
        notes = () if has_proprio else (NO_PROPRIO.format(checkpoint.source),)
        super().__init__(checkpoint, pruner, **options, logits=not has_head, notes=notes)
        width, place = self.prismatic.language_model.width, (self.device, self.dtype)
        self.head: L1Head | ActionTokens = ActionTokens.read(checkpoint.config)
        if has_head:
            with on_meta():
                head = L1Head(width, self.action_dim)
            self.head = checkpoint.load_part(head, "action_head", *place)
        self.proprio_projector: ProprioProjector | None = None
        if has_proprio:
            with on_meta():
                projector = ProprioProjector(len(self.proprio_bounds.low), width)
            self.proprio_projector = checkpoint.load_part(projector, "proprio_projector", *place)
        stop = checkpoint.config.get("text_config", {}).get("eos_token_id", STOP_TOKEN)
        self._stop_1 = torch.tensor([stop], device=self.device)

    @classmethod
    def reads(cls, checkpoint: Checkpoint) -> bool:
        """Whether it has an action head. No file tells an OpenVLA-OFT without one from OpenVLA."""
        return cls._is_prismatic(checkpoint) and checkpoint.has_part("action_head")

    def _read_statistics(self, key: str) -> None:
        super()._read_statistics(key)
        if self.checkpoint.has_part("proprio_projector"):
            self.proprio_bounds = Bounds.read(self.statistics, key, "proprio", self.epsilon)

    def _layout(self, n_prompt: int) -> TokenLayout:
        return TokenLayout(
            grids=self.info.grids,
            n_prompt=n_prompt,
            has_proprio=self.proprio_projector is not None,
            n_actions=self.chunk * self.action_dim,
            has_stop=True,
        )

    def _proprio(self, observation: Observation) -> np.ndarray | None:
        if self.proprio_projector is None:
            return None
        return self.proprio_bounds.normalize(robot_state(observation))

    def _input_macs(self) -> int:
        return 0 if self.proprio_projector is None else self.proprio_projector.macs()

    def _sequence(self, prompt_TD: Tensor, patches_VD: Tensor, proprio_P: Tensor | None) -> Tensor:
        parts = [prompt_TD[:1], patches_VD]
        if self.proprio_projector is not None:
            parts.append(self.proprio_projector(proprio_P)[None])
        parts += [
            prompt_TD[1:],
            prompt_TD.new_zeros(self.chunk * self.action_dim, prompt_TD.shape[-1]),
            self.prismatic.language_model.embed(self._stop_1),
        ]
        return torch.cat(parts)[None]

    def _predict(
        self, decoder: CallDecoder, prefill: Prefill, inputs: Inputs, timer: StageTimer
    ) -> Work[Prediction]:
        yield from ()  # no layer runs again
        timer.enter("head")
        layout = decoder.layout
        # only patches leave, and they stand before the actions
        gone = layout.length - prefill.hidden_BND.shape[1]
        rows = layout.action_rows
        hidden_BAD = prefill.hidden_BND[:, rows.start - gone : rows.stop - gone]
        if isinstance(self.head, L1Head):
            actions = self.head(hidden_BAD)[0].double().cpu().numpy()
            return Prediction(actions, hidden_BAD, self.head.macs(self.chunk))
        best_A, tokens_A = self.prismatic.language_model.lm_head(hidden_BAD[0]).max(-1)
        actions = self.head.actions(tokens_A, best_A).reshape(self.chunk, -1)
        macs = len(rows) * self.prismatic.language_model.logit_macs
        return Prediction(actions, hidden_BAD, macs, tokens_A)
