"""Command lines: parse and dispatch, nothing else."""

from __future__ import annotations

import codecs
import functools
import io
import os
import select
import sys
from collections.abc import Callable
from typing import TextIO

from vlaprune_bench.types import UserError

PIPE_CLOSED = 141
"""Exit code where nobody reads our output any more, as of a shell's own tools (128 + SIGPIPE)."""
PLAIN = {
    "–": "-",
    "─": "-",
    "━": "-",
    "│": "|",
    "┃": "|",
    "×": "x",
    "÷": "/",
    "²": "^2",
    "…": "...",
}
"""What stands for a character that a terminal cannot show."""


def command(run: Callable[[list[str]], None]) -> Callable[[], None]:
    """Make a console script.

    A UserError becomes one sentence on stderr and exit code 2. What is printed passes any terminal,
    whatever its encoding.
    """

    @functools.wraps(run)
    def main() -> None:
        codecs.register_error("plain", plain)
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="plain")
        try:
            try:
                _check_text(sys.argv)
                run(sys.argv[1:])
            finally:
                sys.stdout.flush()
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(2) from None
        except BrokenPipeError:
            if _is_read(sys.stdout):
                raise
            # or Python would complain when it flushes once more at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(PIPE_CLOSED) from None

    return main


def plain(error: UnicodeError) -> tuple[str, int]:
    """Error handler of an output stream: the nearest text to what its encoding lacks."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(PLAIN.get(c, "+" if "─" <= c <= "╿" else "?") for c in lacking), error.end


def _check_text(argv: list[str]) -> None:
    """Refuse arguments in another encoding than the locale's: rows could not hold them."""
    for arg in argv[1:]:
        try:
            arg.encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f"the argument {os.fsencode(arg)!r} is not in the encoding of this terminal "
                f"({sys.getfilesystemencoding()}): give it in that."
            ) from error


def _is_read(stream: TextIO) -> bool:
    """Whether somebody may still read what is written to a stream."""
    poll = select.poll()
    poll.register(stream, select.POLLOUT)
    return not any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
