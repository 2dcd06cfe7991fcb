"""The training loop: batches, optimiser, averaged weights, state on disk."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy
from torch.nn.functional import kl_div

from tiny import dropout
from tiny.data import CONVENTIONS, Demos
from tiny.dropout import Leaving
from tiny.network import AUX_DIM, Batch, Subject, hold_fixed
from tiny.views import shares
from vlaprune_bench.types import UserError

GRIPPER_WEIGHT = 2.0
"""Its targets are 0 and 1, half as far apart as the ends of the other dimensions."""


@dataclass(frozen=True)
class Optimisation:
    """What the result depends on, beside data and shape of the network."""

    seed: int = 0
    steps: int = 20_000
    micro_batch: int = 16
    """Samples of one prompt length, through the network together."""
    micro_batches: int = 2
    """Of an optimiser step."""
    rate: float = 1.5e-3
    warmup: int = 100
    decay: float = 0.3
    """Last part of the steps, in which the rate falls to 0 along a cosine."""
    weight_decay: float = 0.05
    clip: float = 1.0
    averaging: float = 0.995
    """Of the exported weights, a step."""
    auxiliary: float = 1.0
    """Weight of the auxiliary loss."""
    grounding: float = 0.3
    """Weight of the text-vision scores' loss."""
    contrast: float = 0.2
    brightness: float = 0.1
    """Largest change of a frame, at random."""
    proprio_noise: float = 0.02
    token_dropout: float = 0.5
    """Share of the samples that lose visual tokens (see `tiny.dropout`); 0: none, exactly."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """What the network computes in. auto: bfloat16 where the CPU has instructions for it, else
    float32, which is then ten times as fast; a run that goes on keeps what it began with."""


def choose_dtype(wanted: str, state: Path) -> str:
    """Name of the dtype of a run; see `Optimisation.dtype`.

    Args:
        wanted: as the option says.
        state: of the run so far; need not exist.
    """
    if wanted != "auto":
        return wanted
    if state.is_file():
        return torch.load(state, weights_only=True)["dtype"]
    # both are private there, and there is no public way to ask
    return "bfloat16" if torch.cpu._is_avx512_bf16_supported() else "float32"


class Trainer:
    """A training run that can be stopped and continued at any step."""

    def __init__(
        self,
        model: Subject,
        demos: Demos,
        prompts: list[list[int]],
        optimisation: Optimisation,
        dtype: str,
    ) -> None:
        """
        Args:
            model: initialised, float32.
            demos: the samples.
            prompts: tokens of each of `demos.instructions`.
            optimisation: what the result depends on.
            dtype: what the network computes in.
        """
        self.model, self.demos, self.o = model, demos, optimisation
        self.step = 0
        self.log: list[dict[str, float]] = []
        self.rollouts: list[dict[str, Any]] = []
        self.best = -1.0
        self.fixed = torch.from_numpy(demos.fixed)
        self.prompts = [torch.tensor(p) for p in prompts]
        words_IW = torch.zeros(len(prompts), model.stack.vocab_size)
        for row, prompt in zip(words_IW, self.prompts, strict=True):
            row[prompt] = 1.0
        # those that tell instructions apart
        self.varying = (words_IW.min(0).values < words_IW.max(0).values).nonzero()[:, 0]
        self.words_IW = words_IW[:, self.varying]
        self.dtype = getattr(torch, dtype)
        self.named = dict(model.named_parameters())
        # the network computes in `dtype`; the optimiser moves float32 copies
        self.master = {k: p.detach().clone().float() for k, p in self.named.items()}
        self.average = {k: p.clone() for k, p in self.master.items()}
        for parameter in model.parameters():  # not the buffers: rotations are float32 in inference
            parameter.data = parameter.data.to(self.dtype)
        matrices = [p for p in self.master.values() if p.ndim > 1]
        others = [p for p in self.master.values() if p.ndim <= 1]
        self.optimiser = torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": optimisation.weight_decay},
                {"params": others, "weight_decay": 0.0},
            ],
            betas=(0.9, 0.98),
            foreach=True,
        )
        self.groups = self._groups(~demos.held_out_N)
        self.held_out = self._groups(demos.held_out_N)

    def _groups(self, wanted_N: np.ndarray) -> list[list[np.ndarray]]:
        """Indices of samples by instruction; those whose prompts have one length stand together."""
        groups: dict[int, list[np.ndarray]] = {}
        for instruction, prompt in enumerate(self.prompts):
            index = np.flatnonzero(wanted_N & (self.demos.instruction_N == instruction))
            if len(index):
                groups.setdefault(len(prompt), []).append(index)
        return [groups[length] for length in sorted(groups)]

    def rate(self) -> float:
        """Learning rate of the next step."""
        o = self.o
        left = (o.steps - self.step) / max(1.0, o.decay * o.steps)
        return (
            o.rate
            * min(1.0, (self.step + 1) / o.warmup)
            * (0.5 - 0.5 * math.cos(math.pi * min(1.0, left)))
        )

    def train_step(self) -> dict[str, float]:
        """One optimiser step; the batch follows from seed and step alone."""
        o, start = self.o, time.perf_counter()
        rng = np.random.default_rng([o.seed, self.step])
        leave_rng = np.random.default_rng([o.seed, self.step, 1])
        sizes = np.array([len(g) for g in self.groups])
        parts: dict[str, float] = {"data_s": 0.0}
        for chosen in rng.choice(len(sizes), o.micro_batches, p=sizes / sizes.sum()):
            begun = time.perf_counter()
            group = self.groups[chosen]  # every instruction counts alike, however many its frames
            picked = (group[k] for k in rng.integers(len(group), size=o.micro_batch))
            index_B = np.array([rng.choice(rows) for rows in picked])
            batch = self._batch(index_B, rng)
            parts["data_s"] += time.perf_counter() - begun
            losses = self._losses(batch, self._leaving(leave_rng))
            (losses["loss"] / o.micro_batches).backward()
            for name, value in losses.items():
                parts[name] = parts.get(name, 0.0) + value.item() / o.micro_batches
        begun = time.perf_counter()
        parts["norm"] = self._update()
        now = time.perf_counter()
        parts |= {"update_s": now - begun, "step_s": now - start, "rate": self.rate()}
        self.step += 1
        self.log.append({"step": self.step, **parts})
        return parts

    def _update(self) -> float:
        """Move the weights along their gradients; the gradients' norm."""
        hold_fixed(self.model, self.fixed)
        for name, parameter in self.named.items():
            assert parameter.grad is not None
            self.master[name].grad = parameter.grad.float()
            parameter.grad = None
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate()
        norm = torch.nn.utils.clip_grad_norm_(self.master.values(), self.o.clip)
        self.optimiser.step()
        # early on, an average over few steps: the first weights are soon forgotten
        keep = min(self.o.averaging, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name in self.model.fixed_rows:  # weights decay, biases do not
                if self.master[name].ndim > 1:
                    self.master[name][self.fixed] = 0.0
            torch._foreach_lerp_(
                list(self.average.values()), list(self.master.values()), 1.0 - keep
            )
        self._put(self.master)
        return float(norm)

    def _batch(self, index_B: np.ndarray, rng: np.random.Generator | None) -> Batch:
        """Samples; augmented where `rng` is."""
        o, demos, shape = self.o, self.demos, (len(index_B), 2)
        gain, offset = np.ones(shape), np.zeros(shape)
        proprio = demos.proprio_NP[index_B]
        if rng is not None:
            gain += rng.uniform(-o.contrast, o.contrast, shape)
            offset += rng.uniform(-o.brightness, o.brightness, shape)
            proprio = proprio + o.proprio_noise * rng.standard_normal(proprio.shape)
        gain_BN, offset_BN = (torch.from_numpy(x).float() for x in (gain, offset))
        prompts = torch.stack([self.prompts[k] for k in demos.instruction_N[index_B]])
        return Batch(
            self.model.pixels(demos.images(index_B), gain_BN, offset_BN, self.dtype),
            torch.from_numpy(proprio).to(self.dtype),
            prompts,
            torch.from_numpy(demos.actions_NA[index_B]),
            torch.from_numpy(demos.aux_NX[index_B]),
            self.words_IW[demos.instruction_N[index_B]],
            torch.from_numpy(self._shares(index_B)),
            0 if rng is None else int(rng.integers(2**31)),
        )

    def _leaving(self, rng: np.random.Generator) -> Leaving | None:
        """Which visual tokens of a batch leave on the way."""
        o, model = self.o, self.model
        if not o.token_dropout:
            return None
        return dropout.draw(rng, o.micro_batch, model.grids, model.stack.n_layers, o.token_dropout)

    def _shares(self, index_B: np.ndarray) -> np.ndarray:
        """Which visual tokens show target, goal and hand: (B, V), each row 1 in all."""
        demos = self.demos
        return shares(
            [demos.suites[k] for k in demos.suite_N[index_B]],
            demos.hand_N6[index_B],
            demos.points_N33[index_B],
            self.model.grids,
            CONVENTIONS[self.model.data].protocol.crop_area,
        )

    def _losses(self, batch: Batch, leaving: Leaving | None) -> dict[str, Tensor]:
        """Losses of what `_batch` gave; `loss` is what is minimised."""
        o = self.o
        acted, told, scores_BV = self.model.learn(batch, leaving, self.fixed)
        told, scores_BV = told.float(), scores_BV.float()
        aux, words = batch.aux_BX, batch.words_BW
        losses = {
            **acted,
            "place": (told[:, :6] - aux[:, :6]).abs().mean(),
            "holding": cross_entropy(told[:, 6], aux[:, 6]),
            # of one instruction alone, no word varies
            "words": cross_entropy(told[:, AUX_DIM + self.varying], words, reduction="sum")
            / max(1, words.numel()),
            "grounding": kl_div(scores_BV.log_softmax(1), batch.shares_BV, reduction="batchmean"),
        }
        auxiliary = losses["place"] + 0.5 * losses["holding"] + 0.5 * losses["words"]
        loss = losses["motion"] + GRIPPER_WEIGHT * losses["gripper"]
        loss = loss + o.auxiliary * auxiliary + o.grounding * losses["grounding"]
        return {"loss": loss, **{name: value.detach() for name, value in losses.items()}}

    @torch.no_grad()
    def validate(self, samples: int = 256) -> dict[str, float]:
        """Losses of the averaged weights on demonstrations that were held out."""
        total: dict[str, float] = {}
        count = 0
        with self.averaged():
            for group in self.held_out:
                n = self.o.micro_batch
                rows = np.concatenate(group)
                picked = rows[:: max(1, len(rows) * len(self.held_out) // samples)]
                for start in range(0, len(picked) - n + 1, n):
                    losses = self._losses(self._batch(picked[start : start + n], None), None)
                    count += 1
                    for name, value in losses.items():
                        total[name] = total.get(name, 0.0) + value.item()
        return {f"held_out_{name}": value / count for name, value in total.items()}

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """While this is open, the network has the averaged weights."""
        self._put(self.average)
        try:
            yield
        finally:
            self._put(self.master)

    @torch.no_grad()
    def _put(self, weights: dict[str, Tensor]) -> None:
        for name, parameter in self.named.items():
            parameter.copy_(weights[name])

    def save(self, path: Path, settings: dict[str, Any]) -> None:
        """Write all that the rest of the run depends on."""
        part = path.with_suffix(".part")
        torch.save(
            {
                "step": self.step,
                "best": self.best,
                "master": self.master,
                "average": self.average,
                "optimiser": self.optimiser.state_dict(),
                "log": self.log,
                "rollouts": self.rollouts,
                "settings": settings,
                "dtype": str(self.dtype).removeprefix("torch."),
                "optimisation": asdict(self.o),
            },
            part,
        )
        part.replace(path)
        pd.DataFrame(self.log).to_parquet(path.with_name("log.parquet"))
        if self.rollouts:
            pd.DataFrame(self.rollouts).to_parquet(path.with_name("rollouts.parquet"))

    def load(self, path: Path, settings: dict[str, Any]) -> None:
        """Go on where `save` was called.

        Raises:
            UserError: the state is of a run with other settings.
        """
        state = torch.load(path, weights_only=True)
        for key, value in settings.items():
            if state["settings"].get(key) != value:
                raise UserError(
                    f"--out: {path} was trained with {key} {state['settings'].get(key)}, not "
                    f"{value}; choose another folder."
                )
        self.step, self.best = state["step"], state["best"]
        self.log, self.rollouts = state["log"], state["rollouts"]
        with torch.no_grad():
            for name in self.named:
                self.master[name].copy_(state["master"][name])
                self.average[name].copy_(state["average"][name])
        self._put(self.master)
        self.optimiser.load_state_dict(state["optimiser"])
