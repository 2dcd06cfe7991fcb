"""Demonstrations as training samples: frames prepared once, numbers in arrays.

A demonstration file is a parquet file, one row a recorded frame: suite, task, instruction, demo,
seed, agentview_jpeg, wrist_jpeg, eef_pos, eef_quat, gripper_qpos, actions (the next 8 clean ones,
flattened), target_pos, goal_pos, holding.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import simplejpeg
import torch
from safetensors.torch import load_file

from vlaprune_bench.policies.flow.inputs import Normaliser, prepare_images
from vlaprune_bench.policies.flow.inputs import robot_state as flow_state
from vlaprune_bench.policies.normalize import Bounds, axis_angle, robot_state
from vlaprune_bench.policies.preprocess import prepare_frames
from vlaprune_bench.policies.prismatic.openvla_oft import OpenVLAOFT
from vlaprune_bench.types import (
    LEROBOT_PROTOCOL,
    OPENVLA_PROTOCOL,
    EvalProtocol,
    Observation,
    UserError,
)

ACTION_DIM = 7
NUMBERS = ("task", "demo", "actions", "target_pos", "goal_pos", "holding")
STATE = ("eef_pos", "eef_quat", "gripper_qpos")
HELD_OUT = 20
"""Every so many demonstrations of a task, one is kept for the validation loss."""
METRES = 0.1
"""Auxiliary targets are positions in units of this."""
STILL = 0.05
"""An action moves where it is larger: an expert that waits sends small corrections of rotation."""
Statistics = dict[str, Any]


@dataclass(frozen=True)
class Conventions:
    """What a family of policies is shown and told, and how it says actions."""

    protocol: EvalProtocol
    """It is evaluated so; demonstrations have frames of its size."""
    frames: Callable[[np.ndarray, int], np.ndarray]
    """(n, H, W, 3) uint8 frames and the side of the input, to (n, 3, side, side) uint8."""
    state: Callable[[Observation], np.ndarray]
    """(8,) robot state."""
    opened: bool
    """Whether the gripper is 0 (closed) or 1 (open); else as the environment has it, 1 or -1."""
    statistics: Callable[[np.ndarray, np.ndarray], Statistics]
    """Of (N, 8, 7) actions and (N, 8) states."""
    stored: Callable[[Path], dict[str, Statistics]]
    """Of a checkpoint folder, by suite; none where there is no such folder."""
    scale: Callable[[Statistics, str, str, np.ndarray], np.ndarray]
    """Statistics, suite, "action" or "proprio", and values, to what the network says or is told."""


@dataclass
class Demos:
    """All samples, N of them."""

    frames: list[np.ndarray]
    """One (n, 2, 3, size, size) uint8 memory map a file: as `prepare_frames` gives them."""
    file_N: np.ndarray
    row_N: np.ndarray
    """Which file a sample is in, and which row there."""
    suites: list[str]
    instructions: list[str]
    suite_N: np.ndarray
    instruction_N: np.ndarray
    """Indices into the two lists."""
    task_N: np.ndarray
    held_out_N: np.ndarray
    proprio_NP: np.ndarray
    """float32, normalised with the statistics of the sample's suite."""
    actions_NA: np.ndarray
    """(N, 8, 7) float32, normalised; the gripper's 0 (closed) or 1 (open)."""
    aux_NX: np.ndarray
    """(N, 7) float32: target and goal seen from the hand, in units of METRES; holding."""
    hand_N6: np.ndarray
    """Position of the end effector, metres, and its orientation, axis times angle."""
    points_N33: np.ndarray
    """Target, goal and end effector, metres, world frame."""
    statistics: dict[str, dict[str, Any]]
    """For dataset_statistics.json, by suite."""
    fixed: np.ndarray
    """(7,) action dimensions that no demonstration uses: zero throughout."""

    def __len__(self) -> int:
        return len(self.file_N)

    def images(self, index_B: np.ndarray) -> torch.Tensor:
        """(B, 2, 3, size, size) uint8."""
        picked = [self.frames[self.file_N[k]][self.row_N[k]] for k in index_B]
        return torch.from_numpy(np.stack(picked))


def load_demos(
    folder: Path, cache: Path, size: int, suites: list[str], tasks: list[int], begun: Path,
    conventions: Conventions, patient: bool,
) -> Demos:  # fmt: skip
    """Read FOLDER/{suite}/task{NN}.parquet, and prepare the frames that CACHE does not hold yet.

    Args:
        folder: of the demonstrations.
        cache: where prepared frames are kept, 12 bytes a pixel and sample; may be deleted.
        size: side of the model's input, pixels.
        suites: suites to read.
        tasks: tasks to read of each; empty: all there are.
        begun: checkpoint folder of the run so far. Its statistics stay, where it has any, however
            many demonstrations have come since.
        conventions: of the policy.
        patient: whether the policy may wait: see `skip_waiting`.

    Raises:
        UserError: there is nothing to read, a file lacks a column, or its frames have another
            size than the protocol's.
    """
    paths = [
        path
        for suite in suites
        for path in sorted((folder / suite).glob("task*.parquet"))
        if not tasks or int(path.stem.removeprefix("task")) in tasks
    ]
    if not paths:
        raise UserError(
            f"--demos is {folder}; it holds no {{suite}}/task{{NN}}.parquet of {suites}, "
            f"tasks {tasks or 'all'}: run `make demos` first."
        )
    columns: dict[str, list[Any]] = {
        key: [] for key in ("suite", "instruction", *NUMBERS, "proprio", "hand")
    }
    frames = []
    for path in paths:
        content = path.read_bytes()  # once: demonstrations may be added at any moment
        _read(path, content, columns, conventions)
        frames.append(_frames(path, content, cache, size, conventions))
    a = {key: np.array(value) for key, value in columns.items()}
    suite_N, instruction_N = a["suite"], a["instruction"]
    names, texts = ([str(x) for x in np.unique(values)] for values in (suite_N, instruction_N))
    actions_NA = a["actions"].reshape(len(suite_N), OpenVLAOFT.chunk, ACTION_DIM)
    if not patient:
        skip_waiting(actions_NA[:, 0], np.stack([a["suite"], a["task"], a["demo"]], 1).astype(str))
    if conventions.opened:  # the environment's: +1 close, -1 open
        actions_NA[..., -1] = (1.0 - actions_NA[..., -1]) / 2.0
    proprio_NP, scaled_NA = a["proprio"].copy(), actions_NA.copy()
    statistics = conventions.stored(begun)
    for name in names:
        own = suite_N == name
        if name not in statistics:
            statistics[name] = conventions.statistics(actions_NA[own], a["proprio"][own])
        for quantity, values in (("proprio", proprio_NP), ("action", scaled_NA)):
            values[own] = conventions.scale(statistics[name], name, quantity, values[own])
    hand_N3 = a["hand"][:, :3]
    aux = [(a["target_pos"] - hand_N3) / METRES, (a["goal_pos"] - hand_N3) / METRES]
    lengths = [len(f) for f in frames]
    return Demos(
        frames=frames,
        file_N=np.repeat(np.arange(len(frames)), lengths),
        row_N=np.concatenate([np.arange(n) for n in lengths]),
        suites=names,
        instructions=texts,
        suite_N=np.searchsorted(names, suite_N),
        instruction_N=np.searchsorted(texts, instruction_N),
        task_N=a["task"],
        held_out_N=a["demo"] % HELD_OUT == HELD_OUT - 1,
        proprio_NP=proprio_NP.astype(np.float32),
        actions_NA=scaled_NA.astype(np.float32),
        aux_NX=np.concatenate([*aux, a["holding"][:, None]], axis=1).astype(np.float32),
        hand_N6=a["hand"],
        points_N33=np.stack([a["target_pos"], a["goal_pos"], hand_N3], axis=1),
        statistics=statistics,
        fixed=(actions_NA == 0.0).all((0, 1)),
    )


def skip_waiting(first_NA: np.ndarray, demo_NK: np.ndarray) -> None:
    """Where the expert waits, let it do what it does next.

    A hand that waits looks the same until it moves: a policy that decides anew at every step, and
    sees no more than that, would wait for ever. `no_noops` data of the published OpenVLA lacks such
    steps, too; here their frames stay, as the policy comes by them.

    Args:
        first_NA: (N, 7) action of each frame, in order; changed in place.
        demo_NK: names of each frame's demonstration.
    """
    same_N = (demo_NK[1:] == demo_NK[:-1]).all(1) & (first_NA[1:, -1] == first_NA[:-1, -1])
    still_N = (np.abs(first_NA[:, :-1]) < STILL).all(1)
    for k in reversed(range(1, len(first_NA) - 1)):
        if still_N[k] and same_N[k - 1] and same_N[k]:
            first_NA[k] = first_NA[k + 1]


def suite_statistics(actions_NA: np.ndarray, proprio_NP: np.ndarray) -> Statistics:
    """1st and 99th percentiles, as published checkpoints have them.

    Where they are less than half as far apart as the extremes, the extremes: a rotation that one
    task of ten needs for a moment would be clipped to nothing.

    Args:
        actions_NA: (N, 8, 7), the gripper as 0 or 1: it is not scaled.
        proprio_NP: (N, 8).
    """
    entry: dict[str, Any] = {}
    for name, values in (
        ("action", actions_NA.reshape(-1, ACTION_DIM)),
        ("proprio", proprio_NP),
    ):
        low, high = np.quantile(values, [0.01, 0.99], axis=0)
        least, most = values.min(0), values.max(0)
        rare = high - low < 0.5 * (most - least)
        low, high = np.where(rare, least, low), np.where(rare, most, high)
        entry[name] = {"q01": low.tolist(), "q99": high.tolist()}
    entry["action"]["mask"] = [True] * (ACTION_DIM - 1) + [False]
    return entry


def _stored(checkpoint: Path) -> dict[str, Statistics]:
    """Of dataset_statistics.json."""
    path = checkpoint / "dataset_statistics.json"
    if not path.is_file():
        return {}
    stored = json.loads(path.read_text())
    return {key.removesuffix("_no_noops"): entry for key, entry in stored.items()}


def _scaled(entry: Statistics, suite: str, quantity: str, values: np.ndarray) -> np.ndarray:
    return Bounds.read(entry, suite, quantity).normalize(values)


def _openvla_frames(frames: np.ndarray, size: int) -> np.ndarray:
    return prepare_frames(frames, OPENVLA_PROTOCOL, size, torch.device("cpu")).numpy()


def moments(actions_NA: np.ndarray, proprio_NP: np.ndarray) -> Statistics:
    """Means and standard deviations, by LeRobot's names."""
    entry: Statistics = {}
    for name, values in (
        ("action", actions_NA.reshape(-1, ACTION_DIM)),
        ("observation.state", proprio_NP),
    ):
        entry[f"{name}.mean"] = values.mean(0).tolist()
        entry[f"{name}.std"] = values.std(0).tolist()
    return entry


def _stored_moments(checkpoint: Path) -> dict[str, Statistics]:
    """Of a file of the processors, the same for every suite."""
    path = checkpoint / "policy_preprocessor_step_1_normalizer_processor.safetensors"
    if not path.is_file():
        return {}
    (suite,) = json.loads((checkpoint / "config.json").read_text())["vlaprune"]["suites"]
    return {suite: {name: values.tolist() for name, values in load_file(path).items()}}


def _standardised(entry: Statistics, suite: str, quantity: str, values: np.ndarray) -> np.ndarray:
    feature = {"action": "action", "proprio": "observation.state"}[quantity]
    mean, std = (np.array(entry[f"{feature}.{name}"], np.float32) for name in ("mean", "std"))
    return Normaliser("MEAN_STD", {"mean": mean, "std": std}, 1e-8).normalise(values)


def _lerobot_frames(frames: np.ndarray, size: int) -> np.ndarray:
    images = prepare_images(frames, LEROBOT_PROTOCOL, size, "top-left", torch.device("cpu"))
    return images.mul(255.0).round().byte().numpy()


CONVENTIONS = {
    "openvla": Conventions(
        OPENVLA_PROTOCOL,
        _openvla_frames,
        robot_state,
        True,
        suite_statistics,
        _stored,
        _scaled,
    ),
    "lerobot": Conventions(
        LEROBOT_PROTOCOL,
        _lerobot_frames,
        lambda seen: flow_state(seen, LEROBOT_PROTOCOL.state_dtype),
        False,
        moments,
        _stored_moments,
        _standardised,
    ),
}


def _read(
    path: Path, content: bytes, columns: dict[str, list[Any]], conventions: Conventions
) -> None:
    """Append the numbers of a file."""
    wanted = ["suite", "instruction", *NUMBERS, *STATE]
    file = pq.ParquetFile(BytesIO(content))
    if missing := [key for key in wanted if key not in file.schema_arrow.names]:
        raise UserError(f"{path}: column {missing[0]} is missing; make the demonstrations again.")
    table = file.read(columns=wanted).to_pydict()
    for key in ("suite", "instruction", *NUMBERS):
        columns[key] += table[key]
    for values in zip(*(table[key] for key in STATE), strict=True):
        position, quat, fingers = (np.array(value) for value in values)
        seen = Observation(position, quat, fingers)
        columns["proprio"].append(conventions.state(seen))
        columns["hand"].append([*seen.eef_pos, *axis_angle(seen.eef_quat)])


def _frames(
    path: Path, content: bytes, cache: Path, size: int, conventions: Conventions
) -> np.ndarray:
    """Prepared frames of a file, from the cache or made now: (rows, 2, 3, size, size) uint8."""
    digest = hashlib.sha256(content).hexdigest()[:16]
    protocol = conventions.protocol
    made = cache / f"{path.parent.name}-{path.stem}-{protocol.name}-{size}-{digest}.npy"
    if made.is_file():
        return np.load(made, mmap_mode="r")
    cache.mkdir(parents=True, exist_ok=True)
    file = pq.ParquetFile(BytesIO(content))
    shape = (file.metadata.num_rows, 2, 3, size, size)
    part = made.with_suffix(".part")
    out = np.lib.format.open_memmap(part, mode="w+", dtype=np.uint8, shape=shape)
    row = 0
    for batch in file.iter_batches(32, columns=["agentview_jpeg", "wrist_jpeg"]):
        for pair in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            images = np.stack([simplejpeg.decode_jpeg(jpeg) for jpeg in pair])
            if images.shape[1] != protocol.camera_size:
                raise UserError(
                    f"{path}: its frames are {images.shape[1]} pixels wide; protocol "
                    f"{protocol.name} has {protocol.camera_size}: make demonstrations with "
                    f"--protocol {protocol.name}."
                )
            out[row] = conventions.frames(images, size)
            row += 1
    out.flush()
    part.rename(made)
    return np.load(made, mmap_mode="r")
