"""Everything a GPU is wanted for, in one command of under nine minutes: `make bench-gpu`.

    python -m benchmarks.bench_gpu [--out results/gpu] [--shapes openvla-oft-7b ...] [--smoke]

Into a folder: the CUDA tests (graphs, batches, bf16), profiles of the real shapes with random
weights, with and without CUDA graphs, the greedy selection against one top-k, and `gpu.md`, a page
of all of it: stages (p50, p90, p99), peak memory, the roofline bound of the card, and, where the
gain in time falls short of the gain in FLOPs, the stage that eats it. A part that fails is told and
the others go on. `--smoke` runs the same code on a CPU with a tiny shape. Without a GPU and without
--smoke: exit 2.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from vlaprune_bench.measure.call_bounds import SHAPES as CALLS
from vlaprune_bench.measure.call_bounds import CallShape, floor_ms
from vlaprune_bench.measure.latency import STAGES
from vlaprune_bench.measure.provenance import git_revision, versions
from vlaprune_bench.measure.roofline import Card, card_of
from vlaprune_bench.profile.config import ProfileConfig
from vlaprune_bench.profile.rows import ProfileRow
from vlaprune_bench.profile.run import profile
from vlaprune_bench.pruning.select import max_min
from vlaprune_bench.types import UserError

SHAPES = ("openvla-oft-7b", "openvla-7b", "pi05")
METHODS = ("none", "static", "adp", "fastv", "vla-pruner")
KEEPS = (0.7, 0.5, 0.3, 0.125)
SHARE = 0.9
"""Of the gain in FLOPs that the gain in time must reach, or the page names who eats the rest."""
TESTS = ("tests/policies/test_graphs.py", "tests/policies/test_flow_batch.py")
MINUTES = 8.5


def run_tests(log: Path) -> str:
    """The tests that need CUDA; their last line."""
    command = [sys.executable, "-m", "pytest", "-q", "-k", "cuda or graph", *TESTS]
    found = subprocess.run(command, capture_output=True, text=True, timeout=240)
    log.write_text(found.stdout + found.stderr)
    return (found.stdout.strip().splitlines() or ["no output"])[-1]


def gain_line(row: ProfileRow, none: ProfileRow) -> str:
    """How the gain in time stands to the gain in FLOPs, and where the rest goes."""
    if row.speedup is None or row.flops_ratio is None or row.speedup >= SHARE * row.flops_ratio:
        return ""
    kept = {stage: _p50(row, stage) for stage in STAGES}
    wanted = {stage: _p50(none, stage) / row.flops_ratio for stage in STAGES}
    worst = max(STAGES, key=lambda stage: kept[stage] - wanted[stage])
    over = kept[worst] - wanted[worst]
    return f"{worst} eats {over:.1f} ms of what {row.flops_ratio:.2f} times fewer FLOPs promise"


def _p50(row: ProfileRow, stage: str) -> float:
    return getattr(row, f"latency_{stage}_p50_ms") or 0.0


def shape_table(rows: list[ProfileRow], card: Card | None, shape: CallShape | None) -> str:
    """A profile as markdown; `roofline`: tokens leave before the first layer, weights are read."""
    heads = ["method", "keep", "call p50", "p90", "p99", *STAGES, "gain", "FLOPs gain", "peak GB"]
    heads += ["roofline", "what eats the gain"]
    lines = ["| " + " | ".join(heads) + " |", "| --- " * len(heads) + "|"]
    for row in rows:
        bound = None
        if card and shape:
            bound = floor_ms(shape, card, 1.0 if row.keep is None else row.keep)
        peak = row.peak_memory_bytes and row.peak_memory_bytes / 1e9
        cells: list[str] = [row.method, _number(row.keep)]
        cells += [_number(getattr(row, f"latency_total_p{q}_ms")) for q in (50, 90, 99)]
        cells += [_number(_p50(row, stage)) for stage in STAGES]
        cells += [_number(x) for x in (row.speedup, row.flops_ratio, peak, bound)]
        lines.append("| " + " | ".join([*cells, gain_line(row, rows[0])]) + " |")
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def selection_times(device: torch.device, tokens: int, rounds: int) -> str:
    """Greedy max-min of half the tokens (`vla-pruner`, `divprune`) against one top-k, in turns."""
    generator = torch.Generator(device).manual_seed(0)
    points = torch.randn(tokens, 64, device=device, generator=generator)
    distances, scores = torch.cdist(points, points), points[:, 0].contiguous()
    ways: dict[str, Callable[[], torch.Tensor]] = {
        "max-min": lambda: max_min(distances, tokens // 2),
        "top-k": lambda: scores.topk(tokens // 2).indices,
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 3):
        for name, way in ways.items():
            _wait(device)
            start = time.perf_counter()
            way()
            _wait(device)
            times[name].append(1000 * (time.perf_counter() - start))
    medians = {name: float(np.median(found[3:])) for name, found in times.items()}
    return f"{tokens} tokens, half kept: " + ", ".join(
        f"{n} {ms:.2f} ms" for n, ms in medians.items()
    )


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def profiles(args: argparse.Namespace, end: float) -> Iterator[str]:
    """A section for each shape, without and with CUDA graphs."""
    for shape in args.shapes:
        for graphs in (False,) if args.smoke else (False, True):
            title = f"## {shape}" + (", CUDA graphs" if graphs else "")
            if time.monotonic() > end:
                yield f"{title}\n\nnot run: the time was up"
                continue
            try:
                config = ProfileConfig(
                    checkpoint=shape if args.smoke else None,
                    shape=None if args.smoke else shape,
                    methods=METHODS,
                    keeps=args.keeps,
                    rounds=args.rounds,
                    dtype="float32" if args.smoke else "bfloat16",
                    cuda_graphs=graphs,
                    output=args.out,
                )
                rows = profile(config, tick=lambda _: None)
            except (UserError, RuntimeError) as error:
                yield f"{title}\n\nfailed: {' '.join(str(error).split())}"
                continue
            table = shape_table(rows, card_of(rows[0].device), CALLS.get(shape))
            yield f"{title}\n\n{rows[0].dtype}, {rows[0].attention}, batch 1\n\n{table}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results/gpu"))
    parser.add_argument("--shapes", nargs="+", default=SHAPES)
    parser.add_argument("--keeps", nargs="+", type=float, default=KEEPS)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--no-tests", action="store_true", help="profiles alone")
    parser.add_argument("--smoke", action="store_true", help="the same on a CPU, a tiny shape")
    args = parser.parse_args()
    args.keeps = tuple(args.keeps)
    if not args.smoke and not torch.cuda.is_available():
        print(
            "error: there is no CUDA device here; --smoke runs the same code on a CPU.",
            file=sys.stderr,
        )
        return 2
    end = time.monotonic() + 60 * MINUTES
    args.out.mkdir(parents=True, exist_ok=True)
    device = torch.device("cpu" if args.smoke else "cuda")
    name = "CPU (smoke)" if args.smoke else torch.cuda.get_device_name()
    tests = "left out"
    if not (args.smoke or args.no_tests):
        tests = run_tests(args.out / "tests.log")
    parts = [
        f"# {name}",
        f"Made by `make bench-gpu` at {git_revision()}; versions: {versions()}. Milliseconds; "
        "stages are medians; gain is `none` over the method in the same round; roofline is the "
        "least time of a call that drops its tokens before the first layer "
        "(`vlaprune-report roofline`).",
        f"CUDA tests: {tests}",
        f"Selection: {selection_times(device, 256, 5 if args.smoke else 50)}",
    ]
    page = args.out / "gpu.md"
    for section in profiles(args, end):
        print(section, flush=True)
        parts.append(section)
        page.write_text("\n\n".join(parts) + "\n")  # what was measured stays if the next breaks
    print(f"wrote {page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
