"""Episode videos: both cameras, pruned patches dimmed, a caption; H.264, written as a stream."""

from __future__ import annotations

import math
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

BAR = 24
"""Height of the caption bar, pixels."""
DIM = 0.25
"""Brightness left to a pruned patch."""


def dim_pruned(
    images: np.ndarray, kept: list[int] | None, grids: tuple[tuple[int, int], ...], crop_area: float
) -> np.ndarray:
    """Darken the patches that were pruned, where they lie in the frame.

    Args:
        images: (cameras, size, size, 3) uint8 frames as rendered.
        kept: indices of the kept visual tokens over all cameras; None: all were kept.
        grids: (rows, columns) of visual tokens of each camera.
        crop_area: fraction of the frame's area the policy sees; its margin is left as it is.

    Returns:
        (cameras, size, size, 3) uint8.
    """
    if kept is None:
        return images
    out = images.copy()
    size = images.shape[1]
    side = size * math.sqrt(crop_area)
    margin = (size - side) / 2
    mask = np.zeros(sum(r * c for r, c in grids), dtype=bool)
    mask[kept] = True
    start = 0
    for camera, (rows, columns) in enumerate(grids):
        keep_map = mask[start : start + rows * columns].reshape(rows, columns)
        start += rows * columns
        row_edges = np.round(margin + side * np.arange(rows + 1) / rows).astype(int)
        column_edges = np.round(margin + side * np.arange(columns + 1) / columns).astype(int)
        for r, c in np.argwhere(~keep_map):
            window = np.s_[row_edges[r] : row_edges[r + 1], column_edges[c] : column_edges[c + 1]]
            out[camera][window] = (out[camera][window] * DIM).astype(np.uint8)
    return out


def compose(images: np.ndarray, caption: str) -> np.ndarray:
    """Cameras side by side over a caption bar.

    Args:
        images: (cameras, size, size, 3) uint8.
        caption: one line.

    Returns:
        (size + BAR, cameras * size, 3) uint8; both sides even, as H.264 wants.
    """
    picture = np.concatenate(list(images), axis=1)
    bar = Image.new("RGB", (picture.shape[1], BAR), (16, 16, 16))
    ImageDraw.Draw(bar).text((6, 6), caption, fill=(235, 235, 235))
    return np.concatenate([picture, np.asarray(bar)], axis=0)


class VideoWriter:
    """Frames to an mp4 as they come; nothing is held in memory.

    The file carries its name only once it is whole: a kill leaves a hidden part behind.
    """

    def __init__(self, path: Path, fps: float) -> None:
        self.path = path
        self.fps = fps
        self._part = path.with_name(f".{path.name}.part.mp4")
        self._stream: Any = None

    def add(self, frame: np.ndarray) -> None:
        """Append one (height, width, 3) uint8 frame; all frames have one size."""
        if self._stream is None:
            import imageio_ffmpeg

            height, width = frame.shape[:2]
            self._stream = imageio_ffmpeg.write_frames(
                str(self._part),
                (width, height),
                fps=self.fps,
                codec="libx264",
                quality=None,
                macro_block_size=2,
                output_params=["-crf", "27", "-preset", "veryfast"],
                ffmpeg_log_level="error",
            )
            self._stream.send(None)
        self._stream.send(np.ascontiguousarray(frame))

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if self._stream is not None:
            self._stream.close()
            self._part.replace(self.path)
