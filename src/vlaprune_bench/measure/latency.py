"""Wall time of a policy call, split into stages and synchronised with the device."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

STAGES = ("preprocess", "vision", "scoring", "prefill", "decode", "head")


class StageTimer:
    """A stopwatch that is always in exactly one stage, so the stages sum to the total.

    A CUDA device is waited for at every border: work launched in a stage is paid in that stage.

        timer = StageTimer(device)   # starts in "preprocess"
        timer.enter("vision")
        ...
        timer.stop()
        timer.ms["vision"], timer.total_ms
    """

    def __init__(self, device: torch.device) -> None:
        self.ms = dict.fromkeys(STAGES, 0.0)
        self._device = device
        self._stage = STAGES[0]
        self._since = self._now()

    def _now(self) -> float:
        if self._device.type == "cuda":
            import torch

            torch.cuda.synchronize(self._device)
        return perf_counter()

    def enter(self, stage: str) -> None:
        """End the current stage here and begin `stage`, which may be entered more than once."""
        if stage not in self.ms:
            raise KeyError(f"no stage {stage!r} among {STAGES}")
        now = self._now()
        self.ms[self._stage] += 1000.0 * (now - self._since)
        self._stage, self._since = stage, now

    def stop(self) -> None:
        """End the current stage."""
        self.enter(self._stage)

    @property
    def total_ms(self) -> float:
        """All stages together, milliseconds."""
        return sum(self.ms.values())
