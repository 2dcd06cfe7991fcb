"""TEAM-VLA: what the words point to, grown over the grid; in deep layers the rest is merged in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from vlaprune_bench.pruning.base import PruneContext, Pruner, Selection
from vlaprune_bench.pruning.options import option
from vlaprune_bench.pruning.scores import Reading, prompt_rows, rms_normed
from vlaprune_bench.pruning.select import cameras, mask


@Pruner.register_subclass("team")
@dataclass(frozen=True)
class Team(Pruner):
    """Keep patches like a word and those around them, and some others; later merge what is left.

    Source: arXiv 2512.09927, whose repository holds no code; numbers are those of a port by others.
    Seeds are the patches most like each token of the prompt after BOS, by cosine of the embeddings.
    In each camera's grid all neighbours join where seeds are dense, and each by chance where they
    are sparse; of the others a share joins, drawn by likeness. The rest leaves before the language
    model. Before `merge_layer` the tokens most like the text, or the action placeholders where the
    prefill has some, stay, and take up the others by soft assignment: all vectors are scaled to a
    root mean square of 1, those of one token compete. A token that took up others stands where it
    stood. How many leave follows from the frame: there is no keep ratio.

    Draws follow from the call's seed, that is from episode and call alone. Which positions tokens
    that stay get no source says: contiguous, as of a sequence that was never longer.
    """

    seeds: int | None = option(None, at_least=1, published={"paper": 1, "code": 3})
    """Patches that each token of the prompt names; by default 1, or 3 (code)."""
    density: float = option(1.0, at_least=0)
    """Where more seeds than this lie in a patch's block of 3 x 3, all of the block joins."""
    chance: float = option(0.5, at_least=0, at_most=1)
    """Chance of each patch of the block to join where there are fewer, but one at least."""
    context_share: float = option(0.1, at_least=0, at_most=1)
    """Share of the other patches that joins, rounded down."""
    sharpness: float = option(10.0, at_least=0)
    """Factor of the largest cosine before the softmax that these are drawn by."""
    merge_layer: int | None = option(None, at_least=1, layers=True, published=16)
    """Decoder layer before which tokens merge, from 1; by default layer 16 of 32, scaled to the
    model's depth."""
    sources: int = option(80, at_least=1, count="call")
    """Tokens that are left by then; 80 is of 256 patches a camera."""
    reading: Reading = "paper"
    """Where paper and port differ: `seeds`."""

    renumber_positions = True

    @property
    def layers(self) -> tuple[int, ...]:
        return (0,) if self.merge_layer is None else (0, self.merge_layer)

    def select(self, context: PruneContext, memory: Any) -> Selection | None:
        return self.merge(context) if context.layer else self.expand(context)

    def expand(self, context: PruneContext) -> Selection:
        """Seeds, what grows around them, and context."""
        import torch
        from torch.nn.functional import normalize

        assert self.seeds is not None
        layout, random = context.layout, np.random.default_rng(context.seed)
        text_TD = context.prompt[int(layout.has_bos) :].float()
        context.decoder.charge(len(text_TD) * context.patches.numel())
        alike_TV = normalize(text_TD, dim=-1) @ normalize(context.patches.float(), dim=-1).T
        named = alike_TV.topk(min(self.seeds, layout.n_visual), dim=1).indices
        seed_V = mask(named.flatten(), layout.n_visual).cpu().numpy()
        parts = zip(cameras(layout), layout.grids, strict=True)
        grown = [self.grow(seed_V[part].reshape(grid), random).ravel() for part, grid in parts]
        kept_V = np.concatenate(grown)
        rest = (~kept_V).nonzero()[0]
        weights = np.exp(self.sharpness * (alike_TV.amax(0).double().cpu().numpy()[rest] - 1))
        count = int(self.context_share * len(rest))
        if count:
            kept_V[random.choice(rest, count, replace=False, p=weights / weights.sum())] = True
        return Selection.where(torch.from_numpy(kept_V).to(context.patches.device))

    def grow(self, seed_RC: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """(rows, columns) bool: a camera's seeds and the neighbours that join them."""
        rows, columns = seed_RC.shape
        blocks = [np.s_[y : y + rows, x : x + columns] for y in range(3) for x in range(3)]
        padded = np.pad(seed_RC.astype(int), 1)
        count_RC = sum(padded[block] for block in blocks)
        joined = np.pad(seed_RC, 1)
        draws = random.random((len(blocks), rows, columns)) < self.chance
        for block, draw_RC in zip(blocks, draws, strict=True):
            joined[block] |= (count_RC > self.density) | ((count_RC > 0) & draw_RC)
        return joined[1:-1, 1:-1]

    def merge(self, context: PruneContext) -> Selection | None:
        """The tokens most like text and actions, and in them the others."""
        import torch
        from torch.nn.functional import normalize

        layout, decoder, device = context.layout, context.decoder, context.patches.device
        if context.n_alive <= self.sources:
            return None
        alive = torch.arange(layout.n_visual, device=device)
        alive = alive if context.alive is None else context.alive.to(device)
        actions = torch.arange(layout.actions.start, layout.actions.stop, device=device)
        guide_GD = decoder.states(torch.cat([prompt_rows(context), actions])).float()
        tokens_ND = decoder.states(layout.visual.start + alive).float()
        n, width = tokens_ND.shape
        decoder.charge(n * len(guide_GD) * width)
        alike_N = (normalize(tokens_ND, dim=-1) @ normalize(guide_GD, dim=-1).T).amax(1)
        source_N = mask(alike_N.topk(self.sources).indices, n)
        sources_SD, others_TD = tokens_ND[source_N], tokens_ND[~source_N]
        decoder.charge(2 * len(sources_SD) * len(others_TD) * width)
        scores_TS = rms_normed(others_TD) @ rms_normed(sources_SD).T * width**-0.5
        share_TS = scores_TS.softmax(-1)
        merged_SD = sources_SD + share_TS.T @ others_TD
        merged_SD = merged_SD / (1 + share_TS.sum(0))[:, None]
        return Selection(alive[source_N], merged_SD)
