"""vla-eval's dialect: typed messages, one action for every observation.

The client speaks first (`hello`), says where an episode begins and ends, and sends what it sees at
every step; the server holds the chunk and gives one action of it. Read off vla-eval 0.8.0.
"""

from __future__ import annotations

import time
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import numpy as np

from vlaprune_bench.policies.normalize import robot_state
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
from vlaprune_bench.types import EvalProtocol, UserError

VERSION = 1
"""Of the protocol."""
KEYS = Keys(cameras=(("agentview",), ("wrist",)), state="states", prompt="task_description")
"""Those of its LIBERO benchmark, cameras in a map of their own (`images`)."""
KNOWN_PARAMS = (
    "send_wrist_image",
    "send_state",
    "quat_no_antipodal",
    "env_seed",
    "seed",
    "absolute_action",
)
"""What a server may ask of its client's observations (`observation_params`)."""
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


def request(look: Look, facts: dict[Any, Any], wants: dict[str, Any]) -> bytes:
    """A client's observation.

    Args:
        look: what is asked.
        facts: of a server of ours, else nothing.
        wants: the server's `observation_params`.
    """
    seen = look.observation
    if not wants.get("quat_no_antipodal") and seen.eef_quat[3] < 0:
        # its LIBERO benchmark then gives the shorter rotation
        state = robot_state(replace(seen, eef_quat=-seen.eef_quat))
    else:
        state = robot_state(seen)
    data = write_look(look, KEYS, state, facts.get("takes", []))
    (main,), (wrist,) = KEYS.cameras
    images = {main: data.pop(main), wrist: data.pop(wrist)}
    if not wants.get("send_wrist_image"):
        del images[wrist]
    if not wants.get("send_state"):
        del data[KEYS.state]
    return write("observation", {**data, "images": images}, look.seq)


def check(hello: dict[Any, Any], protocol: EvalProtocol) -> list[str]:
    """What a server's hello asks of a client that plays LIBERO.

    Args:
        hello: its payload.
        protocol: of the evaluation.

    Returns:
        What the reader of rows must know.

    Raises:
        UserError: it asks for what is not given here, or its actions are not LIBERO's.
    """
    wants, notes = hello.get("observation_params") or {}, []
    for name, value in wants.items():
        if name not in KNOWN_PARAMS or (name == "absolute_action" and value):
            raise UserError(
                f"--dialect is vla-eval; the server asks for {name} {value!r}, which is not given "
                f"here: there are {', '.join(KNOWN_PARAMS)} (absolute_action false)."
            )
    seed = wants.get("env_seed", wants.get("seed"))
    if seed not in (None, protocol.env_seed):
        notes.append(f"the server asks for env_seed {seed}; {protocol.env_seed} was used")
    for name, spec in (hello.get("action_spec") or {}).items():
        form = spec.get("format") if isinstance(spec, dict) else spec
        if name not in _ACTION_SPEC:
            notes.append(f"the server does not say what its actions are ({name}: {form})")
        elif form != _ACTION_SPEC[name][2]:
            raise UserError(
                f"--dialect is vla-eval; the server's {name} is {form}; LIBERO takes "
                f"{_ACTION_SPEC[name][2]}."
            )
    return notes


def reply(frame: bytes | str) -> Answer:
    """What a server answered a client.

    Raises:
        WireError: an error, or no actions.
    """
    kind, payload, _ = parts(frame)
    if kind == "error":
        sentence = f"the server says: {payload.get('error', payload)!s:.500}"
        raise WireError("busy" if payload.get("kind") == "busy" else "failed", sentence)
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
