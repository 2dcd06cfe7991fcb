"""Episodes with known success probabilities, and folders of them as a run would leave them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from tests.rows import call_row, episode_row
from vlaprune_bench.config import digest
from vlaprune_bench.store import schema
from vlaprune_bench.types import CallRow, EpisodeRow

SUITES = {"libero_spatial": 220, "libero_object": 280, "libero_goal": 300, "libero_10": 520}


def cell(
    method: str,
    keep: float | None,
    probability: float,
    rng: np.random.Generator,
    *,
    suites: tuple[str, ...] = ("libero_spatial",),
    tasks: int = 10,
    trials: int = 50,
    task_spread: float = 0.0,
    options: dict[str, Any] | None = None,
    **columns: Any,
) -> pd.DataFrame:
    """Episodes of one cell; each succeeds with `probability`, by task moved by up to the spread."""
    frames = []
    for suite in suites:
        shift = rng.uniform(-task_spread, task_spread, tasks)
        frame = pd.DataFrame(
            {
                "suite": suite,
                "task": np.repeat(np.arange(tasks), trials),
                "trial": np.tile(np.arange(trials), tasks),
                "max_steps": SUITES[suite],
            }
        )
        p = np.clip(probability + shift[frame.task], 0, 1)
        frame["success"] = rng.random(len(frame)) < p
        frame["steps"] = np.where(
            frame.success, rng.integers(60, SUITES[suite], len(frame)), SUITES[suite]
        )
        frames.append(frame)
    episodes = pd.concat(frames, ignore_index=True)
    episodes["calls"] = -(-episodes.steps // 8)
    share = 1.0 if keep is None else keep
    options = {**({} if keep is None else {"keep": keep}), **(options or {})}
    name = json.dumps([method, options, columns], sort_keys=True)
    made = {
        "method": method,
        "keep": keep,
        "method_options": json.dumps(options),
        "pruned_call_fraction": 0.0 if keep is None else 1.0,
        "visual_tokens_kept_mean": 512 * share,
        "llm_prefill_macs_mean": 4e12 * (0.2 + 0.8 * share),
        "total_flops_mean": 9e12 * (0.3 + 0.7 * share),
        "latency_p50_ms": 80 * (0.4 + 0.6 * share),
        "latency_mean_ms": 82 * (0.4 + 0.6 * share),
        "run_id": digest(name),
        "scene_hash": episodes.suite + episodes.task.astype(str) + "-" + episodes.trial.astype(str),
        "task_name": "task_" + episodes.task.astype(str),
        "checkpoint": "trained",
        "checkpoint_trained": True,
        "assets": "real",
        **columns,
    }
    episodes = episodes.assign(**made)
    for column, value in asdict(episode_row()).items():
        if column not in episodes:
            episodes[column] = [value] * len(episodes)
    key = name + episodes.suite + episodes.task.astype(str) + "/" + episodes.trial.astype(str)
    episodes["episode_id"] = [f"{code:012x}"[:12] for code in pd.util.hash_array(key.to_numpy())]
    return episodes[list(EpisodeRow.__dataclass_fields__)]


def paired(base: pd.DataFrame, loss: float, gain: float, rng: np.random.Generator) -> np.ndarray:
    """Success of another method on the episodes of `base`.

    A success turns into a failure with probability `loss`, a failure into a success with `gain`.
    """
    success = base.success.to_numpy(bool)
    flip = rng.random(len(base)) < np.where(success, loss, gain)
    return success ^ flip


def calls_of(episodes: pd.DataFrame, rng: np.random.Generator) -> pa.Table:
    """Calls of episodes: kept tokens follow from the cell's keep, latencies are log-normal."""
    counts = episodes.calls.to_numpy()
    index = np.repeat(np.arange(len(episodes)), counts)
    call = np.concatenate([np.arange(n) for n in counts])
    share = episodes.keep.astype(float).fillna(1.0).to_numpy()
    gate = call % 5 < 5 * episodes.pruned_call_fraction.to_numpy(float)[index]
    kept = np.where(gate, np.round(512 * share).astype(int)[index], 512)
    total = np.repeat(episodes.latency_p50_ms.to_numpy(float), counts)
    total = total * rng.lognormal(0, 0.1, len(index))
    lists = {value: list(range(0, int(value))) for value in np.unique(kept)}
    columns: dict[str, Any] = {
        name: [value] * len(index) for name, value in asdict(call_row()).items()
    }
    columns |= {
        "episode_id": episodes.episode_id.to_numpy()[index],
        "call": call,
        "step": 8 * call,
        "warmup": call == 0,
        "batch_size": episodes.batch_size.to_numpy()[index],
        "eef_displacement": rng.gamma(4, 0.01, len(index)),
        "pruned": kept < 512,
        "visual_tokens_kept": kept,
        "kept_visual": pd.Series([None if k == 512 else lists[k] for k in kept], dtype=object),
        "latency_total_ms": total,
        "latency_prefill_ms": total * 0.6,
        "latency_vision_ms": total * 0.3,
    }
    return pa.Table.from_pydict(columns, schema=schema(CallRow))


def write(folder: Path, episodes: pd.DataFrame, rng: np.random.Generator | None = None) -> Path:
    """A results folder of merged parts; with calls where a generator is given."""
    for sub in ("_calls", "_runs", "_videos"):
        (folder / sub).mkdir(parents=True, exist_ok=True)
    for number, start in enumerate(range(0, len(episodes), 5000)):
        part = episodes.iloc[start : start + 5000]
        table = pa.Table.from_pandas(part, schema=schema(EpisodeRow), preserve_index=False)
        pq.write_table(table, folder / f"merged-{number:012d}.parquet")
        if rng is not None:
            calls = calls_of(part, rng)
            pq.write_table(calls, folder / "_calls" / f"merged-{number:012d}.parquet")
    return folder


def many(rng: np.random.Generator) -> tuple[pd.DataFrame, dict[str, float]]:
    """100,000 episodes: 50 cells on four suites, as a main table with a sweep has them.

    Returns:
        The episodes; and by episode id of a cell's first episode, how much higher the cell's
        success rate truly is than none's on the same scenes.
    """
    none = cell("none", None, 0.9, rng, suites=tuple(SUITES), task_spread=0.05)
    frames, truth = [none], {}
    kinds = [("adp", {"gate": {"lookback": k}}) for k in (1, 2, 3, 4)]
    for method, options in [*kinds, ("static", {}), ("random", {}), ("fastv", {})]:
        for keep in (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.85):
            own = cell(method, keep, 0.9, rng, suites=tuple(SUITES), options=options)
            loss, gain = (1 - keep) / 8, 0.3
            own["success"] = paired(none, loss, gain, rng)
            own["pruned_call_fraction"] = 0.6 if method == "adp" else 1.0
            truth[own.episode_id[0]] = float(np.where(none.success, -loss, gain).mean())
            frames.append(own)
    return pd.concat(frames, ignore_index=True), truth
