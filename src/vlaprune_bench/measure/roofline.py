"""The least time that arithmetic and memory of a named card allow.

A stage can be no faster than its multiply-adds at the card's peak, nor than reading its weights
once from the card's memory (Williams et al., "Roofline", CACM 52, 2009). What a kernel reaches of
it, and what launching costs, is not in it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Card:
    """Peak rates of a GPU, dense, without sparsity."""

    names: tuple[str, ...]
    """Parts of the device's name that tell it, all of which must occur."""
    tflops: float
    """bfloat16 or float16 on tensor cores, float32 accumulation, 10^12 FLOP/s."""
    gb_per_s: float
    """Memory, 10^9 bytes/s."""
    source: str


UNVERIFIED = "unverified (vendor's sheet, from memory)"
_HMC = "hmc-tech.com/gpus/nvidia-a100-sxm-vs-nvidia-b200"
_ACE = "acecloud.ai/blog/nvidia-b200-vs-h200-h100-a100"
CARDS = {
    "b200": Card(("B200",), 2250, 8000, f"{_HMC}; memory: {_ACE}"),
    "h200": Card(("H200",), 989, 4800, "SXM: itkb.uw.cz/2026/06 (H200 vs B300)"),
    "h100": Card(("H100",), 989, 3350, f"SXM; memory: {_ACE}; products: those of the H200"),
    "a100": Card(("A100",), 312, 2039, f"SXM, 80 GB: {_HMC}, {_ACE}"),
    "a800": Card(("A800",), 312, 2039, UNVERIFIED),
    "a10g": Card(("A10G",), 70, 600, UNVERIFIED),
    "l40s": Card(("L40S",), 362, 864, UNVERIFIED),
    "rtx5090": Card(("5090",), 209.5, 1792, UNVERIFIED),
    "rtx4090": Card(("4090",), 165.2, 1008, "waredb.com/processor/nvidia-geforce-rtx-4090"),
    "rtx3090": Card(("3090",), 71, 936, UNVERIFIED),
}
"""Cards by name; consumer cards at half rate with float32 accumulation. Sources are third parties'
tables, read in November 2026; none is the maker's data sheet."""


def card_of(device: str) -> Card | None:
    """The card a device's name says, or None where it is not in the table."""
    return next((c for c in CARDS.values() if all(name in device for name in c.names)), None)


def bound_ms(card: Card, flops: float, read_bytes: float = 0.0) -> float:
    """The least time of a stage.

    Args:
        card: where it runs.
        flops: it executes.
        read_bytes: it must read from memory at least, such as weights once.

    Returns:
        Milliseconds.
    """
    return max(flops / (card.tflops * 1e9), read_bytes / (card.gb_per_s * 1e6))
