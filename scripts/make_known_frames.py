"""Write what `vlaprune-doctor` compares its frames with: python scripts/make_known_frames.py

Renders the probes with the lite assets, and with the real ones where they are found
(VLAPRUNE_ASSETS or the hub's cache; else their frames stay as they are).
"""

from __future__ import annotations

import json
from pathlib import Path

import mujoco

import vlaprune_bench.cli.doctor as doctor
from vlaprune_bench.sim.assets import resolve_assets
from vlaprune_bench.sim.gl import choose_gl

FILE = Path(doctor.__file__).with_name("known_frames.json")


def main() -> None:
    if mujoco.__version__ != doctor.MUJOCO:
        raise SystemExit(f"MuJoCo is {mujoco.__version__}; it must be {doctor.MUJOCO}")
    choose_gl()
    known = doctor.known_frames()
    for assets in (doctor._real_assets(), resolve_assets("lite", "lite")):
        if assets is None or (assets.hash != doctor.REAL_HASH and assets.kind == "real"):
            continue
        known[assets.kind] = {
            f"{suite} task {task}": doctor.blocks(doctor.probe(suite, task, assets)[0])
            .round()
            .astype(int)
            .tolist()
            for suite, task in doctor.PROBES.items()
        }
    text = json.dumps(known, indent=1)
    # a row of blocks is a line
    FILE.write_text(text.replace("\n    ", "").replace("\n   ]", "]") + "\n")


if __name__ == "__main__":
    main()
