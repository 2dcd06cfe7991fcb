"""What OpenVLA and OpenVLA-OFT are told: the prompt, as in their training."""

from __future__ import annotations

from vlaprune_bench.policies.checkpoint import Checkpoint
from vlaprune_bench.policies.settings import SUFFIX_TOKEN

PROMPT = "In: What action should the robot take to {}?\nOut:"


def prompt_ids(checkpoint: Checkpoint, instruction: str) -> list[int]:
    """Token ids of an instruction's prompt, BOS first.

    Raises:
        UserError: the checkpoint has no tokenizer.json.
    """
    return checkpoint.tokenizer.encode(PROMPT.format(instruction.lower())).ids


def with_suffix(checkpoint: Checkpoint, prompt: list[int]) -> list[int]:
    """The prompt with its trailing empty token, which is added once."""
    suffix = checkpoint.config.get("prompt_suffix_token_id", SUFFIX_TOKEN)
    return prompt if prompt[-1] == suffix else [*prompt, suffix]
