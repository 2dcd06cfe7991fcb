"""Write what `vlaprune-doctor` compares its frames with: python scripts/make_known_frames.py

Renders the probes with the lite assets, and with the real ones where they are found
(as `--assets real` finds them, unchanged; else their frames stay as they are).
"""

from __future__ import annotations

import json
from pathlib import Path

import vlaprune_bench.doctor.probes as probes
from vlaprune_bench.doctor.checks import real_assets
from vlaprune_bench.sim.assets import resolve_assets
from vlaprune_bench.sim.gl import choose_gl
from vlaprune_bench.sim.pins import check_pins

FILE = Path(probes.__file__).with_name("known_frames.json")


def main() -> None:
    check_pins(allow_unpinned=False)
    choose_gl()
    known = probes.known_frames()
    for assets in (real_assets(), resolve_assets("lite", "lite")):
        if assets is None or assets.changed:
            continue
        known[assets.kind] = {
            f"{suite} task {task}": probes.blocks(probes.probe(suite, task, assets)[0])
            .round()
            .astype(int)
            .tolist()
            for suite, task in probes.PROBES.items()
        }
    text = json.dumps(known, indent=1)
    # a row of blocks is a line
    FILE.write_text(text.replace("\n    ", "").replace("\n   ]", "]") + "\n")


if __name__ == "__main__":
    main()
