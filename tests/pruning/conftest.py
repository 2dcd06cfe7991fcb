"""A made-up decision for unit tests, and the reference's episodes for tests of equality."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from vlaprune_bench.measure.latency import StageTimer
from vlaprune_bench.policies import load_policy
from vlaprune_bench.policies.call_data import Inputs
from vlaprune_bench.pruning import PruneContext
from vlaprune_bench.pruning.none import NoPruning
from vlaprune_bench.types import TokenLayout

WIDTH = 8
OPENVLA = TokenLayout(grids=((4, 4),), n_prompt=6, n_generated=7)
OFT = TokenLayout(grids=((4, 4), (4, 4)), n_prompt=6, has_proprio=True, n_actions=14, has_stop=True)


@dataclass
class FakeDecoder:
    """Attention of each layer as given, (rows, V); remembers who asked and what was charged."""

    maps: dict[int, torch.Tensor]
    layout: TokenLayout = OPENVLA
    left: dict[int, torch.Tensor] = field(default_factory=dict)
    """Visual tokens there from a layer on; before the first of them, all."""
    n_layers: int = 32
    hidden: torch.Tensor | None = None
    """(length, width) states before the layer about to run."""
    asked: list[tuple[int, list[int]]] = field(default_factory=list)
    macs: int = 0

    def attention(self, layer, rows):
        self.asked.append((layer, rows.tolist()))
        return self.maps[layer][rows]

    def attentions(self, layers, rows):
        return torch.stack([self.attention(layer, rows) for layer in layers])

    def rows(self, layer):
        left = [index for start, index in sorted(self.left.items()) if start <= layer]
        rows, visual = torch.arange(self.layout.length), self.layout.visual
        patches = visual.start + left[-1] if left else rows[visual]
        return torch.cat([rows[: visual.start], patches, rows[visual.stop :]])

    def states(self, rows):
        return self.hidden[rows]

    def probe(self, depth):
        random = torch.Generator().manual_seed(depth)
        return torch.randn(self.layout.n_visual + self.layout.n_prompt, WIDTH, generator=random)

    def mean_query_key(self, layer, queries, keys):
        return keys @ queries.mean(0)

    def charge(self, macs):
        self.macs += macs


@pytest.fixture
def layouts():
    return {"openvla": OPENVLA, "oft": OFT}


@pytest.fixture
def make_context():
    def make(
        layout=OPENVLA, layer=0, seed=0, call=0, poses=None, maps=None, patches=None, alive=None
    ):
        random = torch.Generator().manual_seed(seed)
        n_rows = layout.length + layout.n_generated
        if maps is None:
            maps = {i: torch.rand(n_rows, layout.n_visual, generator=random) for i in range(32)}
        if patches is None:
            patches = torch.randn(layout.n_visual, WIDTH, generator=random)
        return PruneContext(
            layout=layout,
            layer=layer,
            call=call,
            seed=seed,
            eef_poses=np.zeros((1, 7)) if poses is None else poses,
            patches=patches,
            prompt=torch.randn(layout.n_prompt, WIDTH, generator=random),
            frames=torch.zeros(len(layout.grids), 3, 224, 224),
            causal=not layout.n_actions,
            decoder=FakeDecoder(maps, layout, {} if alive is None else {0: alive}),
            alive=alive,
        )

    return make


def ask(pruner, context, memory, layer):
    """What the method selects before a layer; the context then knows what is left.

    Returns:
        Visual tokens left, as a list.
    """
    context.layer = layer
    selection = pruner.select(context, memory)
    if selection is not None:
        context.alive = context.decoder.left[layer] = selection.index
    alive = context.alive
    return list(range(context.layout.n_visual)) if alive is None else alive.tolist()


GOLDEN = Path(__file__).parents[1] / "data" / "golden"


@dataclass
class ReferenceEpisodes:
    """Plays the episodes of `vlapruner_episodes` on the small OpenVLA of the same origin."""

    def __post_init__(self) -> None:
        self.cases = json.loads((GOLDEN / "vlapruner_episodes.json").read_text())
        self.tensors = load_file(GOLDEN / "vlapruner_episodes.safetensors")
        self.policy = load_policy(
            str(GOLDEN / "ckpt-openvla-tiny"), NoPruning(), suite="libero_spatial", device="cpu"
        )
        # the vision towers see the same 28 frames for every method
        patches = self.policy.prismatic.patches

        @cache
        def seen(episode: int, frame: int):
            pixels = self.tensors[f"ep{episode}.pixel_values_28"][frame][None].float()
            return patches(pixels.repeat_interleave(8, dim=2).repeat_interleave(8, dim=3))

        self.policy.prismatic.patches = lambda key: seen(*key)

    def play(self, pruner, method, ratio):
        """Every call of that method's episodes: (case, kept tokens, generated ids, memory)."""
        self.policy.pruner = pruner
        wanted = [c for c in self.cases if (c["method"], c["prune_ratio"]) == (method, ratio)]
        for case in sorted(wanted, key=lambda c: (c["episode"], c["frame"])):
            key = case["episode"], case["frame"]
            if case["frame"] == 0:
                prompt = self.tensors[f"ep{case['episode']}.input_ids"][0].tolist()
                memory = self.policy.start_with_tokens(prompt, seed=0)
            inputs = Inputs(torch.zeros(1, 3, 224, 224), key)
            with torch.inference_mode():
                out = self.policy.forward(
                    memory, memory.pruner, inputs, np.zeros((1, 7)), StageTimer(self.policy.device)
                )
            memory.call += 1
            kept = out.decoder.kept_V
            kept = list(range(256)) if kept is None else kept.tolist()
            yield case["case"], kept, out.prediction.tokens_A.tolist(), memory.pruner

    def check(self, pruner, method, ratio, atol=2e-5):
        """Kept tokens, generated ids and history of all 28 calls are the reference's."""
        cases = same = total = 0
        for case, kept, tokens, memory in self.play(pruner, method, ratio):
            wanted = self.tensors[f"{case}.kept_visual"].tolist()
            assert len(kept) == len(wanted)
            same += len(set(kept) & set(wanted))
            total += len(wanted)
            assert tokens == self.tensors[f"{case}.tokens"].tolist()
            if memory is not None:
                torch.testing.assert_close(
                    memory.calls[-1], self.tensors[f"{case}.av_last"], rtol=0, atol=atol
                )
            cases += 1
        assert cases == 28
        assert same / total >= 0.999


@pytest.fixture(scope="session")
def reference_episodes():
    return ReferenceEpisodes()
