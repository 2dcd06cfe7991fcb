"""Time of a whole report over 100,000 synthetic episodes.

    python -m benchmarks.bench_report [--folder DIR]

Tables, and tables with the page, each by the command a user gives, in a process of its own. The
episodes (2.6 million policy calls, some 200 MB) are those of tests/report/synthetic.py; made once
where a folder is named.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from tests.report.synthetic import many, write

REPORT = [sys.executable, "-c", "from vlaprune_bench.cli.report import main; main()"]


def measure(arguments: list[str]) -> tuple[float, float]:
    """Wall and CPU seconds of `vlaprune-report` with these arguments."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([*REPORT, *arguments], check=True, stdout=subprocess.DEVNULL)
    after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - start
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, help="keep the episodes here, or use those there")
    chosen = parser.parse_args().folder
    with tempfile.TemporaryDirectory() as scratch:
        folder = chosen or Path(scratch) / "runs"
        if not folder.exists():
            rng = np.random.default_rng(0)
            write(folder, many(rng)[0], rng)
        for name, more in (("tables", []), ("page", ["--html", f"{scratch}/report.html"])):
            wall, cpu = measure([str(folder), *more])
            print(f"{name:<7} {wall:5.1f} s wall, {cpu:5.1f} s CPU")


if __name__ == "__main__":
    main()
