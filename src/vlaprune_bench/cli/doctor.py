"""vlaprune-doctor: what works on this machine, and the command that mends what does not.

Each line is ok, a warning (works, but something is missing or unlike the protocol) or a problem.
Exit code: 0 where all is ok, 1 with warnings, 2 with problems.
"""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from vlaprune_bench.cli import command
from vlaprune_bench.types import UserError

if TYPE_CHECKING:
    import numpy as np

    from vlaprune_bench.sim.assets import AssetSet

Level = Literal["ok", "warning", "problem"]
PACKAGE = "vlaprune-bench"
HF_LIBERO = "0.1.4"
DISK_GIB = 20.0
"""A 7B checkpoint in bfloat16 is 15 GiB."""
MEMORY_GIB = 4.0
"""One worker with a simulator and the embedded checkpoint takes about 2 GiB."""
PROBES = {"libero_object": 0, "libero_spatial": 5}
"""Suite and task of the known frames: the first shows much floor, whose brightness tells how
textures are read; in the second an object settles elsewhere under MuJoCo 3.4, which moves a block
of the frame by 49 of 255."""
TOLERANCE = 8.0
"""Largest difference to a known frame, of 255, in any of its 16 x 16 blocks."""


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    level: Level
    text: str
    mend: str = ""
    """A command, or what to do."""


def doctor(quick: bool = False) -> None:
    """Check Python, packages, renderer, simulator, assets, GPU, hub, disk and memory.

    Args:
        quick: leave out what takes more than a few seconds: the simulator and its frames.
    """
    checks: dict[str, Callable[[], Iterator[Finding]]] = {
        "python": _python,
        "packages": _packages,
        "model": _model,
        "renderer": _renderer,
        "assets": _assets,
        "simulator": _simulator,
        "hub": _hub,
        "disk": _disk,
        "memory": _memory,
    }
    if quick:
        del checks["simulator"]
    levels = {finding.level for name, check in checks.items() for finding in _report(name, check)}
    raise SystemExit(2 if "problem" in levels else 1 if "warning" in levels else 0)


def _report(name: str, check: Callable[[], Iterator[Finding]]) -> list[Finding]:
    """Run a check and print its lines; what it cannot get past is a problem of its own."""
    found = []

    def show(finding: Finding) -> None:
        found.append(finding)
        print(f"{finding.level:<8} {name}: {finding.text}", flush=True)
        if finding.mend:
            print(f"{'':<8} {'mend':>{len(name)}}: {finding.mend}", flush=True)

    try:
        for finding in check():
            show(finding)
    except UserError as error:
        show(Finding("problem", str(error)))
    except (ImportError, OSError, RuntimeError) as error:
        text = " ".join(str(error).split())
        show(Finding("problem", f"{type(error).__name__}: {text}", "make setup"))
    return found


def _python() -> Iterator[Finding]:
    here = f"Python {platform.python_version()} on {platform.machine()} {platform.system()}"
    if (3, 11) <= sys.version_info < (3, 13):
        yield Finding("ok", here)
    else:
        yield Finding("problem", f"{here}; it must be 3.11 or 3.12", "make setup PYTHON=python3.12")


def _packages() -> Iterator[Finding]:
    """Installed versions against what the package asks for; the simulator's are pins."""
    from packaging.requirements import Requirement

    try:
        wanted = [Requirement(text) for text in requires(PACKAGE) or []]
    except PackageNotFoundError:
        yield Finding("problem", f"{PACKAGE} is not installed", "pip install -e .")
        return
    wanted = [r for r in wanted if r.marker is None or r.marker.evaluate({"extra": ""})]
    wrong = False
    for requirement in [*wanted, Requirement(f"hf-libero=={HF_LIBERO}")]:
        libero = requirement.name == "hf-libero"
        mend = f"pip install {'--no-deps ' * libero}'{requirement}'"
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            wrong = True
            yield Finding("problem", f"{requirement.name} is not installed", mend)
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            wrong = True
            yield Finding(
                "problem",
                f"{requirement.name} is {found}; it must be {requirement.specifier}",
                mend,
            )
    if not wrong:
        pins = ", ".join(f"{n} {version(n)}" for n in ("mujoco", "robosuite", "hf-libero", "bddl"))
        yield Finding("ok", f"all {len(wanted) + 1} fit; the protocol's pins: {pins}")


def _model() -> Iterator[Finding]:
    torch = importlib.import_module("torch")
    transformers = importlib.import_module("transformers")
    stack = f"torch {torch.__version__}, transformers {transformers.__version__}"
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        name = f"{torch.cuda.get_device_name()}, {free / 2**30:.0f} of {total / 2**30:.0f} GiB free"
        yield Finding("ok", f"{stack} on {name}")
        if free < 16 * 2**30:
            text = "a 7B checkpoint in bfloat16 needs about 16 GiB of GPU memory"
            yield Finding("warning", text, "end what else runs on the GPU (nvidia-smi shows it)")
    elif shutil.which("nvidia-smi"):
        text = f"{stack} sees no GPU although this machine has NVIDIA's driver"
        yield Finding("warning", text, "pip install --force-reinstall torch (a build with CUDA)")
    else:
        yield Finding("ok", f"{stack} on {os.cpu_count()} CPU cores; no GPU")


def _renderer() -> Iterator[Finding]:
    from vlaprune_bench.sim.gl import choose_gl

    yield Finding("ok", f"{choose_gl()} renders")


def _assets() -> Iterator[Finding]:
    from vlaprune_bench.sim.assets import ENVIRONMENT_VARIABLE, HUB_REPO, resolve_assets

    real = _real_assets()
    if real is None:
        mend = f"hf download --repo-type dataset {HUB_REPO}, or {ENVIRONMENT_VARIABLE}=FOLDER"
        yield Finding("warning", "the real set is not here: needed by published checkpoints", mend)
    elif real.hash == _known()["assets_hash"]:
        yield Finding("ok", f"real set {real.hash} in {real.path}")
    else:
        text = f"real set in {real.path} has hash {real.hash}, not {_known()['assets_hash']}"
        yield Finding("warning", text, f"hf download --repo-type dataset {HUB_REPO}")
    lite = resolve_assets("lite", "lite")
    yield Finding("ok", f"lite set {lite.hash} in {lite.path}")


def _real_assets() -> AssetSet | None:
    """The real set that a run on this machine would use, where there is one."""
    from vlaprune_bench.sim.assets import ENVIRONMENT_VARIABLE, find_real, resolve_assets

    named = os.environ.get(ENVIRONMENT_VARIABLE)
    if named and named not in ("auto", "real", "lite"):
        found = resolve_assets(named, "real")
        return found if found.kind == "real" else None
    path = find_real()
    return None if path is None else resolve_assets(str(path), "real")


def _simulator() -> Iterator[Finding]:
    """Episodes begun for real: how fast frames come, and whether they are the known ones."""
    import numpy as np

    from vlaprune_bench.sim.assets import resolve_assets
    from vlaprune_bench.sim.libero import LiberoTask

    assets = _real_assets() or resolve_assets("lite", "lite")
    for suite, task in PROBES.items():
        with LiberoTask(suite, task, assets) as environment:
            start = time.perf_counter()
            frames = environment.reset(0).images
            reset_s = time.perf_counter() - start
            assert frames is not None
            times = []
            for look in (True, False) * 5:
                start = time.perf_counter()
                environment.step(np.zeros(7), look=look)
                times.append(1000 * (time.perf_counter() - start))
        step = float(np.median(times[1::2]))
        pair = max(float(np.median(times[0::2])) - step, 0.0)
        speed = f"reset {reset_s:.1f} s, step {step:.0f} ms, both cameras {pair:.0f} ms"
        yield _frame_finding(f"{suite} task {task}", assets.kind, frames[0], speed)


def _frame_finding(name: str, kind: str, frame: np.ndarray, speed: str) -> Finding:
    """Compare a frame with the known one; only the real assets have one."""
    if frame.std() < 10:
        return Finding("problem", f"{name}: the frame is blank ({speed})", "MUJOCO_GL=osmesa")
    if kind != "real":
        return Finding("ok", f"{name} on lite assets, which have no known frame: {speed}")
    difference = frame_difference(name, frame)
    if difference > TOLERANCE:
        text = f"{name} looks unlike the known frame, by {difference:.0f} of 255 in some place"
        return Finding("problem", text, "pip install mujoco==3.3.2 (newer ones differ)")
    return Finding("ok", f"{name} shows the known frame (within {difference:.1f} of 255): {speed}")


def frame_difference(name: str, frame: np.ndarray) -> float:
    """Largest difference between the brightness of a frame's 16 x 16 blocks and the known one.

    Args:
        name: "SUITE task N" of `PROBES`, trial 0, settled.
        frame: (256, 256, 3) uint8, main camera.
    """
    import numpy as np

    return float(np.abs(blocks(frame) - np.array(_known()["frames"][name])).max())


def blocks(frame: np.ndarray) -> np.ndarray:
    """Mean brightness of 16 x 16 blocks of a (256, 256, 3) frame: (16, 16), 0 to 255."""
    return frame.mean(-1).reshape(16, 16, 16, 16).mean((1, 3))


def _known() -> dict[str, Any]:
    """Hash of the published asset set, and frames it shows under MuJoCo 3.3.2."""
    import json

    text = (files("vlaprune_bench.cli") / "known_frames.json").read_text()
    found: dict[str, Any] = json.loads(text)
    return found


def _hub() -> Iterator[Finding]:
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError

    if constants.HF_HUB_OFFLINE:
        yield Finding("ok", "offline by choice (HF_HUB_OFFLINE)")
        return
    http_error: Any = HfHubHTTPError.__bases__[0]
    try:
        HfApi().dataset_info("lerobot/libero-assets", timeout=5.0)
    except (http_error, OSError) as error:
        why = type(error).__name__
        mend = "set HTTPS_PROXY, or give --checkpoint and --assets as folders"
        yield Finding("warning", f"{constants.ENDPOINT} does not answer ({why})", mend)
    else:
        yield Finding("ok", f"{constants.ENDPOINT} answers")


def _disk() -> Iterator[Finding]:
    from huggingface_hub import constants

    from vlaprune_bench.sim.package import cache_root

    for title, folder in (
        ("this folder", Path.cwd()),
        ("our cache", cache_root()),
        ("the hub's cache", Path(constants.HF_HUB_CACHE)),
    ):
        there = next(path for path in (folder, *folder.parents) if path.exists())
        free = shutil.disk_usage(there).free / 2**30
        text = f"{free:.0f} GiB free for {title} ({folder})"
        if free >= DISK_GIB:
            yield Finding("ok", text)
        else:
            mend = "make room there, or set VLAPRUNE_CACHE and HF_HOME to another disk"
            yield Finding("warning" if free > 1 else "problem", text, mend)


def _memory() -> Iterator[Finding]:
    pages, size = os.sysconf("SC_AVPHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    total = os.sysconf("SC_PHYS_PAGES") * size / 2**30
    free = pages * size / 2**30
    if Path("/proc/meminfo").is_file():  # what the kernel would give, file caches included
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) / 2**20
    text = f"{free:.0f} of {total:.0f} GiB available"
    if free >= MEMORY_GIB:
        yield Finding("ok", text)
    else:
        yield Finding("warning", text, "end other programs, or run with one worker")


def run(argv: list[str]) -> None:
    tyro.cli(doctor, prog="vlaprune-doctor", description=__doc__, args=argv)


main = command(run)
