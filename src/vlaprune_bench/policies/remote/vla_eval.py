"""vla-eval's dialect: typed messages, one action for every observation.

The client speaks first (`hello`), says where an episode begins and ends, and sends what it sees at
every step; the server holds the chunk and gives one action of it. Read off vla-eval 0.8.0.
"""

from __future__ import annotations

import time
from importlib.metadata import version
from typing import Any

import numpy as np

from vlaprune_bench.policies.remote.dialect import (
    ACTION,
    STATE,
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
from vlaprune_bench.policies.remote.openpi import message
from vlaprune_bench.policies.remote.wire import WireError, pack

VERSION = 1
"""Of the protocol."""
KEYS = Keys(cameras=(("agentview",), ("wrist",)), state="states", prompt="task_description")
"""Those of its LIBERO benchmark, cameras in a map of their own (`images`)."""
_ACTION_SPEC = {
    "position": ("position", 3, "delta_xyz", (-1, 1)),
    "rotation": ("rotation", 3, "axis_angle", (-3.15, 3.15)),
    "gripper": ("gripper", 1, "binary_close_positive", (-1, 1)),
}
_SEEN_SPEC = {
    "agentview": ("image", 0, "rgb_hwc_uint8", None),
    "wrist": ("image", 0, "rgb_hwc_uint8", None),
    "state": ("state", STATE, "eef_pos3_axisangle3_gripper2", None),
    "language": ("language", 0, "language", None),
}


class VlaEvalServer:
    """The server's side."""

    name = "vla-eval"
    one_by_one = True
    extras = KEYS.prefix

    def greeting(self, facts: dict[str, Any]) -> None:
        return None

    def read(self, frame: bytes | str, cameras: int) -> Request:
        kind, payload, seq = parts(frame)
        try:
            return self._request(kind, payload, seq, cameras)
        except WireError as error:
            error.seq = seq
            raise

    def _request(self, kind: str, payload: dict[Any, Any], seq: int, cameras: int) -> Request:
        if kind == "hello":
            return Hello(payload, seq)
        if kind == "episode_start":
            return Begin("", payload.get("task"), seq)
        if kind == "episode_end":
            return End("", seq)
        if kind != "observation":
            raise WireError("bad-message", f"type is {kind}; a client does not send that.")
        images = payload.get("images")
        if not isinstance(images, dict):
            raise WireError("bad-observation", "images is missing; it must be a map of cameras.")
        return Look("", **read_look({**payload, **images}, KEYS, cameras), seq=seq)

    def answer(self, look: Look, answer: Answer) -> bytes:
        payload = {"actions": answer.actions, "server_timing": answer.timing, **answer.more}
        return write("action", payload | {"vlaprune": answer.measures}, look.seq)

    def done(self, request: Begin | End | Hello, facts: dict[str, Any]) -> bytes | None:
        if not isinstance(request, Hello):
            return None
        said = request.about.get("protocol_version")
        if said != VERSION:
            raise WireError("refused", f"protocol_version is {said!r:.20}; this is {VERSION}.")
        cameras = list(_SEEN_SPEC)[: facts["cameras"]]
        seen = {k: _SEEN_SPEC[k] for k in (*cameras, "state", "language")}
        payload = {
            "harness_version": facts["server"],
            "protocol_version": VERSION,
            "model_server": facts["server"],
            "capabilities": {},
            "observation_params": {
                "send_wrist_image": facts["cameras"] > 1,
                "send_state": True,
                "env_seed": facts["env_seed"],
                "quat_no_antipodal": True,
            },
            "action_spec": {key: _spec(*spec) for key, spec in _ACTION_SPEC.items()},
            "observation_spec": {key: _spec(*spec) for key, spec in seen.items()},
            "vlaprune": facts,
        }
        return write("hello", payload, request.seq)

    def error(self, error: WireError) -> bytes:
        return write("error", {"error": error.sentence, "kind": error.kind}, error.seq)


def _spec(name: str, dims: int, form: str, bounds: tuple[float, float] | None) -> dict[str, Any]:
    found: dict[str, Any] = {"name": name, "dims": dims, "format": form}
    return found if bounds is None else found | {"range": list(bounds)}


def is_hello(frame: bytes | str) -> bool:
    """Whether a first frame is that of a client of this dialect."""
    try:
        return message(frame).get("type") == "hello"
    except WireError:
        return False


def write(kind: str, payload: dict[str, Any], seq: int) -> bytes:
    """A message."""
    data = {"type": kind, "payload": payload, "seq": seq, "timestamp": time.time()}
    return pack(data, "text")


def parts(frame: bytes | str) -> tuple[str, dict[Any, Any], int]:
    """Type, payload and number of a message.

    Raises:
        WireError: it is none of this dialect.
    """
    data = message(frame)
    kind, payload, seq = (data.get(name) for name in ("type", "payload", "seq"))
    if not isinstance(kind, str) or not isinstance(payload, dict) or type(seq) is not int:
        raise WireError("bad-message", "a message needs type (text), payload (map), seq (number).")
    return kind, payload, seq


def hello() -> bytes:
    """A client's first message."""
    return write(
        "hello",
        {
            "harness_version": f"vlaprune-bench {version('vlaprune-bench')}",
            "protocol_version": VERSION,
            "benchmark": "vlaprune_bench:LIBERO",
        },
        0,
    )


def request(look: Look, facts: dict[Any, Any], state: np.ndarray, cameras: bool) -> bytes:
    """A client's observation.

    Args:
        look: what is asked.
        facts: of a server of ours, else nothing.
        state: (8,).
        cameras: the wrist's is wanted, too.
    """
    data = write_look(look, KEYS, state, facts.get("takes", []))
    names = [names[0] for names in KEYS.cameras][: 1 + cameras]
    images = {name: data[name] for name in names}
    rest = {k: v for k, v in data.items() if k not in ("agentview", "wrist")}
    return write("observation", {**rest, "images": images}, look.seq)


def reply(frame: bytes | str) -> Answer:
    """What a server answered a client.

    Raises:
        WireError: an error, or no actions.
    """
    kind, payload, _ = parts(frame)
    if kind == "error":
        raise WireError("failed", f"the server says: {payload.get('error', payload)!s:.500}")
    actions = payload.get("actions", payload.get("action"))
    if kind != "action" or actions is None:
        raise WireError("bad-message", f"a message of type {kind} came, without actions.")
    if isinstance(actions, list):
        actions = np.array(actions, dtype=np.float64)
    if not isinstance(actions, np.ndarray):
        raise WireError("bad-message", f"actions are {type(actions).__name__}, not an array.")
    timing, measures = payload.get("server_timing"), payload.get("vlaprune")
    return Answer(
        actions.reshape(1, -1) if actions.shape == (ACTION,) else actions,
        timing if isinstance(timing, dict) else {},
        measures if isinstance(measures, dict) else None,
    )
