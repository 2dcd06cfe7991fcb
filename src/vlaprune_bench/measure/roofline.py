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


UNVERIFIED = "vendor's sheet, from memory: unverified"
CARDS = {
    "h200": Card(("H200",), 989, 4800, UNVERIFIED),
    "h100": Card(("H100",), 989, 3350, UNVERIFIED),
    "a100": Card(("A100",), 312, 2039, UNVERIFIED),
    "l40s": Card(("L40S",), 362, 864, UNVERIFIED),
    "rtx4090": Card(("4090",), 165, 1008, UNVERIFIED),
    "rtx3090": Card(("3090",), 71, 936, UNVERIFIED),
}
"""Cards by name; consumer cards at half rate with float32 accumulation."""


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
