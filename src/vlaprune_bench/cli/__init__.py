"""Command lines: parse and dispatch, nothing else."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable

from vlaprune_bench.types import UserError


def command(run: Callable[[list[str]], None]) -> Callable[[], None]:
    """Make a console script: a UserError becomes one sentence on stderr and exit code 2."""

    @functools.wraps(run)
    def main() -> None:
        try:
            run(sys.argv[1:])
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(2) from None

    return main
