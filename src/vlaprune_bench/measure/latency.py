"""Wall time of a policy call, its device's work included, split into stages."""

from __future__ import annotations

from itertools import pairwise
from time import perf_counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

STAGES = ("preprocess", "vision", "scoring", "prefill", "decode", "denoise", "head")


class StageTimer:
    """A stopwatch that is always in exactly one stage, so the stages sum to the total.

    On a CUDA device the borders are events in the stream's order of work: the time of work is paid
    in the stage that launched it, and nothing waits for the device but the start and `stop`. So
    the host may run ahead of the device during a call, as it does when nobody measures.

        timer = StageTimer(device)   # starts in "preprocess"
        timer.enter("vision")
        ...
        timer.stop()                 # times are there from now on
        timer.ms["vision"], timer.total_ms
    """

    def __init__(self, device: torch.device) -> None:
        self.ms = dict.fromkeys(STAGES, 0.0)
        self._device = device
        self._stages = [STAGES[0]]
        if device.type == "cuda":
            import torch

            torch.cuda.synchronize(device)
        self._borders = [self._border()]

    def _border(self) -> Any:
        """The time: an event on CUDA, else seconds."""
        if self._device.type != "cuda":
            return perf_counter()
        import torch

        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def enter(self, stage: str) -> None:
        """End the current stage here and begin `stage`, which may be entered more than once."""
        if stage not in self.ms:
            raise KeyError(f"no stage {stage!r} among {STAGES}")
        self._borders.append(self._border())
        self._stages.append(stage)

    def stop(self) -> None:
        """End the current stage, wait for the device and fill in `ms`."""
        self._borders.append(self._border())
        if self._device.type == "cuda":
            self._borders[-1].synchronize()
        for stage, (before, after) in zip(self._stages, pairwise(self._borders), strict=True):
            cuda = self._device.type == "cuda"
            self.ms[stage] += before.elapsed_time(after) if cuda else 1000.0 * (after - before)

    @property
    def total_ms(self) -> float:
        """All stages together, milliseconds."""
        return sum(self.ms.values())
