"""msgpack with numpy arrays, as openpi, RoboArena and vla-eval put them on the wire.

An array is a map with its bytes, dtype and shape. openpi and RoboArena write its keys as bytes,
vla-eval as text, and images there may be PNG or JPEG. Read is what is numbers: no objects, no
pickles, no structures, nothing whose bytes are not as many as its shape says.
"""

from __future__ import annotations

import io
import math
import re
from dataclasses import dataclass
from typing import Any, Literal

import msgpack
import numpy as np

Keys = Literal["bytes", "text"]
"""How the keys of an array's map are written."""
_DTYPE = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248])")
MAX_SIDE = 4096
"""Pixels of a side of an encoded image: a small file may unpack to a large one."""
UNPACK_ERRORS = (
    ValueError,
    TypeError,
    LookupError,
    OverflowError,
    RecursionError,
    msgpack.UnpackException,
)
"""What msgpack and numpy raise on bytes that are not what they should be."""


@dataclass
class WireError(Exception):
    """A message that cannot be taken as it is."""

    kind: str
    """A word for programs: bad-message, bad-observation, no-episode, busy, refused or failed."""
    sentence: str
    """What is wrong, and what would be right."""
    seq: int = 0
    """Of the message, where it could be read."""

    def __str__(self) -> str:
        return self.sentence


def pack(message: Any, keys: Keys) -> bytes:
    """A message as msgpack; arrays may stand anywhere in it."""
    return msgpack.packb(message, default=_from_text if keys == "text" else _from_bytes)


def unpack(data: bytes) -> Any:
    """A message from msgpack, arrays of both kinds of keys read.

    Returns:
        Plain data and numpy arrays; those of raw bytes cannot be written to.

    Raises:
        WireError: it is no msgpack, or holds what is no array of numbers.
    """
    try:
        return msgpack.unpackb(data, object_hook=_to_array, strict_map_key=True)
    except UNPACK_ERRORS as error:
        why = " ".join(f"{type(error).__name__}: {error}".split())[:200].rstrip(".")
        raise WireError(
            "bad-message", f"a message of {len(data)} bytes cannot be read: {why}."
        ) from error


def _from_bytes(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = np.asarray(value)
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": _named(value.dtype)}
    array = _array(value)
    return {
        b"__ndarray__": True,
        b"data": array.tobytes(),
        b"dtype": _named(array.dtype),
        b"shape": array.shape,
    }


def _from_text(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    array = _array(value)
    return {
        "__ndarray__": True,
        "data": array.tobytes(),
        "dtype": _named(array.dtype),
        "shape": list(array.shape),
    }


def _array(value: Any) -> np.ndarray:
    if not isinstance(value, np.ndarray):
        raise TypeError(f"a {type(value).__name__} cannot be sent")
    return value


def _named(dtype: np.dtype) -> str:
    if not _DTYPE.fullmatch(dtype.str):
        raise TypeError(f"arrays of {dtype} are not sent: numbers are")
    return dtype.str


def _to_array(data: dict[Any, Any]) -> Any:
    """What a map stands for: an array, an image, a number, or itself."""
    if b"__ndarray__" in data:
        return _numbers(data[b"data"], data[b"dtype"], data[b"shape"])
    if b"__npgeneric__" in data:
        return _dtype(data[b"dtype"]).type(data[b"data"]).item()
    if "__ndarray__" in data:
        return _numbers(data["data"], data["dtype"], data["shape"])
    if "__image__" in data:
        return _image(data)
    return data


def _dtype(name: Any) -> np.dtype:
    text = name.decode("ascii", "replace") if isinstance(name, bytes) else name
    if not isinstance(text, str) or not _DTYPE.fullmatch(text):
        raise ValueError(f"dtype {text!r}: arrays are bool, int, uint or float, up to 8 bytes")
    return np.dtype(text)


def _numbers(data: Any, dtype: Any, shape: Any) -> np.ndarray:
    kind = _dtype(dtype)
    if not isinstance(data, bytes):
        raise ValueError(f"the data of an array are {type(data).__name__}, not bytes")
    if not isinstance(shape, list | tuple) or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError(f"shape {shape!r:.60} is no list of sizes")
    if math.prod(shape) * kind.itemsize != len(data):
        raise ValueError(f"an array of shape {shape!r:.60} and {kind} came with {len(data)} bytes")
    return np.frombuffer(data, kind).reshape(shape)


def _image(data: dict[Any, Any]) -> np.ndarray:
    """An image as vla-eval sends it: raw, PNG or JPEG."""
    if data["format"] == "raw":
        return _numbers(data["data"], data["dtype"], data["shape"])
    from PIL import Image

    formats = {"png": "PNG", "jpeg": "JPEG"}
    if data["format"] not in formats or not isinstance(data["data"], bytes):
        raise ValueError(f"image format {data['format']!r:.60}; there are raw, png and jpeg")
    try:
        picture = Image.open(io.BytesIO(data["data"]), formats=[formats[data["format"]]])
        if max(picture.size) > MAX_SIDE:
            raise ValueError(f"an image of {picture.size} pixels; a side has at most {MAX_SIDE}")
        found = np.array(picture)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"an image cannot be decoded: {error}") from error
    if list(found.shape) != list(data["shape"]):
        raise ValueError(f"an image of shape {found.shape} came as {data['shape']!r:.60}")
    return found
