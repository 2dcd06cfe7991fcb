"""An episode that is being played: what is told of it, and the rows it becomes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from vlaprune_bench.rollout.jobs import Job
from vlaprune_bench.rollout.messages import ActionRequest, Ended, Opened, SceneReady
from vlaprune_bench.types import CONTROL_STEP_MS, ActionChunk, CallRow, EpisodeRow, Status


@dataclass(eq=False)
class EpisodeRecord:
    """An episode that is being played somewhere."""

    job: Job
    workers: int
    """Simulator processes of this run."""
    opened: Opened | None = None
    scene: SceneReady | None = None
    calls: list[CallRow] = field(default_factory=list)
    error: str | None = None
    """Why its last call failed."""
    notes: list[str] = field(default_factory=list)
    """What was noticed on the way, for the reader of its row."""

    def __post_init__(self) -> None:
        self.started = datetime.now(UTC)
        self.clock = time.perf_counter()

    def moved(self, path: float) -> None:
        """Note what the end effector did after the last call."""
        if self.calls:
            self.calls[-1] = replace(self.calls[-1], eef_displacement=path)

    def answered(self, request: ActionRequest, chunk: ActionChunk, warmup: bool) -> None:
        """Note a call.

        Args:
            request: what was asked.
            chunk: the answer.
            warmup: see `CallRow.warmup`.
        """
        self.calls.append(
            CallRow(
                episode_id=self.job.episode_id,
                call=len(self.calls),
                step=request.steps,
                warmup=warmup,
                eef_displacement=None,  # told with the next message
                **asdict(chunk.measures),
            )
        )

    def where(self) -> str:
        """How far it has come, in words."""
        if self.scene is None:
            return "before its scene stood"
        return f"after policy call {len(self.calls) - 1}" if self.calls else "after its reset"

    def finish(self, ended: Ended) -> tuple[EpisodeRow, list[CallRow]]:
        """The rows of an episode that came to an end."""
        self.moved(ended.moved)
        timed = zip(self.calls, ended.timings, strict=False)  # a call that failed has none
        self.calls[: len(ended.timings)] = [replace(c, **asdict(t)) for c, t in timed]
        error = self.error or ended.error
        return self._row(
            status=Status.OK if error is None else Status.ERROR,
            error=error,
            success=ended.success if error is None else None,
            steps=ended.steps,
            actions_hash=ended.actions_hash,
            held_steps=ended.held,
            **_in_simulated_time(ended),
            **(asdict(ended.motion) if ended.motion else {}),
        )

    def give_up(self, status: Status, error: str) -> tuple[EpisodeRow, list[CallRow]]:
        """The rows of an episode whose simulator is gone."""
        steps = self.calls[-1].step if self.calls else 0
        return self._row(status=status, error=error, success=None, steps=steps, actions_hash=None)

    def _row(self, **outcome: Any) -> tuple[EpisodeRow, list[CallRow]]:
        setup, spec = self.job.setup, self.job.spec
        opened, scene = self.opened or setup.look_up(spec), self.scene
        row = EpisodeRow(
            **outcome,
            calls=len(self.calls),
            init_state_hash=scene.init_state_hash if scene else None,
            scene_hash=scene.scene_hash if scene else None,
            frames_hash=scene.frames_hash if scene else None,
            task_name=opened.name,
            instruction=opened.instruction,
            wall_s=time.perf_counter() - self.clock - (scene.compile_s if scene else 0.0),
            reset_s=scene.reset_s if scene else None,
            started_at=self.started.isoformat(timespec="seconds"),
            sim=scene.sim if scene else setup.config.compute.sim,
            self_check=scene.self_check if scene else None,
            warnings=[*setup.warnings, *self._warnings()],
            batch_size=max((call.batch_size for call in self.calls), default=1),
            workers=self.workers,
            **_costs(self.calls),
            **setup.shared(spec),
        )
        return row, self.calls

    def _warnings(self) -> list[str]:
        check = self.scene.self_check if self.scene else None
        found = []
        if check not in (None, "passed"):
            found.append(f"the fast simulator path is not exact here ({check}): took the reference")
        method = self.job.setup.config.what.pruner.name
        if method != "none" and self.calls and not any(call.pruned for call in self.calls):
            found.append(f"{method} pruned no call of this episode")
        return [*found, *self.notes, *([self.job.note] if self.job.note else [])]


def _in_simulated_time(ended: Ended) -> dict[str, Any]:
    """What calls and steps took, where the process that simulated lived to tell."""
    if ended.held is None:
        return {}
    timings, seconds = ended.timings, ended.steps * CONTROL_STEP_MS / 1000
    drawn = [t.drawn_latency_ms for t in timings if t.drawn_latency_ms is not None]
    return {
        "stale_actions": sum(t.stale_actions or 0 for t in timings),
        "discarded_calls": sum(t.used == "discarded" for t in timings),
        "unused_calls": sum(t.used == "unused" for t in timings),
        "drawn_latency_mean_ms": float(np.mean(drawn)) if drawn else None,
        "time_to_success_s": seconds if ended.success else None,
        "control_hz": (ended.steps - ended.held) / seconds if seconds else None,
    }


def _costs(calls: list[CallRow]) -> dict[str, Any]:
    """Means over those of an episode's calls that know; None where none does."""
    steady = [call for call in calls if not call.warmup]

    def over(how: Callable[[list[float]], Any], name: str, of: list[CallRow]) -> float | None:
        told = [getattr(call, name) for call in of]
        known = [float(value) for value in told if value is not None]
        return float(how(known)) if known else None

    return {
        "pruned_call_fraction": over(np.mean, "pruned", calls),
        "visual_tokens_kept_mean": over(np.mean, "visual_tokens_kept", calls),
        "empty_tokens_dropped_mean": over(np.mean, "empty_tokens_dropped", calls),
        "llm_prefill_macs_mean": over(np.mean, "llm_prefill_macs", calls),
        "total_flops_mean": over(np.mean, "total_flops", calls),
        "latency_p50_ms": over(np.median, "latency_total_ms", steady),
        "latency_mean_ms": over(np.mean, "latency_total_ms", steady),
        "round_trip_p50_ms": over(np.median, "round_trip_ms", steady),
        "server_p50_ms": over(np.median, "server_ms", steady),
    }
