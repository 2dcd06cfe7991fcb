"""Image preprocessing agrees with TensorFlow's, step by step."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from vlaprune_bench.policies.preprocess import (
    center_crop,
    crop_weights,
    jpeg_round_trip,
    pixel_values,
    prepare_frames,
    resample,
    resize,
    resize_weights,
)
from vlaprune_bench.types import OPENVLA_PROTOCOL, PROTOCOLS

CPU = torch.device("cpu")


@pytest.fixture
def frames(golden):
    tensors = np.load(golden / "preprocess.npz")
    numbers = sorted({name.partition(".")[0] for name in tensors})
    steps = ("frame", "after_jpeg", "resized_224", "center_cropped")
    return [{step: tensors[f"{n}.{step}"] for step in steps} for n in numbers]


def mean_difference(ours, theirs):
    ours = np.asarray(ours)
    if ours.shape != theirs.shape:
        ours = ours[0].transpose(1, 2, 0)
    return np.abs(ours.astype(float) - theirs.astype(float)).mean()


def to_nchw(frame):
    return torch.from_numpy(frame).permute(2, 0, 1)[None].float()


def test_jpeg_round_trip(frames):
    for f in frames:
        assert mean_difference(jpeg_round_trip(f["frame"], 95), f["after_jpeg"]) == 0.0
        assert mean_difference(jpeg_round_trip(f["frame"], 90), f["after_jpeg"]) > 0.3


def test_lanczos_resize(frames):
    for f in frames:
        resized = resize(to_nchw(f["after_jpeg"]), 224, "lanczos3")
        assert mean_difference(resized, f["resized_224"]) < 0.01
        other = resize(to_nchw(f["after_jpeg"]), 224, "bilinear")
        assert mean_difference(other, f["resized_224"]) > 0.1


def test_centre_crop(frames):
    for f in frames:
        cropped = center_crop(to_nchw(f["resized_224"]), 0.9)
        assert mean_difference(cropped, f["center_cropped"]) < 0.01
        by_side = center_crop(to_nchw(f["resized_224"]), 0.9**2)
        assert mean_difference(by_side, f["center_cropped"]) > 0.3


def test_whole_chain(frames):
    stack = np.stack([f["frame"] for f in frames])
    out = prepare_frames(stack, OPENVLA_PROTOCOL, 224, CPU)
    for i, f in enumerate(frames):
        assert mean_difference(out[i : i + 1], f["center_cropped"]) < 0.3


def test_protocol_switches_steps_off():
    frames = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), dtype=np.uint8)
    plain = dataclasses.replace(OPENVLA_PROTOCOL, jpeg_quality=None, crop_area=1.0)
    out = prepare_frames(frames, plain, 224, CPU)
    assert mean_difference(out, frames[0]) == 0.0
    cropped = prepare_frames(frames, dataclasses.replace(plain, crop_area=0.9), 224, CPU)
    assert mean_difference(cropped, frames[0]) > 1.0


def test_bilinear_is_pillows():
    frame = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(frame).resize((224, 224), Image.Resampling.BILINEAR))
    out = prepare_frames(frame[None], PROTOCOLS["openpi"], 224, CPU)
    difference = np.abs(out[0].permute(1, 2, 0).numpy() - expected)
    assert difference.max() <= 1.0
    assert difference.mean() < 0.3


def test_weights_are_averages():
    for weights in (
        resize_weights(256, 224, "lanczos3", CPU),
        resize_weights(256, 224, "bilinear", CPU),
        crop_weights(224, 0.9, CPU),
    ):
        torch.testing.assert_close(weights.sum(1), torch.ones(224))
    # the outermost samples lie (1 - sqrt(0.9)) / 2 of the way in
    edge = crop_weights(224, 0.9, CPU)[0] @ torch.arange(224.0)
    assert edge.item() == pytest.approx((1 - 0.9**0.5) / 2 * 223, abs=1e-4)


@pytest.mark.parametrize("source", [128, 224, 256, 300, 512])
@pytest.mark.parametrize("kernel", ["lanczos3", "bilinear"])
def test_leaving_zeros_out_changes_no_bit(source, kernel):
    """A product of the whole matrices adds up the same terms, in the same order."""
    random = np.random.default_rng(source)
    smooth = np.add.outer(np.arange(source), np.arange(source)) % 256  # sums that end in one half
    noise = random.integers(0, 256, (5, source, source))
    x = torch.from_numpy(np.stack([smooth, *noise])).float().view(2, 3, source, source)
    for weights in (resize_weights(source, 224, kernel, CPU), crop_weights(source, 0.9, CPU)):
        assert torch.equal(resample(weights, x, weights), weights @ x @ weights.T)


def test_channels_are_dino_then_siglip():
    frames = torch.zeros(2, 3, 4, 4)
    frames[1] = 255.0
    pixels = pixel_values(frames, torch.float32)
    assert pixels.shape == (1, 12, 4, 4)
    black, white = pixels[0, :6, 0, 0], pixels[0, 6:, 0, 0]
    torch.testing.assert_close(
        black[:3], torch.tensor([-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225])
    )
    torch.testing.assert_close(white[3:], torch.ones(3))
    torch.testing.assert_close(black[3:], -torch.ones(3))
