"""The language model as a pruning method sees it during one call (`pruning.decoder`)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor

from vlaprune_bench.measure.flops import llm_prefill_macs
from vlaprune_bench.policies.transformer.prefill import DecoderRun

SCORES = 2**24
"""Attention scores held at once by `CallDecoder.attentions` (float32: 64 MiB)."""


class CallDecoder(DecoderRun):
    """A pass through the language model that a method may look into.

    Counts in `scoring_macs` whatever it computes for the method.
    """

    scoring_macs = 0

    def attention(self, layer: int, rows: Tensor) -> Tensor:
        """Attention from `rows` to the visual tokens at a tapped layer (see Decoder)."""
        return self.attentions((layer,), rows)[0]

    def attentions(self, layers: Sequence[int], rows: Tensor) -> Tensor:
        """Attention from `rows` to the visual tokens at tapped layers (see Decoder).

        Layers between which no token left are computed at once: on a GPU what one layer costs is
        the launching of its kernels.

        Raises:
            ValueError: a layer is not tapped or has not run, or did not compute all of `rows`.
        """
        if unknown := [layer for layer in layers if layer not in self._taps]:
            raise ValueError(f"decoder layer {unknown[0]} is not tapped, or has not run yet")
        rows = rows.to(self._sequence_BLD.device)
        # layers of one segment share the tensor that says which keys they have
        alike = groupby(layers, lambda layer: id(self._taps[layer].key_K))
        return torch.cat([self._attentions(list(group), rows) for _, group in alike])

    def _attentions(self, layers: list[int], rows: Tensor) -> Tensor:
        """(layers, R, V) at layers that computed the same tokens."""
        taps, model = [self._taps[layer] for layer in layers], self._model
        tap, n_layers, n_rows = taps[0], len(layers), len(rows)
        position_N = torch.cat(tap.query_N)
        index_R = torch.searchsorted(position_N, rows).clamp_(max=len(position_N) - 1)
        # a GPU would have to be waited for at every look: checked on the CPU alone, where every
        # method is tested
        if rows.device.type == "cpu" and not torch.equal(position_N[index_R], rows):
            raise ValueError(f"decoder layer {layers[0]} did not compute all rows asked for")
        queries_MH = torch.cat([torch.cat(tap.queries_NH)[index_R] for tap in taps])
        rope_M = torch.cat(tap.rope_N)[index_R].repeat(n_layers)
        queries_MHd = model.rotate(queries_MH.view(len(queries_MH), model.heads, -1), rope_M)
        queries_JRHd = queries_MHd.unflatten(0, (n_layers, n_rows))
        keys_JHKd = torch.stack([self.cache.keys[layer][0] for layer in layers])
        n_keys = keys_JHKd.shape[2]
        self.charge(n_layers * n_rows * n_keys * model.shape.query_width)

        decoded = self.layout.length + torch.arange(n_keys - len(tap.key_K), device=rows.device)
        key_K = torch.cat([tap.key_K, decoded])
        chunk = max(1, SCORES // (n_layers * model.heads * n_keys))
        parts = [
            mean_attention(queries, keys_JHKd, self.visible(row, key_K))
            for queries, row in zip(queries_JRHd.split(chunk, 1), rows.split(chunk), strict=True)
        ]
        return self._on_visual(torch.cat(parts, 1), tap.key_K)

    def _on_visual(self, attention_JRK: Tensor, key_K: Tensor) -> Tensor:
        """(layers, R, V) of attention to keys at these positions and to what may follow them."""
        # the visual tokens still there stand together, ascending
        first, n_visual = self.layout.visual.start, self.layout.n_visual
        there = slice(first, first + len(key_K) - (self.layout.length - n_visual))
        result_JRV = attention_JRK.new_zeros(*attention_JRK.shape[:2], n_visual)
        result_JRV[..., key_K[there] - first] = attention_JRK[..., there]
        return result_JRV

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


def mean_attention(queries_JRHd: Tensor, keys_JHKd: Tensor, visible_RK: Tensor | None) -> Tensor:
    """(layers, R, K) float32 softmax of q k^T / sqrt(head_dim), mean over heads."""
    kv_heads, head_dim = keys_JHKd.shape[1], keys_JHKd.shape[-1]
    # query heads that share a key head stand next to each other
    queries_JHQd = queries_JRHd.unflatten(2, (kv_heads, -1)).permute(0, 2, 3, 1, 4).flatten(2, 3)
    scores_JHQK = (queries_JHQd @ keys_JHKd.transpose(2, 3)).float() * head_dim**-0.5
    scores_JHgRK = scores_JHQK.unflatten(2, (-1, queries_JRHd.shape[1]))
    if visible_RK is not None:
        scores_JHgRK = scores_JHgRK.masked_fill(~visible_RK, float("-inf"))
    return scores_JHgRK.softmax(-1).mean((1, 2))
