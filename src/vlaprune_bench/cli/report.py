"""vlaprune-report: tables, pictures and a page from a results folder.

    vlaprune-report results/runs
    vlaprune-report results/runs --html report.html --plots figures
    vlaprune-report results/runs --format latex --table success paired > tables.tex
    vlaprune-report published --check
    vlaprune-report roofline --shape openvla-oft-7b --gpu h100
    vlaprune-report export results/runs episodes.parquet
    vlaprune-report videos results/runs --left none --right adp --only lost

Needs neither a GPU nor a simulator. Several tables of one CSV stand under `# name` lines; name one
with --table for a plain file. A folder called as a command: write ./published.
"""

from __future__ import annotations

import shutil
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from vlaprune_bench.cli import command
from vlaprune_bench.config import nearest
from vlaprune_bench.files import expand_paths
from vlaprune_bench.types import UserError

if TYPE_CHECKING:
    from vlaprune_bench.report.decide import Decision
    from vlaprune_bench.report.table import Table

FORMATS = ("terminal", "markdown", "latex", "csv")
DECIDED = "decided"
"""Name under `--table` of what stands above the tables."""
ONLY = ("all", "lost", "gained", "failed")


@dataclass(frozen=True)
class ReportOptions:
    """What to make of a results folder."""

    results: Annotated[Path, tyro.conf.Positional]
    """A folder that vlaprune-eval, vlaprune-sweep or `export` wrote, or a file of `export`."""
    html: Path | None = None
    """Write one self-contained page there."""
    plots: Path | None = None
    """Write every picture as PDF and PNG into this folder."""
    format: str = "terminal"
    """How tables are printed: terminal, markdown, latex or csv."""
    table: tuple[str, ...] = ()
    """Print these alone: decided (what stands above the tables), or tables, such as success, cost,
    tasks, paired, discordant or trials."""
    per_task: bool = False
    """Also print success by task."""
    per_episode: bool = False
    """Also list the episodes that only one of two methods solved."""
    margin: float = 0.05
    """How much lower than none's a success rate may be and count as not inferior, 0 to 1."""

    def __post_init__(self) -> None:
        expand_paths(self)
        check_format(self.format)
        if DECIDED in self.table and self.format not in ("terminal", "markdown"):
            raise UserError(
                f"--table has {DECIDED}, which is sentences: give --format terminal or markdown, "
                f"not {self.format}."
            )
        if not 0 < self.margin < 1:
            raise UserError(f"--margin is {self.margin}; it must lie between 0 and 1 (0.05: 5 %).")


@dataclass(frozen=True)
class PublishedOptions:
    """Print published numbers, each with the interval its number of trials gives it."""

    format: str = "terminal"
    """How tables are printed: terminal, markdown, latex or csv."""
    table: tuple[str, ...] = ()
    """Print these tables alone."""
    check: bool = False
    """Put every row to arithmetic: FLOPs by shape, latency by the card's roofline, noise."""

    def __post_init__(self) -> None:
        check_format(self.format)


@dataclass(frozen=True)
class RooflineOptions:
    """Print the least time a call can take on a card, by stage and keep."""

    shape: str = "openvla-oft-7b"
    """openvla-7b, openvla-oft-7b, pi0 or pi05."""
    gpu: str = "h100"
    """b200, h200, h100, a100, a800, a10g, l40s, rtx5090, rtx4090 or rtx3090."""
    format: str = "terminal"
    """How tables are printed: terminal, markdown, latex or csv."""
    table: tuple[str, ...] = ()
    """Print these tables alone: roofline, cards."""

    def __post_init__(self) -> None:
        check_format(self.format)


@dataclass(frozen=True)
class ExportOptions:
    """Write all episodes to one parquet file, with their calls and a dataset card beside it."""

    results: Annotated[Path, tyro.conf.Positional]
    """A folder that vlaprune-eval or vlaprune-sweep wrote."""
    file: Annotated[Path, tyro.conf.Positional]
    """The parquet file to write; the card is README.md in its folder."""
    force: bool = False
    """Overwrite files that are there."""

    def __post_init__(self) -> None:
        expand_paths(self)


@dataclass(frozen=True)
class VideoOptions:
    """Put two methods' videos of an episode side by side; the shorter holds its last frame."""

    results: Annotated[Path, tyro.conf.Positional]
    """A folder whose episodes ran with --video query or all."""
    left: str = "none"
    """A method, or the label of one of its cells, as "adp 0.5"."""
    right: str = "adp"
    """The same."""
    suite: str | None = None
    """Of this suite alone."""
    task: int | None = None
    """Of this task alone."""
    trial: int | None = None
    """Of this trial alone."""
    only: str = "all"
    """all; lost or gained: the left or the right alone solved it; failed: neither did."""
    output: Path | None = None
    """Where to write; by default the folder's _videos/pairs."""

    def __post_init__(self) -> None:
        expand_paths(self)
        if self.only not in ONLY:
            raise UserError(f"--only is {self.only}{nearest(self.only, ONLY)}.")


def check_format(value: str) -> None:
    if value not in FORMATS:
        raise UserError(f"--format is {value}{nearest(value, FORMATS)}.")


def show(options: ReportOptions) -> None:
    """Print the tables of a results folder, and write what else was asked for."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        from vlaprune_bench.report.build import load

        report = load(options.results, options.margin)
        named = set(options.table)
        tables = report.tables(
            per_task=options.per_task or "tasks" in named,
            per_episode=options.per_episode or "discordant" in named,
        )
        if not options.table or DECIDED in named:
            _print_decisions(report.decisions, options.format)
        if named != {DECIDED}:
            print_tables(tables, options.format, tuple(n for n in options.table if n != DECIDED))
        sentences = _sentences(caught)
        if options.html is not None:
            from vlaprune_bench.report.page import write_page

            write_page(report, options.html, sentences)
            _say(f"page: {options.html}", options.format)
        if options.plots is not None:
            from vlaprune_bench.report.charts import charts
            from vlaprune_bench.report.plots import save

            save(charts(report), options.plots)
    _warn([*_sentences(caught), *report.warnings], options.format)


def _say(sentence: str, form: str) -> None:
    """What was written, where nobody takes standard output for a table."""
    print(sentence, file=sys.stdout if form == "terminal" else sys.stderr)


def _print_decisions(page: list[Decision], form: str) -> None:
    """What is decided, above the tables, where the form has room for words."""
    from vlaprune_bench.report.decide import as_markdown, as_text

    if form == "terminal":
        print(as_text(page, shutil.get_terminal_size().columns))
    elif form == "markdown":
        print(as_markdown(page))


def _sentences(caught: list[warnings.WarningMessage]) -> list[str]:
    """What reading warned of, each once."""
    return list(dict.fromkeys(str(w.message) for w in caught))


def print_tables(tables: list[Table], form: str, only: tuple[str, ...]) -> None:
    """Print some tables, or all."""
    from vlaprune_bench.report.table import latex, markdown, terminal, to_csv

    known = {table.name: table for table in tables}
    for name in only:
        if name not in known:
            raise UserError(f"--table has {name}{nearest(name, known)}.")
    chosen = [known[name] for name in known if name in only or not only]
    width = shutil.get_terminal_size().columns
    write: dict[str, Callable[[Table], str]] = {
        "terminal": partial(terminal, width=width),
        "markdown": markdown,
        "latex": latex,
    }
    if form != "csv":
        print("\n".join(map(write[form], chosen)))
    elif len(chosen) == 1:
        print(to_csv(chosen[0]), end="")  # a plain file
    else:
        for table in chosen:
            print(f"# {table.name}: {table.title}\n{to_csv(table)}")


def _warn(sentences: list[str], form: str) -> None:
    """Warnings: with the tables on a terminal, else on standard error, out of the way of a file."""
    from rich.console import Console
    from rich.markup import escape

    console = Console(highlight=False, stderr=form != "terminal")
    for sentence in sentences:
        console.print(f"[yellow]warning:[/] {escape(sentence)}", soft_wrap=True)


def published(options: PublishedOptions) -> None:
    """Print the published tables."""
    from vlaprune_bench.report.published import published_tables
    from vlaprune_bench.report.published_check import check_table

    tables = [check_table()] if options.check else published_tables()
    print_tables(tables, options.format, options.table)


def roofline(options: RooflineOptions) -> None:
    """Print the bounds of a shape on a card."""
    from vlaprune_bench.report.published_check import cards, roofline_tables

    tables = roofline_tables(options.shape, options.gpu)
    print_tables([*tables, cards()], options.format, options.table or ("roofline",))


def export(options: ExportOptions) -> None:
    """Write the parquet file and its card."""
    from vlaprune_bench.report.build import load
    from vlaprune_bench.report.export import export

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        report = load(options.results)
        card = export(report, options.file, options.force)
    print(f"wrote {options.file} and {card}")
    _warn(_sentences(caught), "terminal")


def videos(options: VideoOptions) -> None:
    """Write videos side by side."""
    from vlaprune_bench.report.build import load
    from vlaprune_bench.report.gallery import Wanted, find_cell, pair_videos

    report = load(options.results)
    left = find_cell(report, options.left, "--left")
    right = find_cell(report, options.right, "--right")
    wanted = Wanted(options.suite, options.task, options.trial, options.only)
    folder = options.output or options.results / "_videos" / "pairs"
    for path in pair_videos(report, left, right, wanted, folder):
        print(f"wrote {path}")


COMMANDS: dict[str, tuple[type, Callable[[Any], None]]] = {
    "published": (PublishedOptions, published),
    "roofline": (RooflineOptions, roofline),
    "export": (ExportOptions, export),
    "videos": (VideoOptions, videos),
}


def run(argv: list[str]) -> None:
    if argv and argv[0] in COMMANDS:
        kind, act = COMMANDS[argv[0]]
        act(tyro.cli(kind, prog=f"vlaprune-report {argv[0]}", args=argv[1:]))
    else:
        show(tyro.cli(ReportOptions, prog="vlaprune-report", description=__doc__, args=argv))


main = command(run)

if __name__ == "__main__":
    main()
