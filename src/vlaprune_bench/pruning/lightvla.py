"""LightVLA's selection: each patch, asked with the words it resembles, votes for a patch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vlaprune_bench.pruning.base import PruneContext, Pruner, Selection
from vlaprune_bench.pruning.scores import rms_normed
from vlaprune_bench.pruning.select import mask


@Pruner.register_subclass("lightvla")
@dataclass(frozen=True)
class LightVla(Pruner):
    """Keep the patches that at least one patch's query, made of the prompt, votes for.

    Source: arXiv 2509.12594. A patch's query is its attention (one head, no weights) over all that
    follows the patches: the robot's state, the text, placeholders, stop; masked tokens left out.
    It votes for the patch with the largest product. All vectors are scaled to a root mean square
    of 1. How many stay follows from the votes: there is no keep ratio, and cameras share nothing
    out. Tokens leave before the language model and those that stay keep their positions.

    The rule has no weights, but its published results are of checkpoints fine-tuned with it, noise
    on the votes and gradients through them. On any other checkpoint it is a control, and rows say
    so; what a checkpoint was trained with only its name tells. The rule itself is written the same
    in paper and code, and chooses in the model's precision, as there.
    """

    def caveat(self, checkpoint: str) -> str | None:
        if "lightvla" in checkpoint.lower():
            return None
        return (
            f"lightvla ran on {checkpoint}, which by its name was not trained with it; its "
            "published results are of checkpoints that were"
        )

    def select(self, context: PruneContext, memory: Any) -> Selection:
        import torch
        from torch.nn.functional import scaled_dot_product_attention

        layout = context.layout
        follows_L = torch.ones(layout.length, dtype=torch.bool, device=context.patches.device)
        for part in (slice(0, layout.visual.stop), *layout.masked):
            follows_L[part] = False
        patches_VD = rms_normed(context.patches)
        others_TD = rms_normed(context.decoder.states(follows_L.nonzero()[:, 0]))
        n_visual, width = patches_VD.shape
        context.decoder.charge(n_visual * width * (2 * len(others_TD) + n_visual))
        attended = scaled_dot_product_attention(patches_VD[None], others_TD[None], others_TD[None])
        scores_VV = rms_normed(attended[0]) @ patches_VD.T * width**-0.5
        return Selection.where(mask(scores_VV.argmax(-1), n_visual))
