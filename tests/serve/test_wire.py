"""What is read off the wire is numbers, and what is not is refused in one sentence."""

import io
import pickle

import msgpack
import numpy as np
import pytest
from PIL import Image

from vlaprune_bench.policies.normalize import axis_angle
from vlaprune_bench.policies.remote.dialect import quat_of
from vlaprune_bench.policies.remote.openpi import frames_for
from vlaprune_bench.policies.remote.wire import WireError, pack, unpack

ARRAYS = [
    np.arange(6, dtype=np.float32).reshape(2, 3),
    np.zeros((0, 7)),
    np.array([True, False]),
    np.array(3, dtype=">i2"),
    np.arange(4, dtype=np.uint64)[::2],
]


@pytest.mark.parametrize("keys", ["bytes", "text"])
def test_arrays_come_back_as_they_went(keys):
    for array in ARRAYS:
        (back,) = unpack(pack([array], keys))
        assert (back.dtype, back.shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(back, array)
    assert unpack(pack({"n": np.float32(0.5), "m": np.int64(3)}, keys)) == {"n": 0.5, "m": 3}


def coded(form, frame):
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, form)
    return buffer.getvalue()


def test_images_of_vla_eval():
    frame = np.random.default_rng(0).integers(0, 256, (6, 4, 3), dtype=np.uint8)
    raw = {"__image__": True, "shape": [6, 4, 3]}
    sent = [
        {**raw, "format": "raw", "data": frame.tobytes(), "dtype": "|u1"},
        {**raw, "format": "png", "data": coded("PNG", frame)},
        {**raw, "format": "jpeg", "data": coded("JPEG", np.full_like(frame, 128))},
    ]
    one, two, three = unpack(msgpack.packb(sent))
    np.testing.assert_array_equal(one, frame)
    np.testing.assert_array_equal(two, frame)
    np.testing.assert_array_equal(three, np.full_like(frame, 128))


def array(**changes):
    whole = {"data": bytes(8), "dtype": "<f8", "shape": [1]} | changes
    return {b"__ndarray__": True, **{k.encode(): v for k, v in whole.items()}}


def image(**changes):
    made = {"format": "png", "data": coded("PNG", np.zeros((2, 2, 3), np.uint8))}
    return {"__image__": True, "shape": [2, 2, 3], **made, **changes}


BAD = {
    "object": array(dtype="|O", data=pickle.dumps(print)),
    "structure": array(dtype="f8,f8"),
    "void": array(dtype="|V8"),
    "complex": array(dtype="<c8"),
    "text": array(dtype="<U2"),
    "time": array(dtype="<M8[s]"),
    "long double": array(dtype="<f16"),
    "no dtype": array(dtype=3),
    "short": array(shape=[2]),
    "huge": array(shape=[2**62, 2**62, 2**62]),
    "negative": array(shape=[-1]),
    "fraction": array(shape=[1.0]),
    "no shape": array(shape=8),
    "no bytes": array(data=[1]),
    "lacking": {b"__ndarray__": True},
    "number of objects": {b"__npgeneric__": True, b"data": 1, b"dtype": "O"},
    "number that is none": {b"__npgeneric__": True, b"data": "x", b"dtype": "<f8"},
    "image cut short": image(data=image()["data"][:40]),
    "image of another kind": image(data=coded("GIF", np.zeros((2, 2, 3), np.uint8))),
    "image of another shape": image(shape=[2, 2]),
    "format": image(format="webp"),
    "bomb": image(data=coded("PNG", np.zeros((1, 5000, 3), np.uint8)), shape=[1, 5000, 3]),
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_no_array_of_numbers_is_refused(what):
    with pytest.raises(WireError, match="cannot be read: ") as caught:
        unpack(msgpack.packb({"x": [BAD[what]]}))
    assert caught.value.kind == "bad-message"
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "data",
    [b"", b"\xc1", b"\x81\xa1a", b"\x91" * 5000, b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff"],
    ids=["empty", "reserved", "cut", "deep", "long list", "long bytes"],
)
def test_what_is_no_msgpack(data):
    with pytest.raises(WireError):
        unpack(data)


def test_objects_are_not_sent():
    for value in (np.array([object()]), np.array(["x"]), np.complex64(1), object()):
        for keys in ("bytes", "text"):
            with pytest.raises(TypeError):
                pack({"x": value}, keys)


def test_a_rotation_there_and_back():
    random = np.random.default_rng(0)
    for _ in range(200):
        quat = random.normal(size=4)
        quat /= np.linalg.norm(quat)
        np.testing.assert_allclose(quat_of(axis_angle(quat)), quat, atol=1e-12)
    np.testing.assert_array_equal(quat_of(np.zeros(3)), [0, 0, 0, 1])


def test_frames_are_padded_not_stretched():
    wide = np.full((1, 100, 200, 3), 200, np.uint8)
    (small,) = frames_for(wide, {})
    assert small.shape == (224, 224, 3)
    assert (small[56:168] == 200).all()
    assert not small[:56].any()
    assert not small[168:].any()
    assert frames_for(wide, {"image_resolution": None}) is wide
    assert frames_for(wide, {"image_resolution": [50, 100]}).shape == (1, 50, 100, 3)
