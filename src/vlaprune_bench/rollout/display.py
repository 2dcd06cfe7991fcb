"""What a run prints while it runs: a live screen, or plain lines where nobody watches."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from vlaprune_bench.config import EvalConfig, labels
from vlaprune_bench.measure.stats import wilson
from vlaprune_bench.types import EpisodeRow, Status

MAX_LINES = 24
"""Cells shown at once; of more, those with the least done."""

LOG_WIDTH = 160
"""Columns of tables that go to a file or a pipe."""


@dataclass
class Count:
    """How far a cell has come."""

    label: str
    total: int
    skipped: int = 0
    """In the folder already."""
    ok: int = 0
    successes: int = 0
    errors: int = 0

    @property
    def done(self) -> int:
        return self.skipped + self.ok + self.errors

    @property
    def success(self) -> str:
        """Successes with Wilson's interval."""
        if not self.ok:
            return ""
        low, high = wilson(self.successes, self.ok)
        return f"{self.successes}/{self.ok} [{100 * low:.0f}, {100 * high:.0f}] %"


class Display:
    """Use as a context manager around the episodes."""

    def __init__(self, cells: Sequence[EvalConfig], most: int | None = None) -> None:
        """Args:
        cells: whose episodes are shown.
        most: of each, where no more is known than how many there can be; None: all of its own.
        """
        self.open_end = most is not None
        self.output = cells[0].storage.output
        self.console = Console()
        if not self.console.is_terminal:
            self.console.width = max(self.console.width, LOG_WIDTH)
        self.counts = {
            cell: Count(label, most or len(cell.what.tasks) * cell.what.n_trials)
            for cell, label in zip(cells, labels(cells), strict=True)
        }
        self.bar = Progress(
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("episodes, {task.fields[state]}"),
            console=self.console,
        )
        self.task = self.bar.add_task("", total=self.total.total, state="loading")
        self.live = Live(console=self.console, get_renderable=self._screen, refresh_per_second=2)
        self.started = time.monotonic()

    @property
    def total(self) -> Count:
        """All cells together."""
        whole = Count("all", 0)
        for count in self.counts.values():
            for name in ("total", "skipped", "ok", "successes", "errors"):
                setattr(whole, name, getattr(whole, name) + getattr(count, name))
        return whole

    @property
    def ran(self) -> int:
        """Episodes run by this command."""
        return self.total.ok + self.total.errors

    def say(self, text: str) -> None:
        self.console.print(escape(text), highlight=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        self.console.print(f"[yellow]warning:[/] {escape(text)}", highlight=False, soft_wrap=True)

    def skip(self, episodes: dict[EvalConfig, int]) -> None:
        """Count the episodes of some cells that are not run: they are there, or not asked for."""
        for cell, skipped in episodes.items():
            self.counts[cell].skipped = skipped
        if skipped := sum(episodes.values()):
            total = sum(self.counts[cell].total for cell in episodes)
            self.say(f"{skipped} of {total} episodes are in {self.output} already: not run again")
        self._refresh()

    def show(self, cell: EvalConfig, row: EpisodeRow) -> None:
        """Count one finished episode; errors are told at once."""
        if not self.ran:  # the rate is that of episodes, not of loading the model
            self.started = time.monotonic() - row.wall_s
        count = self.counts[cell]
        label = f" {count.label}" if len(self.counts) > 1 else ""
        if row.status == Status.OK:
            count.ok += 1
            count.successes += bool(row.success)
        else:
            count.errors += 1
            self.warn(f"task {row.task} trial {row.trial}{label}: status {row.status}: {row.error}")
        self._refresh()
        if not self.console.is_terminal:
            self.say(
                f"task {row.task} trial {row.trial}{label}: "
                f"{'success' if row.success else row.status} in {row.steps} steps, "
                f"{row.calls} calls, {row.wall_s:.1f} s; "
                f"{self.total.done}/{self.total.total}, {self._state()}"
            )

    def _refresh(self) -> None:
        self.bar.update(
            self.task,
            completed=self.total.done,
            state=escape(self._state() or "the first are running"),
        )

    def _state(self) -> str:
        """Success, errors, rate and time left of all cells."""
        total = self.total
        parts = [f"success {total.success}" if total.ok else ""]
        if total.errors:
            parts.append(f"{total.errors} error{'s' * (total.errors > 1)}")
        if ran := self.ran:
            seconds = (time.monotonic() - self.started) / ran
            left = timedelta(seconds=round(seconds * (total.total - total.done)))
            parts.append(f"{3600 / seconds:.0f} episodes/h")
            if not self.open_end:
                parts[-1] += f", {left} left"
        return ", ".join(part for part in parts if part)

    def _screen(self) -> Group:
        """The live screen: cells above, the bar below."""
        if len(self.counts) == 1:
            return Group(self.bar)
        counts = list(self.counts.values())
        shown = sorted(counts, key=lambda c: c.done / c.total)[:MAX_LINES]
        table = Table(box=None, header_style="bold")
        for name in ("cell", "done", "success", "errors"):
            table.add_column(name, justify="left" if name == "cell" else "right")
        for count in (c for c in counts if c in shown):
            errors = str(count.errors or "")
            table.add_row(
                escape(count.label), f"{count.done}/{count.total}", escape(count.success), errors
            )
        if len(shown) < len(counts):
            table.add_row(f"and {len(counts) - len(shown)} cells that are further")
        return Group(table, self.bar)

    def __enter__(self) -> Display:
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.live.stop()
