"""Episode videos: both cameras, pruned patches dimmed, a caption; H.264, written as a stream.

A video runs at the speed of the robot, whether each control step or each policy call is a frame.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from PIL import Image, ImageDraw

from vlaprune_bench.types import CallMeasures, Observation, UserError

BAR = 24
"""Height of the caption bar, pixels."""
DIM = 0.25
"""Brightness left to a pruned patch."""
CONTROL_HZ = 20.0
MAX_BYTES = 1_000_000
"""Size of a file at most: the encoder's rate is limited so that the whole budget fits."""
CLOSING_S = 1.0
"""How long the last frame stands with the outcome, seconds."""
INK = {"SUCCESS": (120, 225, 150), "FAILED": (255, 145, 135), "ERROR": (255, 145, 135)}


class Episode(Protocol):
    """As much of a running episode as its video shows."""

    steps: int
    success: bool
    measures: list[CallMeasures]


@contextmanager
def episode_video(
    path: Path,
    episode: Episode,
    *,
    label: str,
    gated: bool,
    grids: tuple[tuple[int, int], ...],
    crop_area: float,
    max_steps: int,
    frame_steps: int,
) -> Iterator[Callable[[Observation], None]]:
    """Write an episode's video while it runs.

    Args:
        path: of the file, there once the episode is over (also where it broke).
        episode: read whenever a frame is shown, and for the outcome at the end.
        label: begins each caption: method and keep.
        gated: the method has a gate; its state is written in.
        grids: (rows, columns) of visual tokens of each camera.
        crop_area: fraction of the frame's area the policy sees.
        max_steps: the budget.
        frame_steps: control steps from frame to frame.

    Yields:
        What is to be shown every observation that has images, after the call it led to.
    """
    fps = CONTROL_HZ / frame_steps
    picture: np.ndarray | None = None

    def caption() -> str:
        last = episode.measures[-1]
        parts = [label, f"step {episode.steps}/{max_steps}"]
        if last.visual_tokens is not None:
            parts.append(f"tokens {last.visual_tokens_kept}/{last.visual_tokens}")
        if gated:
            parts.append("gate: prune" if last.pruned else "gate: full")
        return "   ".join(parts)

    with VideoWriter(path, fps, max_steps / CONTROL_HZ + CLOSING_S) as writer:

        def show(observation: Observation) -> None:
            nonlocal picture
            assert observation.images is not None
            kept = episode.measures[-1].kept_visual
            picture = dim_pruned(observation.images, kept, grids, crop_area)
            writer.add(compose(picture, caption()))

        outcome = "ERROR"
        try:
            yield show
            outcome = "SUCCESS" if episode.success else "FAILED"
        finally:
            if picture is not None:
                closing = compose(picture, caption(), outcome)
                for _ in range(max(1, round(CLOSING_S * fps))):
                    writer.add(closing)


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


def compose(images: np.ndarray, caption: str, outcome: str = "") -> np.ndarray:
    """Cameras side by side over a caption bar.

    Args:
        images: (cameras, size, size, 3) uint8.
        caption: one line.
        outcome: a key of `INK`, at the right end of the line; "": not known yet.

    Returns:
        (size + BAR, cameras * size, 3) uint8; both sides even, as H.264 wants.
    """
    picture = np.concatenate(list(images), axis=1)
    bar = Image.new("RGB", (picture.shape[1], BAR), (16, 16, 16))
    draw = ImageDraw.Draw(bar)
    draw.text((6, 6), caption, fill=(235, 235, 235))
    if outcome:
        draw.text((bar.width - 6, 6), outcome, fill=INK[outcome], anchor="ra")
    return np.concatenate([picture, np.asarray(bar)], axis=0)


class VideoWriter:
    """Frames to an mp4 as they come; nothing is held in memory.

    The file carries its name only once it is whole: a kill leaves a hidden part behind.

    Args:
        path: of the file; its folder is made.
        fps: frames per second.
        seconds: how long the video is at most; what `MAX_BYTES` is shared out over.
    """

    def __init__(self, path: Path, fps: float, seconds: float) -> None:
        self.path = path
        self.fps = fps
        # a tenth for the container; x264 keeps the rate over any second
        self._rate = str(int(0.9 * 8 * MAX_BYTES / (seconds + 1)))
        self._part = path.with_name(f".{path.name}.part.mp4")
        self._stream: Any = None

    def add(self, frame: np.ndarray) -> None:
        """Append one (height, width, 3) uint8 frame; all frames have one size."""
        if self._stream is None:
            import imageio_ffmpeg

            self.path.parent.mkdir(parents=True, exist_ok=True)
            height, width = frame.shape[:2]
            quality = ["-crf", "27", "-preset", "veryfast", "-threads", "1"]
            self._stream = imageio_ffmpeg.write_frames(
                str(self._part),
                (width, height),
                fps=self.fps,
                codec="libx264",
                quality=None,
                macro_block_size=2,
                output_params=[*quality, "-maxrate", self._rate, "-bufsize", self._rate],
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


def side_by_side(paths: Sequence[Path], out: Path) -> None:
    """Videos of one episode next to each other; the shorter ones hold their last frame.

    Args:
        paths: videos of equal height, of any frame rate.
        out: the file to write; at most `MAX_BYTES` too.

    Raises:
        UserError: a video cannot be read, or they differ in height.
    """
    opened = [_open(path) for path in paths]
    rate = max(meta["fps"] for meta, _ in opened)
    heights = {meta["size"][1] for meta, _ in opened}
    if len(heights) > 1:
        names = " and ".join(map(str, paths))
        raise UserError(f"{names} differ in height ({sorted(heights)} pixels); they must agree.")
    longest = max(meta["duration"] for meta, _ in opened)
    pictures: list[Any] = [None] * len(opened)
    streams = [_at_rate(frames, rate / meta["fps"]) for meta, frames in opened]
    with VideoWriter(out, rate, longest) as writer:
        for found in zip_longest(*streams):
            pictures = [
                old if new is None else new for old, new in zip(pictures, found, strict=True)
            ]
            writer.add(np.concatenate(pictures, axis=1))


def first_frame(path: Path) -> np.ndarray:
    """The first picture of a video, (height, width, 3) uint8.

    Raises:
        UserError: the video cannot be read.
    """
    _, frames = _open(path)
    frame = next(frames, None)
    if frame is None:
        raise UserError(f"{path} has no picture; run its episode again.")
    return frame


def _open(path: Path) -> tuple[dict[str, Any], Iterator[np.ndarray]]:
    """Properties and frames of a video."""
    import imageio_ffmpeg

    stream = imageio_ffmpeg.read_frames(str(path))
    try:
        meta = next(stream)
    except (OSError, RuntimeError, StopIteration) as error:
        raise UserError(f"{path} cannot be read as a video; run its episode again.") from error
    width, height = meta["size"]
    return meta, (np.frombuffer(data, np.uint8).reshape(height, width, 3) for data in stream)


def _at_rate(frames: Iterator[np.ndarray], times: float) -> Iterator[np.ndarray]:
    """Frames as often as a video of `times` the rate shows them."""
    shown = 0
    for number, frame in enumerate(frames, start=1):
        while shown < round(number * times):
            yield frame
            shown += 1
