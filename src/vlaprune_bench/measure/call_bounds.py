"""Shapes of published policies, and the least time their calls can take, stage by stage.

Stages follow one another, each at its `roofline` in bfloat16. No program is faster in this
precision, and most are two to three times slower. Activations, keys and values, and launches are
left out: the bound is lower for it, never higher.
"""

from __future__ import annotations

from dataclasses import dataclass

from vlaprune_bench.measure.flops import DecoderShape, llm_prefill_macs, mlp_macs, vit_macs
from vlaprune_bench.measure.roofline import Card, bound_ms

WEIGHT_BYTES = 2
"""Of a weight in bfloat16."""
LAUNCH_US = 4.0
"""Assumed, not measured: what launching a kernel costs a host that is not ahead, microseconds."""
KERNELS_PER_LAYER = 15
"""Assumed: kernels of a decoder layer without fusion or graphs."""


@dataclass(frozen=True)
class VisionShape:
    """A vision transformer that runs once for each camera."""

    patches: int
    prefix: int
    depth: int
    width: int
    mlp_width: int

    @property
    def macs(self) -> int:
        """Of one image."""
        return vit_macs(self.patches, self.prefix, self.depth, self.width, self.mlp_width, 588)

    @property
    def weights(self) -> int:
        """Numbers of its blocks."""
        return self.depth * (4 * self.width**2 + 2 * self.width * self.mlp_width)


DINO = VisionShape(256, 5, 23, 1024, 4096)
SIGLIP = VisionShape(256, 0, 26, 1152, 4304)
"""OpenVLA's towers; the last block of each is not run."""
PALIGEMMA = VisionShape(256, 0, 27, 1152, 4304)


@dataclass(frozen=True)
class CallShape:
    """A policy's call, as far as its arithmetic goes."""

    name: str
    decoder: DecoderShape
    layers: int
    cameras: int
    patches: int
    """Visual tokens of a camera."""
    others: int
    """Tokens of the prefill that are no visual ones."""
    towers: tuple[VisionShape, ...]
    projector: tuple[int, ...]
    """Widths of the projector's layers."""
    decoded: int = 0
    """Tokens decoded one by one after the prefill; each reads all weights of the decoder."""
    vocabulary: int = 0
    """Words whose scores a decoded token needs; 0: none is decoded."""
    denoise_weights: int = 0
    """Numbers an action expert reads at each denoising step."""
    denoise_steps: int = 0
    empty: int = 0
    """Masked tokens of a camera that is not there, which many implementations compute."""

    @property
    def visual(self) -> int:
        return self.cameras * self.patches

    def tokens(self, keep: float) -> int:
        """Tokens of a prefill that keeps a share of the visual ones from the first layer on."""
        return self.others + max(round(keep * self.visual), 0)

    def prefill_macs(self, keep: float = 1.0, from_layer: int = 0, empty: bool = False) -> int:
        """Multiply-adds of the decoder's prefill, tokens leaving before `from_layer`.

        Args:
            keep: share of visual tokens that stay.
            from_layer: layer before which the others leave.
            empty: masked tokens are computed, too.
        """
        more = self.empty if empty else 0
        counts = [self.tokens(1.0) + more] * from_layer
        counts += [self.tokens(keep) + more] * (self.layers - from_layer)
        return llm_prefill_macs(counts, self.decoder)

    def attention_macs(self, keep: float = 1.0, empty: bool = False) -> int:
        """Of them, those of scores and values: quadratic in the tokens."""
        tokens = self.tokens(keep) + (self.empty if empty else 0)
        return 2 * self.layers * tokens**2 * self.decoder.query_width

    @property
    def decoder_weights(self) -> int:
        """Numbers in the decoder's layers."""
        d = self.decoder
        attention = 2 * d.width * (d.query_width + d.kv_width)
        return self.layers * (attention + 3 * d.width * d.mlp_width)

    @property
    def vision_macs(self) -> int:
        """Multiply-adds of towers and projector, all cameras."""
        towers = sum(tower.macs for tower in self.towers)
        return self.cameras * (towers + mlp_macs(self.patches, *self.projector))

    @property
    def vision_weights(self) -> int:
        towers = sum(tower.weights for tower in self.towers)
        return towers + mlp_macs(1, *self.projector)


LLAMA_7B = DecoderShape(4096, 11008, 4096, 4096)
GEMMA_2B = DecoderShape(2048, 16384, 2048, 256)
_PRISMATIC = (2176, 8704, 4096, 4096)
_EXPERT = 18 * (2 * 1024 * (2048 + 256) + 3 * 1024 * 4096)


def _pi(name: str, prompt: int) -> CallShape:
    return CallShape(
        name,
        GEMMA_2B,
        layers=18,
        cameras=2,
        patches=256,
        others=prompt,
        towers=(PALIGEMMA,),
        projector=(1152, 2048),
        denoise_weights=_EXPERT,
        denoise_steps=10,
        empty=256,
    )


SHAPES = {
    "openvla-7b": CallShape(
        "openvla", LLAMA_7B, 32, 1, 256, 35, (DINO, SIGLIP), _PRISMATIC, 6, 32064
    ),
    "openvla-oft-7b": CallShape(
        "openvla-oft", LLAMA_7B, 32, 2, 256, 93, (DINO, SIGLIP), _PRISMATIC
    ),
    "pi0": _pi("pi0", 48),
    "pi05": _pi("pi05", 200),
}
"""Published shapes by name. Prompts have 35 tokens in OpenVLA's (291 and 605 in all), the padded
number in pi0's and pi0.5's, whose masked third camera is `empty`."""


@dataclass(frozen=True)
class Bound:
    """The least time of a stage."""

    stage: str
    ms: float
    limit: str
    """compute or memory."""
    pruning_helps: bool
    """Whether fewer visual tokens make it less."""


def stage_bound(card: Card, flops: float, numbers: float) -> tuple[float, str]:
    """Least time of some work, ms, and what limits it.

    Args:
        card: where it runs.
        flops: 2 x MAC.
        numbers: weights that must be read.
    """
    compute, memory = bound_ms(card, flops), bound_ms(card, 0.0, numbers * WEIGHT_BYTES)
    return (compute, "compute") if compute >= memory else (memory, "memory")


def bounds(shape: CallShape, card: Card, keep: float = 1.0, from_layer: int = 0) -> list[Bound]:
    """Least time of each stage of a call that keeps a share of its visual tokens.

    Args:
        shape: of the policy.
        card: where it runs.
        keep: share of visual tokens, 0 to 1.
        from_layer: decoder layer before which the others leave.
    """
    weights = shape.decoder_weights
    vision = stage_bound(card, 2 * shape.vision_macs, shape.vision_weights)
    prefill = stage_bound(card, 2 * shape.prefill_macs(keep, from_layer), weights)
    found = [
        Bound("vision", *vision, False),
        Bound("prefill", *prefill, prefill[1] == "compute"),
    ]
    if shape.decoded:
        # as many numbers are read as are multiplied: memory is the limit by far
        each = weights + shape.vocabulary * shape.decoder.width
        decode = stage_bound(card, 2 * each * shape.decoded, each * shape.decoded)
        found.append(Bound("decode", *decode, False))
    if shape.denoise_steps:
        read = shape.denoise_weights * shape.denoise_steps
        found.append(Bound("denoise", *stage_bound(card, 2 * read, read), False))
    return found


def floor_ms(shape: CallShape, card: Card, keep: float = 1.0) -> float:
    """Least time of a whole call, ms."""
    return sum(bound.ms for bound in bounds(shape, card, keep))


def launch_ms(shape: CallShape) -> float:
    """What launching the decoder's kernels may cost where nothing is fused, ms: an assumption
    (`LAUNCH_US`, `KERNELS_PER_LAYER`), no bound."""
    runs = 1 + shape.decoded
    return runs * shape.layers * KERNELS_PER_LAYER * LAUNCH_US / 1000
