"""Environments of their own for clients that are not ours; made once, below .clients.

python -m tests.clients.environments        # make them now
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

from vlaprune_bench.sim.assets import AssetSet, find_wheels, resolve_assets
from vlaprune_bench.sim.package import LIBERO

HERE = Path(__file__).parent
ROOT = HERE.parents[1] / ".clients"


def environment(name: str) -> Path:
    """The Python of an environment with what `NAME.txt` asks for, made where it is missing."""
    wanted = HERE / f"{name}.txt"
    folder = Path(os.environ.get("VLAPRUNE_CLIENTS", ROOT)) / name
    python, stamp = folder / "bin" / "python", folder / "stamp"
    what = wanted.read_bytes() + f"{LIBERO} {peer_assets().path}".encode()
    asked = hashlib.sha256(what).hexdigest()
    if stamp.is_file() and stamp.read_text() == asked:
        return python
    subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "-r", wanted], check=True)
    if name == "vla-eval":
        subprocess.run([*pip, "--no-deps", LIBERO], check=True)
        _prepare_libero(folder)
    stamp.write_text(asked)
    return python


def peer_assets() -> AssetSet:
    """What vla-eval's LIBERO shows: the installed wheels' assets, or else our own light ones."""
    return resolve_assets("auto" if find_wheels() is None else "pip", "lite")


def _prepare_libero(folder: Path) -> None:
    """Give hf-libero the assets, within its package (it ignores `assets` of its configuration), and
    the configuration it would ask for on the terminal."""
    (package,) = folder.glob("lib/python*/site-packages/libero/libero")
    (package / "assets").symlink_to(peer_assets().path)
    paths = {
        "benchmark_root": package,
        "bddl_files": package / "bddl_files",
        "init_states": package / "init_files",
        "datasets": package.parent / "datasets",
        "assets": package / "assets",
    }
    config = folder / "libero"
    config.mkdir(exist_ok=True)
    text = "".join(f"{name}: {json.dumps(str(path))}\n" for name, path in paths.items())
    (config / "config.yaml").write_text(text)


def libero_variables(python: Path) -> dict[str, str]:
    """Environment variables under which vla-eval's LIBERO benchmark runs."""
    found = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    return found | {
        "LIBERO_CONFIG_PATH": str(python.parents[1] / "libero"),
        "MUJOCO_GL": os.environ.get("MUJOCO_GL", "egl"),
    }


if __name__ == "__main__":
    for path in sorted(HERE.glob("*.txt")):
        print(environment(path.stem))
