"""OpenVLA: one camera in, one action out, its 7 dimensions decoded one token after the other.

The sequence is BOS, the patches, the rest of the prompt; a token sees those before it. Greedy
decoding (arXiv 2406.09246) runs on the keys and values of the prefill: each layer's are those of
the tokens that layer saw, so tokens that left do not come back.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vlaprune_bench.measure.latency import StageTimer
from vlaprune_bench.policies.call_data import Inputs, Prediction
from vlaprune_bench.policies.checkpoint import Checkpoint
from vlaprune_bench.policies.prismatic.heads import ActionTokens
from vlaprune_bench.policies.prismatic.policy import PrismaticVLA
from vlaprune_bench.policies.transformer.prefill import Prefill
from vlaprune_bench.policies.transformer.requests import Work
from vlaprune_bench.policies.transformer.scoring import CallDecoder
from vlaprune_bench.pruning.base import Pruner
from vlaprune_bench.types import TokenLayout, UserError


class OpenVLA(PrismaticVLA):
    """OpenVLA with its discrete action tokens."""

    name = "openvla"
    cameras = most_cameras = 1
    chunk = 1
    sees = "causal"
    epsilon = 0.0

    def __init__(self, checkpoint: Checkpoint, pruner: Pruner, **options: Any) -> None:
        """Load the networks onto the device. Arguments and errors: see `load_policy`."""
        super().__init__(checkpoint, pruner, **options, logits=True)
        self.head = ActionTokens.read(checkpoint.config)

    @classmethod
    def reads(cls, checkpoint: Checkpoint) -> bool:
        """Whether it is an OpenVLA without an action head.

        Raises:
            UserError: nothing tells which of two it is.
        """
        if not cls._is_prismatic(checkpoint) or checkpoint.has_part("action_head"):
            return False
        if checkpoint.has_part("proprio_projector"):
            raise UserError(
                f"checkpoint {checkpoint.source}: it has a proprio_projector but no "
                "action_head--*_checkpoint.pt; add that file, or say --policy openvla-oft if its "
                "actions are discrete tokens."
            )
        if checkpoint.has_oft_code:
            raise UserError(
                f"checkpoint {checkpoint.source}: its code or its lora_adapter folder is "
                "OpenVLA-OFT's and there is no action_head--*_checkpoint.pt; add that file, or say "
                "--policy openvla-oft if its actions are discrete tokens, or --policy openvla."
            )
        return True

    def _layout(self, n_prompt: int) -> TokenLayout:
        return TokenLayout(
            grids=self.info.grids, n_prompt=n_prompt, n_generated=self.chunk * self.action_dim
        )

    def _sequence(self, prompt_TD: Tensor, patches_VD: Tensor, proprio_P: Tensor | None) -> Tensor:
        return torch.cat([prompt_TD[:1], patches_VD, prompt_TD[1:]])[None]

    def _predict(
        self, decoder: CallDecoder, prefill: Prefill, inputs: Inputs, timer: StageTimer
    ) -> Work[Prediction]:
        timer.enter("decode")
        language_model, n_generated = self.prismatic.language_model, self.chunk * self.action_dim
        states = [prefill.hidden_BND[:, -1]]
        tokens: list[Tensor] = []
        logits: list[Tensor] = []
        for index in range(n_generated):
            if index:
                state_1D = yield from decoder.stepping(language_model.embed(tokens[-1]))
                states.append(state_1D)
            best_1, token_1 = language_model.lm_head(states[-1]).max(-1)
            tokens.append(token_1)
            logits.append(best_1)
        timer.enter("head")
        tokens_A = torch.cat(tokens)
        actions = self.head.actions(tokens_A, torch.cat(logits)).reshape(self.chunk, -1)
        macs = n_generated * language_model.logit_macs
        return Prediction(actions, torch.stack(states, dim=1), macs, tokens_A)
