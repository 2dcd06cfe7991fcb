"""Render every task's first frame into docs/gallery.md, lite assets large, real ones beside them.

    python scripts/make_gallery.py                        # real ones where they are on this machine
    python scripts/make_gallery.py --real FOLDER          # real ones from a folder
    python scripts/make_gallery.py --suite libero_goal    # one suite

Nothing is downloaded. The frames are what a policy sees of trial 0 once the scene has settled.
"""

from __future__ import annotations

import argparse
import textwrap
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vlaprune_bench.sim.assets import AssetSet, find_real, resolve_assets
from vlaprune_bench.sim.libero import LiberoTask
from vlaprune_bench.sim.tasks import TaskKey, list_tasks
from vlaprune_bench.types import SUITES

DOCS = Path(__file__).parents[1] / "docs"
QUALITY = 66

HEAD = """# Gallery

Made by `make gallery` (`scripts/make_gallery.py`): the first frame of every task as the
third-person camera sees it, once trial 0 has settled. Large with the lite assets, which this
package draws itself; small with the assets LIBERO was published with. Names, joints, regions, sizes
and masses agree; shapes, prints and colours of the lite assets are our own. Scores measured with
them are not LIBERO scores.

The scenes of `libero_90` repeat between tasks, which differ in their instruction.
"""


@dataclass(frozen=True)
class Grid:
    """How the tasks of a suite are laid out; sides in pixels."""

    columns: int
    lite: int
    real: int
    caption: int
    """Height of the lines above a picture."""


GRIDS = dict.fromkeys(SUITES, Grid(columns=5, lite=160, real=80, caption=42))
GRIDS["libero_90"] = Grid(columns=10, lite=72, real=36, caption=12)


def first_frame(suite: str, task: int, assets: AssetSet, side: int) -> Image.Image:
    """What the third-person camera shows of trial 0, settled, at `side` x `side` pixels."""
    with LiberoTask(TaskKey(suite, task, assets, sim="reference")) as env:
        images = env.reset(trial=0).images
    assert images is not None
    frame = Image.fromarray(np.ascontiguousarray(images[0]))
    return frame.resize((side, side), Image.Resampling.LANCZOS)


def sheet(suite: str, lite: AssetSet, real: AssetSet | None) -> Image.Image:
    """All tasks of a suite: index and instruction above the lite frame, the real one beside it."""
    grid, tasks = GRIDS[suite], list_tasks(suite)
    wide = grid.lite + (grid.real if real else 0) + 8
    high = grid.lite + grid.caption + 6
    rows = -(-len(tasks) // grid.columns)
    page = Image.new("RGB", (grid.columns * wide, rows * high), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(size=11)
    for info in tasks:
        x, y = info.index % grid.columns * wide, info.index // grid.columns * high
        words = f"{info.index} {info.instruction}" if grid.caption > 20 else str(info.index)
        lines = textwrap.wrap(words, width=wide // 6, max_lines=3, placeholder=" ...")
        draw.text((x, y), "\n".join(lines), fill="black", font=font, spacing=1)
        page.paste(first_frame(suite, info.index, lite, grid.lite), (x, y + grid.caption))
        if real:
            small = first_frame(suite, info.index, real, grid.real)
            page.paste(small, (x + grid.lite, y + grid.caption + grid.lite - grid.real))
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--suite", action="append", choices=SUITES, help="default: every suite")
    parser.add_argument("--real", metavar="FOLDER", help="the published assets, if not found")
    parser.add_argument("--docs", type=Path, default=DOCS, help="where to write")
    args = parser.parse_args()
    lite = resolve_assets("lite", "lite")
    folder = args.real or find_real()
    real = resolve_assets(str(folder), "real") if folder else None
    args.docs.mkdir(parents=True, exist_ok=True)
    for suite in args.suite or SUITES:
        path = args.docs / f"gallery.{suite}.jpg"
        sheet(suite, lite, real).save(path, quality=QUALITY, optimize=True)
        print(f"{path}: {path.stat().st_size / 1000:.0f} kB")
    pictures = "".join(
        f"\n## {suite}\n\n![{suite}](gallery.{suite}.jpg)\n"
        for suite in SUITES
        if (args.docs / f"gallery.{suite}.jpg").is_file()
    )
    (args.docs / "gallery.md").write_text(HEAD + pictures)


if __name__ == "__main__":
    main()
