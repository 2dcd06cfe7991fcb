"""What is trained: a policy's networks with gradients, and an auxiliary head."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import MethodType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRMSNorm

from tiny.dropout import Leaving
from vlaprune_bench.policies.prismatic.vision import LayerScale
from vlaprune_bench.policies.transformer.cache import LayerCache
from vlaprune_bench.policies.transformer.stack import Stack
from vlaprune_bench.policies.vla import VLA
from vlaprune_bench.types import TokenLayout, UserError

ACTION_DIM, PROPRIO_DIM, AUX_DIM = 7, 8, 7
"""The auxiliary head says 7 numbers (see `data.Demos.aux_NX`), then which words were told."""


class Batch(NamedTuple):
    """Samples whose prompts have one length."""

    pixels_BCHW: Tensor
    """As `Subject.pixels` gives them, one sample a row."""
    proprio_BP: Tensor
    """Normalised robot state."""
    prompt_BT: Tensor
    actions_BCA: Tensor
    """(B, 8, 7) normalised (see `data.Conventions`)."""
    aux_BX: Tensor
    """See `data.Demos.aux_NX`."""
    words_BW: Tensor
    """1 where the prompt has the word, of those that tell instructions apart."""
    shares_BV: Tensor
    """Where the text-vision scores are to be."""
    seed: int = 0
    """What is drawn beside the samples follows from it."""


Learned = tuple[dict[str, Tensor], Tensor, Tensor]
"""Losses of the actions, (B, 7 + words) what the auxiliary head says, and (B, V) the text-vision
scores of `pruning.static` at layer 0."""


BRANCH_ENDS = ("o_proj", "out_proj", "down_proj", "attn.proj", "mlp.fc2")
"""Names of the last layers of residual branches."""


class Subject(nn.Module):
    """A policy's networks with gradients, and an auxiliary head."""

    policy: type[VLA]
    parts: tuple[str, ...] = ()
    """Modules that are files of their own beside the model's."""
    fixed_rows: tuple[str, ...] = ()
    """Parameters with a row for each action dimension; those of dimensions nobody uses hold."""
    patient: bool = True
    """Whether it may wait, as a chunk of actions lets it: see `data.skip_waiting`."""
    data: str = "openvla"
    """What its frames and numbers are like, one of `data.CONVENTIONS`."""
    auxiliary: nn.Module
    """See `auxiliary_head`."""
    stack: Stack
    grids: tuple[tuple[int, int], ...]
    """(rows, columns) of each camera's tokens."""

    def __init__(self, config: dict[str, Any], attention: str = "sdpa") -> None:
        """
        Args:
            config: see `config`.
            attention: "sdpa" or "eager".
        """
        super().__init__()

    def initialise(self, seed: int, fixed: Tensor) -> None:
        """Random weights; branches of residual blocks start small.

        Args:
            seed: of the weights.
            fixed: (7,) bool, action dimensions the demonstrations never use.
        """
        generator = torch.Generator().manual_seed(seed)
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                std = module.weight[0].numel() ** -0.5
                if name.endswith(BRANCH_ENDS):
                    std /= math.sqrt(2 * self.stack.n_layers)
                nn.init.normal_(module.weight, std=std, generator=generator)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.5, generator=generator)
            elif isinstance(module, LayerScale):
                nn.init.ones_(module.scale_factor)
            elif isinstance(module, nn.LayerNorm | LlamaRMSNorm):
                nn.init.ones_(module.weight)
        for name, parameter in self.named_parameters():
            if name.endswith(("pos_embed", "cls_token", "reg_token")):
                nn.init.normal_(parameter, std=0.3, generator=generator)

    def learn(self, batch: Batch, leaving: Leaving | None, fixed: Tensor) -> Learned:
        """What the losses are made of.

        Args:
            batch: the samples.
            leaving: visual tokens that leave on the way; None: all stay.
            fixed: (7,) bool, action dimensions that no demonstration uses.
        """
        raise NotImplementedError

    def scores(self, text_BTD: Tensor, patches_BVD: Tensor) -> Tensor:
        """Mean of q k^T / sqrt(head_dim) over heads and text at layer 0, (B, V)."""
        stack, layer = self.stack, self.stack.block(0)
        query_BD = layer.self_attn.q_proj(layer.input_layernorm(text_BTD).mean(1))
        keys_BVD = layer.self_attn.k_proj(layer.input_layernorm(patches_BVD))
        # query heads that share a key head see the same keys
        query_BK = (
            query_BD.view(len(query_BD), stack.kv_heads, -1, stack.head_dim).sum(2).flatten(1)
        )
        return (keys_BVD @ query_BK[..., None])[..., 0] / (stack.heads * stack.head_dim**0.5)

    def slow_modules(self) -> list[nn.Module]:
        """Those that generated code is worth it for, beside decoder layers."""
        raise NotImplementedError

    def patch_embeddings(self) -> list[nn.Conv2d]:
        """Convolutions over patches."""
        raise NotImplementedError

    @classmethod
    def tokenizer(cls) -> Tokenizer:
        """Of the checkpoint."""
        raise NotImplementedError

    @classmethod
    def config(
        cls, tokenizer: Tokenizer, name: str, size: dict[str, int], image: int, suites: list[str]
    ) -> dict[str, Any]:
        """config.json, as the scripts of untrained checkpoints write it, of another shape.

        Args:
            tokenizer: of the checkpoint.
            name: rows and reports call the checkpoint so.
            size: patch (pixels), tower_width, tower_depth, width, depth.
            image: side of the model's input, pixels.
            suites: what it is trained on.
        """
        raise NotImplementedError

    @classmethod
    def prompt(cls, tokenizer: Tokenizer, config: dict[str, Any], instruction: str) -> list[int]:
        """Tokens of the prompt, as the policy makes them."""
        raise NotImplementedError

    def pixels(
        self, images_B: Tensor, gain_BN: Tensor, offset_BN: Tensor, dtype: torch.dtype
    ) -> Tensor:
        """What the towers are shown, of frames made brighter and more contrasted.

        Args:
            images_B: (B, 2, 3, H, W) uint8.
            gain_BN: (B, 2) factor of contrast about mid grey, one a camera; 1: as is.
            offset_BN: (B, 2) added brightness, in units of full range.
            dtype: of the result.
        """
        raise NotImplementedError

    def begin(self, folder: Path) -> None:
        """Take the weights of a checkpoint `export` wrote; the auxiliary head keeps its own.

        Raises:
            FileNotFoundError, RuntimeError: it is none, or of another shape.
        """
        raise NotImplementedError

    def export(
        self,
        weights: dict[str, Tensor],
        folder: Path,
        config: dict[str, Any],
        tokenizer: Tokenizer,
        statistics: dict[str, Any],
    ) -> None:
        """Write a checkpoint folder in the published layout; the auxiliary head stays behind.

        Args:
            weights: of all parameters, by name.
            folder: need not exist.
            config: see `config`.
            tokenizer: see `tokenizer`.
            statistics: of the data, by suite.
        """
        raise NotImplementedError


def auxiliary_head(stack: Stack) -> nn.Module:
    """From a state of the stack: `AUX_DIM` numbers, then a logit for every token of the words."""
    width = stack.width
    return nn.Sequential(
        nn.LayerNorm(width),
        nn.Linear(width, width),
        nn.GELU(),
        nn.Linear(width, AUX_DIM + stack.vocab_size),
    )


def run_stack(
    stack: Stack,
    sequence_BLD: Tensor,
    layout: TokenLayout,
    leaving: Leaving | None,
    cache: LayerCache | None = None,
) -> Tensor:
    """(B, L, width) states after all layers; those of tokens that left are finite, and no one's.

    Shapes are the same whatever leaves: who left is a key that nobody sees. The sequence may go on
    behind the prefill that `layout` is of. `cache` is given each layer's keys and values.
    """
    length = sequence_BLD.shape[1]
    rule_LL = None
    if stack.sees != "all":
        rule_LL = torch.ones(length, length, dtype=torch.bool).tril()
    if stack.sees == "prefix" and rule_LL is not None:
        rule_LL[: layout.n_prefix, : layout.n_prefix] = True
    if leaving is None:
        visible = None if rule_LL is None else rule_LL[None]
        positions, layers = torch.arange(length), range(stack.n_layers)
        return stack.run_layers(sequence_BLD, positions, layers, cache, visible)
    hidden_BLD = sequence_BLD
    for layer in range(stack.n_layers):
        hidden_BLD = stack.run_layers(
            hidden_BLD,
            leaving.positions(layer, layout, length),
            (layer,),
            cache,
            leaving.sees(layer, layout, length, rule_LL),
        )
    return hidden_BLD


def hold_fixed(model: Subject, fixed: Tensor) -> None:
    """Take the gradient from the rows of action dimensions nobody uses."""
    for name in model.fixed_rows:
        gradient = model.get_parameter(name).grad
        assert gradient is not None
        gradient[fixed] = 0.0


def linear_patches(conv: nn.Conv2d, image_BCHW: Tensor) -> Tensor:
    """A convolution over patches as one matrix product: on a CPU its gradient is far cheaper."""
    side = conv.weight.shape[-1]
    patches = image_BCHW.to(conv.weight).unflatten(3, (-1, side)).unflatten(2, (-1, side))
    rows_BrcP = patches.permute(0, 2, 4, 1, 3, 5).flatten(3)
    return F.linear(rows_BrcP, conv.weight.flatten(1), conv.bias).permute(0, 3, 1, 2)


def speed_up(model: Subject, compiled: bool) -> None:
    """Replace slow forwards by equal ones; with `compiled`, by generated code (needs a C++)."""
    for conv in model.patch_embeddings():
        compute_with(conv, partial(linear_patches, conv))
    if not compiled:
        return
    torch._dynamo.config.recompile_limit = 64  # one variant a prompt length
    layer_forward = torch.compile(LlamaDecoderLayer.forward, dynamic=False)
    for layer in model.stack.model.layers:
        compute_with(layer, MethodType(layer_forward, layer))
    for module in model.slow_modules():
        compute_with(module, torch.compile(module.forward, dynamic=False))


def compute_with(module: nn.Module, forward: Callable[..., Tensor]) -> None:
    """Let this one module compute with `forward`."""
    module.__dict__["forward"] = forward


def begin_with(model: Subject, folder: Path) -> None:
    """Take the weights of a checkpoint; the auxiliary head keeps its own.

    Args:
        model: initialised, float32.
        folder: of a checkpoint of the same shape.

    Raises:
        UserError: the folder is none, or the shapes differ.
    """
    try:
        model.begin(folder)
    except (FileNotFoundError, RuntimeError) as error:
        raise UserError(
            f"--start is {folder}: no checkpoint of this shape can be loaded from it ({error})."
        ) from error
