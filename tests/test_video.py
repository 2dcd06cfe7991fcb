"""Videos: pruned patches are dimmed where they lie; files are whole or hidden."""

import imageio_ffmpeg
import numpy as np
import pytest

from tests.rows import measures
from vlaprune_bench import video
from vlaprune_bench.types import Observation, UserError
from vlaprune_bench.video import (
    BAR,
    VideoWriter,
    compose,
    dim_pruned,
    episode_video,
    side_by_side,
)

WHITE = np.full((2, 256, 256, 3), 255, np.uint8)
GRIDS = ((16, 16), (16, 16))


def test_nothing_is_dimmed_in_a_full_call():
    assert dim_pruned(WHITE, None, GRIDS, 0.9) is WHITE


def test_kept_patches_stay_bright_and_the_margin_is_left_alone():
    kept = [0, 17, 256 + 255]  # camera 0: row 0 column 0, row 1 column 1; camera 1: the last
    out = dim_pruned(WHITE, kept, GRIDS, 1.0)
    bright = out[..., 0] == 255
    expected = np.zeros((2, 256, 256), bool)
    expected[0, :16, :16] = expected[0, 16:32, 16:32] = expected[1, 240:, 240:] = True
    np.testing.assert_array_equal(bright, expected)
    # the policy sees a centre crop of 0.9 of the area: 6.6 pixels a side it does not see
    cropped = dim_pruned(WHITE, [], GRIDS, 0.9)
    assert (cropped[:, :6] == 255).all()
    assert (cropped[:, 8:-8, 8:-8] < 255).all()


def test_a_video_decodes_to_what_was_written(tmp_path):
    path = tmp_path / "episode.mp4"
    with VideoWriter(path, fps=4, seconds=1) as writer:
        for level in (40, 120, 200):
            writer.add(compose(np.full((2, 64, 64, 3), level, np.uint8), f"level {level}"))
            assert not path.exists()
    stream = imageio_ffmpeg.read_frames(str(path))
    meta = next(stream)
    assert meta["size"] == (128, 64 + BAR)
    assert meta["codec"] == "h264"
    frames = [np.frombuffer(f, np.uint8).reshape(64 + BAR, 128, 3) for f in stream]
    assert [round(f[:60].mean() / 40) for f in frames] == [1, 3, 5]
    assert len(list(tmp_path.iterdir())) == 1


def test_an_episode_that_breaks_keeps_its_frames_and_the_error(tmp_path):
    path = tmp_path / "episode.mp4"

    def break_midway():
        with VideoWriter(path, fps=4, seconds=1) as writer:
            writer.add(np.zeros((64, 64, 3), np.uint8))
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        break_midway()
    assert path.exists()


class Episode:
    """What a video sees of a running episode."""

    def __init__(self):
        self.steps, self.success, self.measures = 0, False, []


def play(path, frames, success=True, frame_steps=1, max_steps=520, gated=True):
    """Write a video of frames as an episode of one call after another would."""
    episode = Episode()
    with episode_video(
        path,
        episode,
        label="adp   keep 0.5",
        gated=gated,
        grids=GRIDS,
        crop_area=0.9,
        max_steps=max_steps,
        frame_steps=frame_steps,
    ) as show:
        for number, images in enumerate(frames):
            pruned = number // 8 % 2 == 1
            kept = list(range(0, 512, 2)) if pruned else None
            episode.measures.append(measures(pruned=pruned, kept_visual=kept))
            show(Observation(None, None, None, images))
            episode.steps += frame_steps
        episode.success = success
    return path


def decode(path):
    stream = imageio_ffmpeg.read_frames(str(path))
    meta = next(stream)
    width, height = meta["size"]
    return meta, [np.frombuffer(f, np.uint8).reshape(height, width, 3) for f in stream]


def captions(monkeypatch):
    """What is written into frames from now on."""
    seen = []
    original = video.compose

    def spy(images, caption, outcome=""):
        seen.append((caption, outcome))
        return original(images, caption, outcome)

    monkeypatch.setattr(video, "compose", spy)
    return seen


def test_a_caption_tells_method_keep_step_tokens_and_gate(tmp_path, monkeypatch):
    seen = captions(monkeypatch)
    play(tmp_path / "a.mp4", [WHITE] * 9, max_steps=9)
    assert seen[0] == ("adp   keep 0.5   step 0/9   tokens 256/512   gate: full", "")
    assert seen[8] == ("adp   keep 0.5   step 8/9   tokens 256/512   gate: prune", "")
    play(tmp_path / "b.mp4", [WHITE], gated=False)
    assert "gate" not in seen[-1][0]


@pytest.mark.parametrize(("success", "outcome"), [(True, "SUCCESS"), (False, "FAILED")])
@pytest.mark.parametrize("frame_steps", [1, 8])
def test_the_outcome_stands_for_a_second_at_the_end(
    tmp_path, monkeypatch, success, outcome, frame_steps
):
    seen = captions(monkeypatch)
    path = play(tmp_path / "a.mp4", [WHITE] * 5, success, frame_steps)
    assert seen[-1] == (seen[-1][0], outcome)
    meta, frames = decode(path)
    assert meta["fps"] == 20 / frame_steps  # the robot's own speed
    assert len(frames) == 5 + round(20 / frame_steps)
    ink = np.abs(frames[-1][256:].astype(int) - frames[4][256:]).max(axis=-1)
    assert ink[:, 400:].max() > 100  # it is written on the right


def test_an_episode_that_broke_says_so(tmp_path, monkeypatch):
    seen = captions(monkeypatch)

    def frames():
        yield WHITE
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        play(tmp_path / "a.mp4", frames())
    assert seen[-1][1] == "ERROR"
    assert (tmp_path / "a.mp4").exists()


@pytest.mark.parametrize("frame_steps", [1, 8])
@pytest.mark.parametrize("kind", ["moving texture", "noise"])
def test_a_whole_budget_fits_into_a_megabyte(tmp_path, kind, frame_steps):
    """The longest budget, every step a frame; noise cannot be compressed at all."""
    rng = np.random.default_rng(0)
    texture = rng.integers(0, 256, (900, 900, 3), dtype=np.uint8)

    def frames():
        for k in range(0, 520, frame_steps):
            moved = texture[k % 600 : k % 600 + 256, k // 3 : k // 3 + 256]
            still = texture[:256, :256]
            noise = rng.integers(0, 256, (2, 256, 256, 3), dtype=np.uint8)
            yield noise if kind == "noise" else np.stack([still, moved])

    path = play(tmp_path / "a.mp4", frames(), frame_steps=frame_steps)
    assert 100_000 < path.stat().st_size <= video.MAX_BYTES


def test_side_by_side_runs_on_one_clock_and_holds_the_last_frame(tmp_path):
    dark, light = np.full((2, 64, 64, 3), 40, np.uint8), np.full((2, 64, 64, 3), 200, np.uint8)
    left = play(tmp_path / "left.mp4", [dark] * 40, frame_steps=1)
    right = play(tmp_path / "right.mp4", [light] * 2, frame_steps=8)  # 16 steps
    side_by_side([left, right], tmp_path / "new" / "both.mp4")
    meta, frames = decode(tmp_path / "new" / "both.mp4")
    assert meta["size"] == (256, 64 + video.BAR)
    assert meta["fps"] == 20
    assert len(frames) == 40 + 20
    for frame in frames[::7]:
        assert frame[:60, :120].mean() < 100
        assert frame[:60, 136:].mean() > 100


def test_videos_that_do_not_fit_or_are_none_are_one_sentence(tmp_path):
    small = play(tmp_path / "a.mp4", [WHITE[:, :64, :64]])
    large = play(tmp_path / "b.mp4", [WHITE])
    with pytest.raises(UserError, match="differ in height"):
        side_by_side([small, large], tmp_path / "c.mp4")
    small.write_bytes(b"noise")
    with pytest.raises(UserError, match=r"a\.mp4 cannot be read as a video"):
        side_by_side([small, large], tmp_path / "c.mp4")
    assert not (tmp_path / "c.mp4").exists()
