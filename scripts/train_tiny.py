"""Train a tiny OpenVLA-OFT, OpenVLA or SmolVLA from scripted demonstrations, on one CPU core.

    python scripts/train_tiny.py --demos results/demos --out results/tiny/spatial --minutes 60

The same command continues where it stopped, and ends by itself after --steps. What is written to
the output folder: `state.pt` (everything a run depends on), `log.parquet` (losses, a row a step),
`rollouts.parquet` (held-out episodes), and `last` and `best`, checkpoint folders in the published
layout with averaged weights. `best` is the one with the most successes in held-out episodes, on
placements that neither demonstrations nor the benchmark use.

With --no-compile a run is the same bit for bit whether it was interrupted or not.
"""

from __future__ import annotations

import shutil
import signal
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from tiny.data import CONVENTIONS, Demos, load_demos
from tiny.network import begin_with, speed_up
from tiny.subjects import SUBJECTS
from tiny.train import Optimisation, Trainer, choose_dtype

from vlaprune_bench.types import UserError

IMAGE = 224


@dataclass(frozen=True)
class Settings:
    """Train a tiny VLA from demonstrations; the same command continues."""

    demos: Path = Path("results/demos")
    """Folder of the demonstrations."""
    out: Path = Path("results/tiny")
    """Where the run lives."""
    cache: Path = Path("~/.cache/vlaprune-bench/train-tiny")
    """Prepared frames, 0.3 MB a sample; may be deleted."""
    start: Path | None = None
    """Checkpoint folder whose weights a new run begins with; by default they are random."""
    policy: Literal["openvla-oft", "openvla", "smolvla"] = "openvla-oft"
    """What is trained."""
    name: str = "tiny-spatial"
    """Name of the checkpoint in rows and reports."""
    suites: tuple[str, ...] = ("libero_spatial",)
    tasks: tuple[int, ...] = ()
    """Tasks of each suite; empty: all there are demonstrations of."""
    patch: int = 28
    """Side of a patch; 28: 8 x 8 tokens a camera."""
    tower_width: int = 64
    tower_depth: int = 3
    width: int = 128
    depth: int = 4
    minutes: float = float("inf")
    """Stop (and keep the state) after so long."""
    save_minutes: float = 5.0
    """Keep the state so often."""
    rollout_every: int = 2500
    """Steps between held-out episodes, which also end a run; 0: none."""
    episodes: int = 2
    """Held-out episodes of each task."""
    threads: int = 1
    compile: bool = True
    """Generate code for the slow parts: 1.5 times as fast, needs a C++ compiler."""
    train: Optimisation = field(default_factory=Optimisation)


def main(settings: Settings, stop: threading.Event | None = None) -> None:
    """Train until the steps are done, the time is up or `stop` is set."""
    stop = stop or threading.Event()
    deadline = time.monotonic() + 60.0 * settings.minutes
    torch.set_num_threads(settings.threads)
    run = Run(settings)
    print(
        f"{len(run.demos)} samples, {len(run.demos.instructions)} instructions, "
        f"{sum(p.numel() for p in run.trainer.master.values()):,} parameters, {run.dtype}, "
        f"step {run.trainer.step} of {settings.train.steps}",
        flush=True,
    )
    saved = time.monotonic()
    while not stop.is_set() and time.monotonic() < deadline:
        if run.evaluation_due:
            run.evaluate(stop)
        if stop.is_set() or run.trainer.step >= settings.train.steps:
            break
        run.trainer.train_step()
        if run.trainer.step % 50 == 0:
            run.report()
        if time.monotonic() - saved > 60.0 * settings.save_minutes:
            run.save()
            saved = time.monotonic()
    run.save()


class Run:
    """A trainer and its folder."""

    def __init__(self, settings: Settings) -> None:
        self.settings = s = settings
        s.out.mkdir(parents=True, exist_ok=True)
        subject = SUBJECTS[s.policy]
        if s.policy == "smolvla" and len(s.suites) != 1:
            raise UserError(
                f"--suites is {' '.join(s.suites)}; a smolvla's files hold the statistics of one."
            )
        self.tokenizer = subject.tokenizer()
        self.size: dict[str, Any] = {
            "patch": s.patch,
            "tower_width": s.tower_width,
            "tower_depth": s.tower_depth,
            "width": s.width,
            "depth": s.depth,
        }
        self.kept_settings = self.size | {"start": s.start and str(s.start), "policy": s.policy}
        self.config = subject.config(self.tokenizer, s.name, self.size, IMAGE, list(s.suites))
        self.demos: Demos = load_demos(
            s.demos,
            s.cache.expanduser(),
            IMAGE,
            list(s.suites),
            list(s.tasks),
            s.out / "last",
            CONVENTIONS[subject.data],
            subject.patient,
        )
        torch.manual_seed(s.train.seed)
        self.dtype = choose_dtype(s.train.dtype, self.state)
        # the backward pass of fused attention in bfloat16 is several times slower on a CPU
        model = subject(self.config, "eager" if self.dtype == "bfloat16" else "sdpa")
        model.initialise(s.train.seed, torch.from_numpy(self.demos.fixed))
        if s.start is not None:
            begin_with(model, s.start)
        speed_up(model, s.compile)
        prompts = [subject.prompt(self.tokenizer, self.config, t) for t in self.demos.instructions]
        self.trainer = Trainer(model, self.demos, prompts, s.train, self.dtype)
        if self.state.is_file():
            self.trainer.load(self.state, self.kept_settings)

    @property
    def state(self) -> Path:
        return self.settings.out / "state.pt"

    def save(self) -> None:
        """Write the state, and the averaged weights as a checkpoint."""
        self.trainer.save(self.state, self.kept_settings)
        self.trainer.model.export(
            self.trainer.average,
            self.settings.out / "last",
            self.config,
            self.tokenizer,
            self.demos.statistics,
        )

    def report(self) -> None:
        """One line on the last steps."""
        rows = self.trainer.log[-50:]
        mean = {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}
        held_out = self.trainer.validate() if self.trainer.step % 250 == 0 else {}
        self.trainer.log[-1] |= held_out
        batch = self.settings.train.micro_batch * self.settings.train.micro_batches
        losses = {
            k: mean[k]
            for k in ("motion", "gripper", "place", "holding", "words", "grounding", "norm")
        } | held_out
        print(
            f"step {self.trainer.step}  {batch / mean['step_s']:.0f} samples/s "
            f"(data {mean['data_s'] / mean['step_s']:.0%}, "
            f"update {mean['update_s'] / mean['step_s']:.0%})  "
            + "  ".join(f"{key} {value:.3f}" for key, value in losses.items()),
            flush=True,
        )

    @property
    def evaluation_due(self) -> bool:
        """Whether held-out episodes are wanted at this step, and are not there."""
        every, step = self.settings.rollout_every, self.trainer.step
        if not every or not step or (step % every and step < self.settings.train.steps):
            return False
        return all(row["step"] != step for row in self.trainer.rollouts)

    def evaluate(self, stop: threading.Event) -> None:
        """Held-out episodes with the averaged weights; keep them if none did better.

        Nothing is kept of episodes cut short by `stop`: the same command runs them anew.
        """
        from tiny.rollouts import roll_out

        self.save()
        last, best = self.settings.out / "last", self.settings.out / "best"
        pairs = {
            (self.demos.suites[s], int(t))
            for s, t in zip(self.demos.suite_N, self.demos.task_N, strict=True)
        }
        protocol = CONVENTIONS[self.trainer.model.data].protocol
        rows = roll_out(last, sorted(pairs), self.settings.episodes, protocol, stop.is_set)
        if rows is None:
            return
        step = self.trainer.step
        self.trainer.rollouts += [{"step": step, **row} for row in rows]
        rate = sum(row["success"] for row in rows) / len(rows)
        print(f"step {step}  held-out success {rate:.3f} {by_task(rows)}", flush=True)
        if rate >= self.trainer.best:
            self.trainer.best = rate
            shutil.copytree(last, best, dirs_exist_ok=True)
        self.save()


def by_task(rows: list[dict[str, Any]]) -> str:
    """Successes of each task, as "0: 2/2"."""
    tasks = sorted({(row["suite"], row["task"]) for row in rows})
    texts = []
    for key in tasks:
        own = [row["success"] for row in rows if (row["suite"], row["task"]) == key]
        texts.append(f"{key[1]}: {sum(own)}/{len(own)}")
    return ", ".join(texts)


if __name__ == "__main__":
    asked = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):  # the state is kept after the step at hand
        signal.signal(number, lambda *_: asked.set())
    try:
        main(tyro.cli(Settings), asked)
    except UserError as error:
        raise SystemExit(str(error)) from error
