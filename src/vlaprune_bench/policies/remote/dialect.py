"""What a dialect is: messages of its own to and from what every policy call needs.

A dialect reads and writes messages; it opens no socket and holds no episode. Keys stand in tables
(`Keys`): nothing is guessed from a name that only looks right.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from vlaprune_bench.policies.remote.wire import WireError
from vlaprune_bench.types import Observation

ACTION = 7
"""Numbers of LIBERO's action: translation, rotation (axis-angle), gripper (-1: open)."""
STATE = 8
"""Numbers of LIBERO's state: position (m), axis-angle (rad), two gripper joints (m)."""
ACTION_SPACE = "libero_delta_eef"
"""Our name for it: deltas in the units of LIBERO's OSC_POSE controller."""
LONGEST_PROMPT = 1000
"""Characters of an instruction."""
EXTRAS = ("eef_quat", "eef_poses", "seed", "noise_seed")
"""What our server takes besides, and our client sends where metadata (`takes`) asks for it: the
hand's orientation as the simulator has it (4, xyzw), poses of every step since the call before (n,
7), and the seeds of what method and policy draw. With them a served episode is the local one."""


@dataclass(frozen=True)
class Keys:
    """Where a dialect has things in an observation."""

    cameras: tuple[tuple[str, ...], ...]
    """Names of each camera, the main one first; of several names one is given."""
    state: str
    prompt: str
    prefix: str = ""
    """Of the extras."""


@dataclass(frozen=True)
class Begin:
    """An episode begins."""

    episode: str
    about: Any = None
    """What the client says of it: plain data that its draws follow from."""
    seq: int = 0


@dataclass(frozen=True)
class End:
    """An episode ends."""

    episode: str
    seq: int = 0


@dataclass(frozen=True)
class Hello:
    """A client introduces itself."""

    about: Any
    seq: int = 0


@dataclass(frozen=True)
class Look:
    """An observation for which actions are wanted."""

    episode: str | None
    """Which episode it is of; None: the dialect does not say."""
    observation: Observation
    instruction: str
    eef_poses: np.ndarray | None = None
    seeds: tuple[int, int] | None = None
    """Of what the method draws, and of what the policy draws."""
    seq: int = 0
    style: str = ""
    """How its answer is written."""


Request = Begin | End | Hello | Look


@dataclass(frozen=True)
class Answer:
    """Actions, and what is told with them."""

    actions: np.ndarray
    """(n, 7), or (7,) where the dialect gives one a time."""
    timing: dict[str, float] = field(default_factory=dict)
    """Of the server, milliseconds."""
    measures: dict[str, Any] | None = None
    """Columns of `CallMeasures`; None: it was answered from the chunk before."""
    more: dict[str, Any] = field(default_factory=dict)


class ServerSide(Protocol):
    """A dialect as a server speaks it."""

    name: str
    one_by_one: bool
    """An answer is one action, and every step's observation comes: the server holds the chunk."""
    extras: str
    """Prefix of the keys of `EXTRAS`."""

    def greeting(self, facts: dict[str, Any]) -> bytes | None:
        """What is sent before anything came; None: nothing."""
        ...

    def read(self, frame: bytes | str, cameras: int) -> Request:
        """A client's message.

        Raises:
            WireError: it is none of the dialect's, or lacks something.
        """
        ...

    def answer(self, look: Look, answer: Answer) -> bytes: ...

    def done(self, request: Begin | End | Hello, facts: dict[str, Any]) -> bytes | str | None:
        """What is sent where no action is asked for."""
        ...

    def error(self, error: WireError) -> bytes | str: ...


def read_look(data: dict[Any, Any], keys: Keys, cameras: int) -> dict[str, Any]:
    """Fields of `Look` out of an observation.

    Args:
        data: the observation as it came.
        keys: where the dialect has things.
        cameras: how many the policy sees.

    Raises:
        WireError: something is missing or misshapen.
    """
    frames = [_frame(data, names) for names in keys.cameras[:cameras]]
    shapes = {frame.shape for frame in frames}
    if len(shapes) > 1:
        raise bad(f"cameras have shapes {sorted(shapes)}; all must have one size.")
    state = _vector(data, keys.state, STATE)
    quat = quat_of(state[3:6])
    if keys.prefix + "eef_quat" in data:
        quat = _vector(data, keys.prefix + "eef_quat", 4)
    poses = None
    if keys.prefix + "eef_poses" in data:
        poses = _poses(data, keys.prefix + "eef_poses")
    prompt = data.get(keys.prompt)
    if not isinstance(prompt, str) or not prompt.strip() or len(prompt) > LONGEST_PROMPT:
        said = f"the instruction, a text of at most {LONGEST_PROMPT} characters"
        raise bad(f"{keys.prompt} is {prompt!r:.60}; it must be {said}.")
    return {
        "observation": Observation(state[:3], quat, state[6:], np.stack(frames)),
        "instruction": prompt,
        "eef_poses": poses,
        "seeds": _seeds(data, keys.prefix),
    }


def write_look(look: Look, keys: Keys, state: np.ndarray, takes: list[str]) -> dict[str, Any]:
    """An observation in a dialect's keys; the other way of `read_look`.

    Args:
        look: what is asked.
        keys: where the dialect has things.
        state: (8,) as the dialect has it.
        takes: extras the server asks for.
    """
    assert look.observation.images is not None
    data = {
        names[0]: frame for names, frame in zip(keys.cameras, look.observation.images, strict=False)
    }
    extras: dict[str, Any] = {"eef_quat": look.observation.eef_quat, "eef_poses": look.eef_poses}
    if look.seeds is not None:
        extras |= {"seed": look.seeds[0], "noise_seed": look.seeds[1]}
    data |= {keys.prefix + name: extras[name] for name in takes if extras.get(name) is not None}
    return {**data, keys.state: state, keys.prompt: look.instruction}


def bad(sentence: str) -> WireError:
    """An observation that is not what it must be."""
    return WireError("bad-observation", sentence)


def quat_of(axis_angle: np.ndarray) -> np.ndarray:
    """(4,) unit quaternion xyzw of an axis times an angle, rad: `normalize.axis_angle` turned."""
    angle = float(np.linalg.norm(axis_angle))
    if angle < 1e-8:
        return np.array([0.0, 0.0, 0.0, 1.0])
    return np.append(axis_angle / angle * np.sin(angle / 2), np.cos(angle / 2))


def _frame(data: dict[Any, Any], names: tuple[str, ...]) -> np.ndarray:
    """(H, W, 3) uint8 of a camera."""
    given = [name for name in names if name in data]
    if len(given) != 1:
        said = f"{' and '.join(given)} are there" if given else f"{' or '.join(names)} is missing"
        raise bad(f"{said}; one frame of this camera must be, (H, W, 3) uint8.")
    frame = data[given[0]]
    if (
        not isinstance(frame, np.ndarray)
        or frame.dtype != np.uint8
        or frame.ndim != 3
        or frame.shape[2] != 3
        or 0 in frame.shape
    ):
        raise bad(f"{given[0]} is {_is(frame)}; it must be (H, W, 3) uint8.")
    return frame


def _vector(data: dict[Any, Any], name: str, size: int) -> np.ndarray:
    """(size,) finite float64."""
    if name not in data:
        raise bad(f"{name} is missing; it must be {size} numbers.")
    value = data[name]
    if isinstance(value, list) and all(type(x) in (int, float) for x in value):
        value = np.array(value, dtype=np.float64)
    if not isinstance(value, np.ndarray) or value.shape != (size,) or value.dtype.kind not in "fiu":
        raise bad(f"{name} is {_is(value)}; it must be {size} numbers.")
    value = value.astype(np.float64)
    if not np.isfinite(value).all():
        raise bad(f"{name} has numbers that are not finite.")
    return value


def _poses(data: dict[Any, Any], name: str) -> np.ndarray:
    value = data[name]
    if (
        not isinstance(value, np.ndarray)
        or value.ndim != 2
        or value.shape[1] != 7
        or len(value) == 0
        or value.dtype.kind != "f"
        or not np.isfinite(value).all()
    ):
        raise bad(f"{name} is {_is(value)}; it must be (steps + 1, 7) finite poses.")
    return value.astype(np.float64)


def _seeds(data: dict[Any, Any], prefix: str) -> tuple[int, int] | None:
    given = [prefix + name for name in ("seed", "noise_seed") if prefix + name in data]
    if not given:
        return None
    one, two = (data.get(prefix + name) for name in ("seed", "noise_seed"))
    if type(one) is not int or type(two) is not int or one < 0 or two < 0:
        said = f"{one!r:.40} and {two!r:.40}"
        raise bad(f"{prefix}seed and {prefix}noise_seed are {said}; both are whole numbers.")
    return one, two


def _is(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array {value.shape} {value.dtype}"
    return f"{type(value).__name__}"
