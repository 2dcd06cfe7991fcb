"""Demonstrations as training samples: frames prepared once, numbers in arrays.

A demonstration file is a parquet file, one row a recorded frame: suite, task, instruction, demo,
seed, agentview_jpeg, wrist_jpeg, eef_pos, eef_quat, gripper_qpos, actions (the next 8 clean ones,
flattened), target_pos, goal_pos, holding.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import simplejpeg
import torch

from vlaprune_bench.policies.normalize import Bounds, axis_angle
from vlaprune_bench.policies.preprocess import prepare_frames
from vlaprune_bench.policies.prismatic.openvla_oft import OpenVLAOFT
from vlaprune_bench.types import OPENVLA_PROTOCOL, UserError

ACTION_DIM = 7
NUMBERS = ("task", "demo", "actions", "target_pos", "goal_pos", "holding")
STATE = ("eef_pos", "eef_quat", "gripper_qpos")
HELD_OUT = 20
"""Every so many demonstrations of a task, one is kept for the validation loss."""
METRES = 0.1
"""Auxiliary targets are positions in units of this."""


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
    folder: Path, cache: Path, size: int, suites: list[str], tasks: list[int], begun: Path
) -> Demos:
    """Read FOLDER/{suite}/task{NN}.parquet, and prepare the frames that CACHE does not hold yet.

    Args:
        folder: of the demonstrations.
        cache: where prepared frames are kept, 12 bytes a pixel and sample; may be deleted.
        size: side of the model's input, pixels.
        suites: suites to read.
        tasks: tasks to read of each; empty: all there are.
        begun: checkpoint folder of the run so far. Its statistics stay, where it has any, however
            many demonstrations have come since.

    Raises:
        UserError: there is nothing to read, or a file lacks a column.
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
        key: [] for key in ("suite", "instruction", *NUMBERS, "proprio")
    }
    frames = []
    for path in paths:
        content = path.read_bytes()  # once: demonstrations may be added at any moment
        _read(path, content, columns)
        frames.append(_frames(path, content, cache, size))
    a = {key: np.array(value) for key, value in columns.items()}
    suite_N, instruction_N = a["suite"], a["instruction"]
    names, texts = ([str(x) for x in np.unique(values)] for values in (suite_N, instruction_N))
    actions_NA = a["actions"].reshape(len(suite_N), OpenVLAOFT.chunk, ACTION_DIM)
    # the data's convention: 0 closed, 1 open; the environment's: +1 close, -1 open
    actions_NA[..., -1] = (1.0 - actions_NA[..., -1]) / 2.0
    proprio_NP, scaled_NA = a["proprio"].copy(), actions_NA.copy()
    statistics = _statistics(begun)
    for name in names:
        own = suite_N == name
        if name not in statistics:
            statistics[name] = suite_statistics(actions_NA[own], a["proprio"][own])
        for quantity, values in (("proprio", proprio_NP), ("action", scaled_NA)):
            bounds = Bounds.read(statistics[name], name, quantity)
            values[own] = bounds.normalize(values[own])
    hand_N3 = a["proprio"][:, :3]
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
        hand_N6=a["proprio"][:, :6],
        points_N33=np.stack([a["target_pos"], a["goal_pos"], hand_N3], axis=1),
        statistics=statistics,
        fixed=(actions_NA == 0.0).all((0, 1)),
    )


def suite_statistics(actions_NA: np.ndarray, proprio_NP: np.ndarray) -> dict[str, Any]:
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


def _statistics(checkpoint: Path) -> dict[str, dict[str, Any]]:
    """Statistics of a checkpoint folder, by suite; none where there is no such folder."""
    path = checkpoint / "dataset_statistics.json"
    if not path.is_file():
        return {}
    stored = json.loads(path.read_text())
    return {key.removesuffix("_no_noops"): entry for key, entry in stored.items()}


def _read(path: Path, content: bytes, columns: dict[str, list[Any]]) -> None:
    """Append the numbers of a file."""
    wanted = ["suite", "instruction", *NUMBERS, *STATE]
    file = pq.ParquetFile(BytesIO(content))
    if missing := [key for key in wanted if key not in file.schema_arrow.names]:
        raise UserError(f"{path}: column {missing[0]} is missing; make the demonstrations again.")
    table = file.read(columns=wanted).to_pydict()
    for key in ("suite", "instruction", *NUMBERS):
        columns[key] += table[key]
    for position, quat, fingers in zip(*(table[key] for key in STATE), strict=True):
        columns["proprio"].append([*position, *axis_angle(np.array(quat)), *fingers])


def _frames(path: Path, content: bytes, cache: Path, size: int) -> np.ndarray:
    """Prepared frames of a file, from the cache or made now: (rows, 2, 3, size, size) uint8."""
    digest = hashlib.sha256(content).hexdigest()[:16]
    made = cache / f"{path.parent.name}-{path.stem}-{size}-{digest}.npy"
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
            out[row] = prepare_frames(images, OPENVLA_PROTOCOL, size, torch.device("cpu")).numpy()
            row += 1
    out.flush()
    part.rename(made)
    return np.load(made, mmap_mode="r")
