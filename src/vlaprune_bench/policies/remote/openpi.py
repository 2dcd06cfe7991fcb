"""openpi's dialect, and RoboArena's, which came of it: observations are flat maps.

The server speaks first and sends its metadata. An observation is answered by a map with `actions`
(openpi) or, where it has `endpoint: infer`, by the actions alone (RoboArena); `endpoint: reset`
ends an episode, `session_id` says which one an observation is of. A text frame is an error.
Read off openpi (main, 2026-06), openpi-client 0.1.2 and robo-arena/roboarena.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from vlaprune_bench.policies.remote.dialect import (
    ACTION_SPACE,
    Answer,
    Begin,
    End,
    Hello,
    Keys,
    Look,
    Request,
    read_look,
    write_look,
)
from vlaprune_bench.policies.remote.wire import WireError, pack, unpack

KEYS = Keys(
    cameras=(("observation/image",), ("observation/wrist_image",)),
    state="observation/state",
    prompt="prompt",
    prefix="observation/",
)
"""openpi's for LIBERO."""
ARENA_KEYS = Keys(
    cameras=(
        (
            "observation/image",
            "observation/exterior_image_0_left",
            "observation/exterior_image_1_left",
        ),
        ("observation/wrist_image", "observation/wrist_image_left"),
    ),
    state="observation/state",
    prompt="prompt",
    prefix="observation/",
)
"""RoboArena's names of cameras beside them. Its joint and gripper positions are no LIBERO state,
and nothing here turns them into one."""
ARENA_METADATA = ("needs_wrist_camera", "n_external_cameras", "needs_session_id", "action_space")
"""By which RoboArena's metadata are known."""
RESET = "reset successful"
LONGEST = 256
"""Characters of a session's name."""
SIZE = 224
"""Side of the frames openpi's LIBERO client sends, pixels."""


class OpenpiServer:
    """The server's side.

    Args:
        arena: greet as RoboArena's clients want it: they take its six keys and no other.
    """

    name = "openpi"
    one_by_one = False
    extras = KEYS.prefix

    def __init__(self, arena: bool = False) -> None:
        self.arena = arena

    def greeting(self, facts: dict[str, Any]) -> bytes:
        if not self.arena:
            return pack(facts, "bytes")
        return pack(
            {
                "image_resolution": None,
                "needs_wrist_camera": facts["cameras"] > 1,
                "n_external_cameras": 1,
                "needs_stereo_camera": False,
                "needs_session_id": True,
                "action_space": ACTION_SPACE,
            },
            "bytes",
        )

    def read(self, frame: bytes | str, cameras: int) -> Request:
        data = message(frame)
        endpoint = data.get("endpoint")
        if endpoint not in (None, "infer", "reset"):
            raise WireError(
                "bad-message", f"endpoint is {endpoint!r:.60}; there are infer and reset."
            )
        session = _session(data.get("session_id"))
        if endpoint == "reset":
            return End(session or "")
        keys = KEYS if endpoint is None else ARENA_KEYS
        if endpoint is not None:
            session = session or ""
        return Look(session, **read_look(data, keys, cameras), style=endpoint or "")

    def answer(self, look: Look, answer: Answer) -> bytes:
        if look.style == "infer":
            return pack(answer.actions, "bytes")
        reply = {"actions": answer.actions, "server_timing": answer.timing, **answer.more}
        return pack(reply | {"vlaprune": answer.measures}, "bytes")

    def done(self, request: Begin | End | Hello, facts: dict[str, Any]) -> str:
        return RESET

    def error(self, error: WireError) -> str:
        return f"{error.kind}: {error.sentence}"


def message(frame: bytes | str) -> dict[Any, Any]:
    """A frame as a map.

    Raises:
        WireError: it is none.
    """
    if isinstance(frame, str):
        raise WireError("bad-message", "a text frame came; messages are binary, msgpack.")
    data = unpack(frame)
    if not isinstance(data, dict):
        raise WireError("bad-message", f"a message is a {type(data).__name__}; it must be a map.")
    return data


def _session(value: Any) -> str | None:
    """The name of a session: a text, a number, or an array of one."""
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.item()
    if value is None:
        return None
    if type(value) not in (str, int) or not 0 < len(str(value)) <= LONGEST:
        raise WireError(
            "bad-message", f"session_id is {value!r:.60}; it must be a short text or a number."
        )
    return str(value)


def is_arena(metadata: dict[Any, Any]) -> bool:
    """Whether metadata are those of a server of RoboArena's policies."""
    return all(key in metadata for key in ARENA_METADATA)


def frames_for(images: np.ndarray, metadata: dict[Any, Any]) -> np.ndarray:
    """Frames as a server wants them: of the size its metadata name (`image_resolution`; null: as
    they are), else as openpi's LIBERO client sends them, 224 x 224.

    Args:
        images: (cameras, size, size, 3) uint8.
        metadata: of the server.
    """
    from PIL import Image

    height, width = metadata.get("image_resolution", (SIZE, SIZE)) or images.shape[1:3]
    if (height, width) == images.shape[1:3]:
        return images
    scale = min(height / images.shape[1], width / images.shape[2])
    inner = int(images.shape[2] * scale), int(images.shape[1] * scale)
    out = np.zeros((len(images), height, width, 3), np.uint8)
    top, left = (height - inner[1]) // 2, (width - inner[0]) // 2
    for frame, image in zip(out, images, strict=True):
        small = Image.fromarray(image).resize(inner, Image.Resampling.BILINEAR)
        frame[top : top + inner[1], left : left + inner[0]] = np.asarray(small)
    return out


def request(look: Look, metadata: dict[Any, Any], state: np.ndarray) -> bytes:
    """A client's observation."""
    data = write_look(look, KEYS, state, metadata.get("takes", []))
    if "takes" in metadata:  # a server of ours
        data["session_id"] = look.episode
    return pack(data, "bytes")


def end(episode: str) -> bytes:
    """A client's word, to a server of ours, that an episode is over; answered by a text."""
    return pack({"endpoint": "reset", "session_id": episode}, "bytes")


def reply(frame: bytes | str) -> Answer:
    """What a server answered a client.

    Raises:
        WireError: an error, or no actions.
    """
    if isinstance(frame, str):
        lines = frame.strip().splitlines() or ["an empty text"]
        kind = "busy" if lines[-1].startswith("busy: ") else "failed"
        raise WireError(kind, f"the server says: {lines[-1][:500]}")
    data = message(frame)
    actions, timing = data.get("actions"), data.get("server_timing")
    if not isinstance(actions, np.ndarray):
        raise WireError("bad-message", f"actions are {type(actions).__name__}, not an array.")
    timing = timing if isinstance(timing, dict) else {}
    measures = data.get("vlaprune")
    return Answer(actions, timing, measures if isinstance(measures, dict) else None)
