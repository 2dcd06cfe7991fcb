"""What a run prints: a progress bar with the running success rate, and the table at the end."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vlaprune_bench.config import EvalConfig
from vlaprune_bench.store import Store, load_results
from vlaprune_bench.types import EpisodeRow, Status


class Display:
    """Use as a context manager around the episodes."""

    def __init__(self, config: EvalConfig, total: int, skipped: int) -> None:
        self.config = config
        self.console = Console()
        self.finished = self.succeeded = 0
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=self.console,
        )
        keep = config.pruner.keep_ratio
        label = f"{config.suite} {config.pruner.name}" + ("" if keep is None else f" keep {keep:g}")
        self.task = self.bar.add_task(label, total=total, completed=skipped, rate="")
        if skipped:
            self.say(f"{skipped} of {total} episodes are in {config.output} already: not run again")

    def say(self, text: str) -> None:
        self.console.print(text, highlight=False)

    def warn(self, text: str) -> None:
        self.console.print(f"[yellow]warning:[/] {text}", highlight=False)

    def show(self, row: EpisodeRow) -> None:
        """Count one finished episode; errors are told at once."""
        if row.status == Status.OK:
            self.finished += 1
            self.succeeded += bool(row.success)
        else:
            self.warn(f"task {row.task} trial {row.trial}: status {row.status}: {row.error}")
        rate = f"success {self.succeeded}/{self.finished}"
        self.bar.update(self.task, advance=1, rate=rate)
        if not self.console.is_terminal:
            self.say(
                f"task {row.task} trial {row.trial}: {'success' if row.success else row.status} "
                f"in {row.steps} steps, {row.calls} calls, {row.wall_s:.1f} s; {rate}"
            )

    def summary(self, store: Store) -> None:
        """The table over everything the results folder holds, and where things lie."""
        from vlaprune_bench.report.tables import summarise, summary_table

        if not store.done():
            self.say(f"no episode was finished; {store.folder} is empty")
            return
        self.console.print(summary_table(summarise(load_results(store.folder))))
        self.say(f"parquet: {store.folder} (pandas.read_parquet reads the folder)")
        videos = sorted((store.folder / "_videos").glob("[!.]*.mp4"))
        if videos:
            self.say(f"video: {videos[0]}" + f" and {len(videos) - 1} more" * (len(videos) > 1))

    def __enter__(self) -> Display:
        if self.console.is_terminal:
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.bar.stop()
