"""The README's picture: frames of a demo video side by side.

make demo && .venv/bin/python scripts/demo_picture.py results/demo docs/demo.jpg
"""

from __future__ import annotations

import sys
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from PIL import Image

from vlaprune_bench.store import load_calls, load_results


def frames(video: Path) -> list[np.ndarray]:
    """All frames of a video, (height, width, 3) uint8."""
    stream = imageio_ffmpeg.read_frames(str(video))
    width, height = next(stream)["size"]
    return [np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in stream]


def picture(results: Path) -> Image.Image:
    """First call, first pruned one and end of the episode, of those solved, most often pruned."""
    solved = load_results(results).query("success")
    episode = solved.sort_values("pruned_call_fraction").episode_id.iloc[-1]
    calls = load_calls(results).query("episode_id == @episode").sort_values("call")
    pruned = calls.call[calls.pruned].tolist()
    (video,) = (results / "_videos").glob(f"*{episode}.mp4")
    shown = frames(video)
    return Image.fromarray(np.hstack([shown[i] for i in (0, pruned[0], -1)]))


if __name__ == "__main__":
    picture(Path(sys.argv[1])).save(sys.argv[2], quality=88)
