"""Write the tables of methods in README.md and docs/methods.md from the methods' classes.

    python scripts/make_methods_docs.py

A method's line is the first of its docstring, its source the first arXiv number in it, or, where
there is no paper, the first repository.
"""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass
from pathlib import Path

from vlaprune_bench.pruning import Pruner, methods
from vlaprune_bench.pruning.gate import MotionGate
from vlaprune_bench.pruning.wrapper import Wrapper

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- made by scripts/make_methods_docs.py -->\n", "<!-- end -->\n"


def source(cls: type[Pruner]) -> str:
    text = cls.__doc__ or ""
    found = re.search(r"arXiv \d{4}\.\d{5}", text) or re.search(r"github\.com/[\w/-]+", text)
    return found[0] if found else "baseline"


def table(*rows: tuple[str, ...]) -> str:
    head, *body = (f"| {' | '.join(row)} |\n" for row in rows)
    return "".join([head, "|" + " --- |" * len(rows[0]) + "\n", *body])


def summary() -> str:
    """What each method does, in a line."""
    lines = [
        (f"`{name}`", (cls.__doc__ or "").partition("\n")[0].rstrip("."), source(cls))
        for name, cls in methods().items()
    ]
    return table(("`--method`", "what it does", "source"), *lines)


def options() -> str:
    """Sources, positions and options of each method, and the gate's options."""
    rows = []
    for name, cls in methods().items():
        positions = "contiguous" if cls().renumber_positions else "their own"
        if issubclass(cls, Wrapper):
            positions = "as inside"
        rows.append((f"`{name}`", source(cls), positions, _names(cls)))
    gate = f"\nThe gate (options of `gate`): {_names(MotionGate)}.\n"
    return table(("method", "source", "positions of tokens that stay", "options"), *rows) + gate


def _names(config: type) -> str:
    assert is_dataclass(config)
    return ", ".join(f"`{f.name}`" for f in fields(config)) or "none"


def pages() -> dict[Path, str]:
    """Both pages, with their tables as the code is now."""
    made = {}
    for path, text in (
        (ROOT / "README.md", summary()),
        (ROOT / "docs" / "methods.md", options()),
    ):
        before, _, rest = path.read_text().partition(BEGIN)
        made[path] = before + BEGIN + text + END + rest.partition(END)[2]
    return made


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text)
