"""One table, four forms: terminal (rich), Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
import math
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from vlaprune_bench.measure.stats import Rate

MISSING = "–"
"""What stands where nothing was measured."""
TEXT_WIDTH = 36
"""Where text breaks on a terminal, characters."""
GAP = "  "
"""Between columns on a terminal."""


@dataclass(frozen=True)
class Column:
    """A column: `kind` says how its values are written."""

    key: str
    title: str
    kind: str = "text"
    """text, count, percent (a fraction or a `Rate`), points (a difference of fractions or a `Rate`
    of it), interval (a `Rate` in a unit of its own), number, flops, ms, ratio or p."""
    leading: bool = False
    """Says which row it is."""

    @property
    def right(self) -> bool:
        return self.kind != "text"


@dataclass(frozen=True)
class Table:
    """Rows under columns; a row lacks a key, or has None or nan, where nothing was measured."""

    name: str
    """Short name, for files and links."""
    title: str
    columns: list[Column]
    rows: list[dict[str, Any]]
    notes: list[str] = field(default_factory=list)
    """What the reader must know: definitions, tests, what was left out."""
    group: tuple[str, ...] = ()
    """Columns whose values head tables of their own on a terminal."""


def show(value: Any, kind: str) -> str:
    """A value as text."""
    if isinstance(value, Rate):
        return _show_rate(value, kind)
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return MISSING
    return FORMS.get(kind, str)(value)


def _show_rate(rate: Rate, kind: str) -> str:
    if math.isnan(rate.value):
        return MISSING
    if kind == "interval":
        ends = "" if math.isnan(rate.low) else f" [{rate.low:+.3g}, {rate.high:+.3g}]"
        return f"{rate.value:+.3g}{ends}"
    sign = "+" if kind == "points" else ""
    text = f"{100 * rate.value:{sign}.1f}"
    if math.isnan(rate.low):
        return text
    return f"{text} [{100 * rate.low:{sign}.1f}, {100 * rate.high:{sign}.1f}]"


def si(flops: float) -> str:
    """An operation count with its prefix: 4.01 T."""
    for unit, scale in (("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if flops >= scale:
            return f"{flops / scale:.3g} {unit}"
    return f"{flops:.0f}"


FORMS: dict[str, Callable[[Any], str]] = {
    "count": "{:.0f}".format,
    "percent": lambda value: f"{100 * value:.1f}",
    "points": lambda value: f"{100 * value:+.1f}",
    "number": "{:.4g}".format,
    "flops": si,
    "ms": "{:.1f}".format,
    "ratio": "{:.3f}".format,
    "p": lambda value: "<0.001" if value < 0.001 else f"{value:.3f}",
}
"""How values of a kind are written; text as it is."""


def terminal(table: Table, width: int) -> str:
    """A table as text for a terminal of `width` characters.

    Nothing is cut: a table wider than the terminal comes in blocks of columns, each beginning with
    the leading ones, and an interval stands below its rate.
    """
    keys = list(dict.fromkeys(tuple(row.get(k) for k in table.group) for row in table.rows))
    drawn = []
    for key in keys:
        rows = [row for row in table.rows if tuple(row.get(k) for k in table.group) == key]
        title = ": ".join(filter(None, [table.title, ", ".join(map(str, key))]))
        drawn += _blocks(table, rows, title, width)
    indented = textwrap.TextWrapper(max(width, 20), initial_indent="  ", subsequent_indent="  ")
    return "\n".join([*drawn, *map(indented.fill, table.notes), ""])


def _blocks(table: Table, rows: list[dict[str, Any]], title: str, width: int) -> list[str]:
    """One table's rows, in as many blocks of columns as it takes."""
    columns = [c for c in table.columns if c.key not in table.group]
    grid = [[_folded(column.title) for column in columns]]
    grid += [[_folded(show(row.get(c.key), c.kind)) for c in columns] for row in rows]
    widths = [
        max(len(line) for cell in cells for line in cell) for cells in zip(*grid, strict=True)
    ]
    return [_draw(title, columns, grid, block) for block in _fitting(columns, widths, width)]


def _fitting(columns: list[Column], widths: list[int], width: int) -> list[dict[int, int]]:
    """Which columns stand together, with their widths: the leading ones and as many as fit."""
    leading = {k: widths[k] for k, column in enumerate(columns) if column.leading}
    blocks = [dict(leading)]
    for k in sorted(set(range(len(columns))) - set(leading)):
        needed = sum(blocks[-1].values()) + widths[k] + len(GAP) * (len(blocks[-1]) + 1)
        if needed > width and len(blocks[-1]) > len(leading):
            blocks.append(dict(leading))
        blocks[-1][k] = widths[k]
    return blocks


def _folded(text: str) -> list[str]:
    """The lines of a cell: an interval below its rate, long text broken."""
    lines = text.replace(" [", "\n[").split("\n")
    return [part for line in lines for part in textwrap.wrap(line, TEXT_WIDTH) or [""]]


def _draw(
    title: str, columns: list[Column], grid: list[list[list[str]]], block: dict[int, int]
) -> str:
    """Some columns of a table, its heading first; `block` gives their widths."""
    drawn = [title, ""]
    for number, cells in enumerate(grid):
        for line in zip_longest(*(cells[k] for k in block), fillvalue=""):
            parts = [
                text.rjust(width) if columns[k].right else text.ljust(width)
                for (k, width), text in zip(block.items(), line, strict=True)
            ]
            drawn.append(GAP.join(parts).rstrip())
        if number == 0:
            drawn.append("─" * (sum(block.values()) + len(GAP) * (len(block) - 1)))
    return "\n".join([*drawn, ""])


def markdown(table: Table) -> str:
    """A pipe table under a heading, notes below."""
    head = "| " + " | ".join(_pipe(column.title) for column in table.columns) + " |"
    rule = "| " + " | ".join("---:" if column.right else "---" for column in table.columns) + " |"
    body = [
        "| " + " | ".join(_pipe(show(row.get(c.key), c.kind)) for c in table.columns) + " |"
        for row in table.rows
    ]
    notes = [f"\n{' '.join(table.notes)}"] if table.notes else []
    return "\n".join([f"### {table.title}\n", head, rule, *body, *notes]) + "\n"


def _pipe(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


_TEX = {"&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}"}
_TEX |= {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}
_TEX |= {"<": r"$<$", ">": r"$>$", "–": "--", "×": r"$\times$"}


def tex(text: str) -> str:
    """Text that LaTeX prints as it stands."""
    return "".join(_TEX.get(character, character) for character in text.replace("\n", " "))


def latex(table: Table) -> str:
    """A booktabs table (`\\usepackage{booktabs}`); intervals in small type."""
    kinds = "".join("r" if column.right else "l" for column in table.columns)
    lines = [
        r"\begin{table}[t]",
        r"\centering",
        rf"\caption{{{tex('. '.join([table.title, *(n.rstrip('.') for n in table.notes)]))}.}}",
        rf"\label{{tab:{table.name}}}",
        rf"\begin{{tabular}}{{{kinds}}}",
        r"\toprule",
        " & ".join(tex(column.title) for column in table.columns) + r" \\",
        r"\midrule",
    ]
    for row in table.rows:
        texts = [tex(show(row.get(c.key), c.kind)) for c in table.columns]
        parts = [text.partition(" [") for text in texts]
        cells = [f"{a} {{\\scriptsize [{c}}}" if sep else a for a, sep, c in parts]
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"]) + "\n"


def to_csv(table: Table) -> str:
    """Plain numbers in full precision; a rate has columns of its own for its interval."""
    wide = {c.key for c in table.columns for r in table.rows if isinstance(r.get(c.key), Rate)}
    header: list[str] = []
    for c in table.columns:
        header += [c.key, f"{c.key}_low", f"{c.key}_high"] if c.key in wide else [c.key]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    for row in table.rows:
        cells: list[Any] = []
        for c in table.columns:
            value = row.get(c.key)
            if c.key in wide:
                value = value if isinstance(value, Rate) else Rate(math.nan)
                cells += [_plain(value.value), _plain(value.low), _plain(value.high)]
            else:
                cells.append(_plain(value))
        writer.writerow(cells)
    return out.getvalue()


def _plain(value: Any) -> Any:
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else value
