"""Known frames: what the simulator must show where everything is right."""

from __future__ import annotations

import json
import time
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from vlaprune_bench.sim.assets import AssetSet

PROBES = {"libero_object": 0, "libero_spatial": 5}
"""Suite and task of the known frames: the first shows much floor, whose brightness tells how
textures are read; in the second a bowl stands on another object and must settle. Under MuJoCo 3.4.0
the real bowl settles elsewhere, which moves a block by 49 of 255; the lite one stays (0.3). 3.3.3
shows the same frames."""
TOLERANCE = 8.0
"""Largest difference to a known frame, of 255, in any of its 16 x 16 blocks."""


def probe(suite: str, task: int, assets: AssetSet) -> tuple[np.ndarray, str]:
    """Begin an episode.

    Returns:
        Its first frame, main camera, (256, 256, 3) uint8; and how fast frames come, in words.
    """
    from vlaprune_bench.sim.libero import LiberoTask
    from vlaprune_bench.sim.tasks import TaskKey

    with LiberoTask(TaskKey(suite, task, assets)) as environment:
        start = time.perf_counter()
        frames = environment.reset(0).images
        reset_s = time.perf_counter() - start
        assert frames is not None
        times = []
        for look in (True, False) * 5:
            start = time.perf_counter()
            environment.step(np.zeros(7), look=look)
            times.append(1000 * (time.perf_counter() - start))
    step = float(np.median(times[1::2]))
    pair = max(float(np.median(times[0::2])) - step, 0.0)
    return frames[0], f"reset {reset_s:.1f} s, step {step:.0f} ms, both cameras {pair:.0f} ms"


def difference(name: str, kind: str, frame: np.ndarray) -> float:
    """Largest difference of a block between a probe's frame and the known one, of 255."""
    return float(np.abs(blocks(frame) - np.array(known_frames()[kind][name])).max())


def blocks(frame: np.ndarray) -> np.ndarray:
    """Mean brightness of 16 x 16 blocks of a (256, 256, 3) frame: (16, 16), 0 to 255."""
    return frame.mean(-1).reshape(16, 16, 16, 16).mean((1, 3))


def known_frames() -> dict[str, Any]:
    """`blocks` of each probe ("SUITE task N", trial 0, settled) by kind of assets.

    Made by `scripts/make_known_frames.py` under the pinned MuJoCo.
    """
    path = files("vlaprune_bench.doctor") / "known_frames.json"
    return dict(json.loads(path.read_text(encoding="utf-8")))
