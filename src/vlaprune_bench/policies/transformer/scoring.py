"""The language model as a pruning method sees it during one call (`pruning.decoder`)."""

from __future__ import annotations

import torch
from torch import Tensor

from vlaprune_bench.measure.flops import llm_prefill_macs
from vlaprune_bench.policies.transformer.prefill import DecoderRun

SCORES = 2**24
"""Attention scores held at once by `CallDecoder.attention` (float32: 64 MiB)."""


class CallDecoder(DecoderRun):
    """A pass through the language model that a method may look into.

    Counts in `scoring_macs` whatever it computes for the method.
    """

    scoring_macs = 0

    def attention(self, layer: int, rows: Tensor) -> Tensor:
        """Attention from `rows` to the visual tokens at a tapped layer (see Decoder).

        Raises:
            ValueError: the layer is not tapped or has not run, or did not compute all of `rows`.
        """
        if layer not in self._taps:
            raise ValueError(f"decoder layer {layer} is not tapped, or has not run yet")
        tap, model = self._taps[layer], self._model
        rows = rows.to(self._sequence_BLD.device)
        position_N = torch.cat(tap.query_N)
        index_R = torch.searchsorted(position_N, rows).clamp_(max=len(position_N) - 1)
        # a GPU would have to be waited for at every look: checked on the CPU alone, where every
        # method is tested
        if rows.device.type == "cpu" and not torch.equal(position_N[index_R], rows):
            raise ValueError(f"decoder layer {layer} did not compute all rows asked for")
        queries_RHd = torch.cat(tap.queries_NH)[index_R].view(len(rows), model.heads, -1)
        queries_RHd = model.rotate(queries_RHd, torch.cat(tap.rope_N)[index_R])
        keys_HKd = self.cache.keys[layer][0]
        n_keys = keys_HKd.shape[1]
        self.charge(len(rows) * n_keys * model.shape.query_width)

        decoded = self.layout.length + torch.arange(n_keys - len(tap.key_K), device=rows.device)
        key_K = torch.cat([tap.key_K, decoded])
        chunk = max(1, SCORES // (model.heads * n_keys))
        parts = [
            mean_attention(queries, keys_HKd, self.visible(row, key_K))
            for queries, row in zip(queries_RHd.split(chunk), rows.split(chunk), strict=True)
        ]
        return self._on_visual(torch.cat(parts), tap.key_K)

    def _on_visual(self, attention_RK: Tensor, key_K: Tensor) -> Tensor:
        """(R, V) of attention to keys at these positions and to what may follow them."""
        # the visual tokens still there stand together, ascending
        first, n_visual = self.layout.visual.start, self.layout.n_visual
        there = slice(first, first + len(key_K) - (self.layout.length - n_visual))
        result_RV = torch.zeros(len(attention_RK), n_visual, device=attention_RK.device)
        result_RV[:, key_K[there] - first] = attention_RK[:, there]
        return result_RV

    def rows(self, layer: int) -> Tensor:
        """Positions of the prefill's tokens that a layer computed (see Decoder).

        Raises:
            ValueError: the layer has not run.
        """
        for segment in self._segments:
            if layer in segment.layers:
                return self._unmasked(segment.query_N)
        raise ValueError(f"decoder layer {layer} has not run yet")

    def _unmasked(self, query_N: Tensor) -> Tensor:
        """Positions of computed tokens without the masked ones; no device is waited for."""
        gone, start, parts = self.layout.length - len(query_N), 0, []
        # visual tokens alone leave, and masked ones stand behind them
        for part in self.layout.masked:
            parts.append(query_N[start : part.start - gone])
            start = part.stop - gone
        return torch.cat([*parts, query_N[start:]]) if parts else query_N

    def states(self, rows: Tensor) -> Tensor:
        """Hidden states before the layer about to run (see Decoder).

        Raises:
            ValueError: no layer is about to run.
        """
        if self._before is None:
            raise ValueError("hidden states can be had while tokens are selected, not afterwards")
        hidden_BND, query_N = self._before
        return hidden_BND[0, torch.searchsorted(query_N, rows.to(query_N.device))]

    def charge(self, macs: int) -> None:
        """Add multiply-adds a method did itself to the call's scoring cost."""
        self.scoring_macs += macs

    def probe(self, depth: int) -> Tensor:
        """States of the unpruned sequence, proprio left out, after `depth` layers (see Decoder)."""
        layout, hidden_BPD = self.layout, self._sequence_BLD[:1]
        everywhere = torch.arange(layout.length, device=hidden_BPD.device)
        proprio = layout.proprio
        row_P = torch.cat([everywhere[: proprio.start], everywhere[proprio.stop :]])
        if depth:
            segment = self._segment(range(depth), row_P, row_P, renumber=True)
            visible_NK = None if self._model.causal else self.visible(row_P, row_P)
            hidden_BPD = self._model.run_layers(
                hidden_BPD[:, row_P],
                segment.rope_N,
                segment.layers,
                visible_BNK=None if visible_NK is None else visible_NK[None],
            )
            self.charge(llm_prefill_macs([len(row_P)] * depth, self._model.shape))
        else:
            hidden_BPD = hidden_BPD[:, row_P]
        # the tokens after proprio moved up
        gone = proprio.stop - proprio.start
        parts = [layout.segment(name) for name in ("visual", "bos", "text", "stop")]
        moved = [
            slice(p.start - gone, p.stop - gone) if p.start >= proprio.stop else p for p in parts
        ]
        return torch.cat([hidden_BPD[0, part] for part in moved])

    def mean_query_key(self, layer: int, queries: Tensor, keys: Tensor) -> Tensor:
        """Mean of q k^T / sqrt(head_dim) over heads and queries, for each key (see Decoder).

        The mean over query rows commutes with q_proj, and the keys' projection is applied to the
        one resulting query instead: exact in real numbers, 2 d^2 + V d MAC instead of
        (2 V + T) d^2 or so. The projections are products in the weights' precision, so that no
        call makes a float32 copy of them; the rest is float32.
        """
        model = self._model
        block = model.block(layer)
        q_proj, k_proj = block.self_attn.q_proj, block.self_attn.k_proj
        normed_T, normed_V = (block.input_layernorm(x).float() for x in (queries, keys))
        q_1H = q_proj(normed_T.mean(0, keepdim=True).to(q_proj.weight.dtype))
        q_HW = q_1H.view(model.heads, -1)
        # query heads that share a key head see the same keys, so their queries add up
        q_1K = q_HW.unflatten(0, (model.kv_heads, -1)).sum(1).view(1, -1)
        scores_1V = (q_1K @ k_proj.weight).float() @ normed_V.T
        if k_proj.bias is not None:
            scores_1V = scores_1V + q_1K.float() @ k_proj.bias.float()
        shape = model.shape
        self.charge(shape.width * (shape.query_width + shape.kv_width + len(keys)))
        return scores_1V[0] / (model.heads * q_HW.shape[-1] ** 0.5)


def mean_attention(queries_RHd: Tensor, keys_HKd: Tensor, visible_RK: Tensor | None) -> Tensor:
    """(R, K) float32 softmax of q k^T / sqrt(head_dim), mean over heads."""
    kv_heads, _, head_dim = keys_HKd.shape
    # query heads that share a key head stand next to each other
    queries_HQd = queries_RHd.unflatten(1, (kv_heads, -1)).permute(1, 2, 0, 3).flatten(1, 2)
    scores_HQK = (queries_HQd @ keys_HKd.transpose(1, 2)).float() * head_dim**-0.5
    scores_HgRK = scores_HQK.unflatten(1, (-1, len(queries_RHd)))
    if visible_RK is not None:
        scores_HgRK = scores_HgRK.masked_fill(~visible_RK, float("-inf"))
    return scores_HgRK.softmax(-1).mean((0, 1))
