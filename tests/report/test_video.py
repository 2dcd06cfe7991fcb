"""Videos: pruned patches are dimmed where they lie; files are whole or hidden."""

import imageio_ffmpeg
import numpy as np
import pytest

from vlaprune_bench.report.video import BAR, VideoWriter, compose, dim_pruned

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
    with VideoWriter(path, fps=4) as writer:
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
        with VideoWriter(path, fps=4) as writer:
            writer.add(np.zeros((64, 64, 3), np.uint8))
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        break_midway()
    assert path.exists()
