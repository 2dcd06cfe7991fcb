"""Checks of this machine: each yields findings, with the command that mends what is not ok."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vlaprune_bench.types import UserError

if TYPE_CHECKING:
    from vlaprune_bench.sim.assets import AssetSet

Level = Literal["ok", "warning", "problem"]
DISK_GIB = 20.0
"""A 7B checkpoint in bfloat16 is 15 GiB."""
MEMORY_GIB = 4.0
"""One worker with a simulator and the embedded checkpoint takes about 2 GiB."""


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    level: Level
    text: str
    mend: str = ""
    """A command, or what to do, where it is not ok."""


def check_all(quick: bool) -> set[Level]:
    """Run every check and print what it finds.

    Args:
        quick: leave out what takes more than a few seconds: the simulator and its frames.

    Returns:
        The levels that were found.
    """
    checks: dict[str, Callable[[], Iterator[Finding]]] = {
        "python": _python,
        "packages": _packages,
        "model": _model,
        "renderer": _renderer,
        "assets": _assets,
        "suites": _suites,
        "simulator": _simulator,
        "hub": _hub,
        "disk": _disk,
        "memory": _memory,
    }
    if quick:
        del checks["simulator"]
    return {finding.level for name, check in checks.items() for finding in _report(name, check)}


def _report(name: str, check: Callable[[], Iterator[Finding]]) -> list[Finding]:
    """Run a check and print its lines; what it cannot get past is a problem of its own."""
    found = []

    def show(finding: Finding) -> None:
        found.append(finding)
        print(f"{finding.level:<8} {name}: {finding.text}", flush=True)
        if finding.level != "ok" and finding.mend:
            print(f"{'':<8} {'mend':>{len(name)}}: {finding.mend}", flush=True)

    try:
        for finding in check():
            show(finding)
    except UserError as error:
        show(Finding("problem", str(error)))
    except Exception as error:  # noqa: BLE001 - it is shown, and the other checks go on
        text = " ".join(str(error).split())
        show(Finding("problem", f"{type(error).__name__}: {text}", "make setup"))
    return found


def _python() -> Iterator[Finding]:
    here = f"Python {platform.python_version()} on {platform.machine()} {platform.system()}"
    level: Level = "ok" if (3, 11) <= sys.version_info < (3, 13) else "problem"
    yield Finding(level, f"{here} (3.11 or 3.12 is wanted)", "make setup PYTHON=python3.12")


def _packages() -> Iterator[Finding]:
    """Installed versions against what the package asks for."""
    from packaging.requirements import Requirement

    from vlaprune_bench.sim.package import LIBERO
    from vlaprune_bench.sim.pins import PACKAGE, pins

    wanted = [Requirement(text) for text in requires(PACKAGE) or []]
    wanted = [r for r in wanted if r.marker is None or r.marker.evaluate({"extra": ""})]
    wrong = False
    for requirement in [*wanted, Requirement(LIBERO)]:
        name = requirement.name
        try:
            found = version(name)
        except PackageNotFoundError:
            text = f"{name} is not installed"
        else:
            if requirement.specifier.contains(found, prereleases=True):
                continue
            text = f"{name} is {found}; it must be {requirement.specifier}"
        wrong = True
        no_deps = "--no-deps " if name == "hf-libero" else ""
        yield Finding("problem", text, f"pip install {no_deps}'{requirement}'")
    if not wrong:
        pinned = ", ".join(f"{name} {wanted}" for name, wanted in pins().items())
        yield Finding("ok", f"all {len(wanted) + 1} fit; the protocol's pins: {pinned}")


def _model() -> Iterator[Finding]:
    import torch
    import transformers

    from vlaprune_bench.measure.machine import usable_cores

    stack = f"torch {torch.__version__}, transformers {transformers.__version__}"
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        name = f"{torch.cuda.get_device_name()}, {free / 2**30:.0f} of {total / 2**30:.0f} GiB free"
        level: Level = "ok" if free >= 16 * 2**30 else "warning"
        text = f"{stack} on {name}; a 7B checkpoint in bfloat16 needs about 16"
        yield Finding(level, text, "end what else runs on the GPU (nvidia-smi shows it)")
    elif shutil.which("nvidia-smi"):
        text = f"{stack} sees no GPU although this machine has NVIDIA's driver"
        yield Finding("warning", text, "pip install --force-reinstall torch (a build with CUDA)")
    else:
        yield Finding("ok", f"{stack} on {usable_cores()} CPU cores; no GPU")


def _renderer() -> Iterator[Finding]:
    from vlaprune_bench.sim.gl import choose_gl

    yield Finding("ok", f"{choose_gl()} renders")


def _assets() -> Iterator[Finding]:
    from vlaprune_bench.sim.assets import ENVIRONMENT_VARIABLE, INSTALL, resolve_assets
    from vlaprune_bench.sim.manifest import manifest

    real = real_assets()
    if real is None:
        mend = f"{INSTALL}, or {ENVIRONMENT_VARIABLE}=FOLDER"
        yield Finding("warning", "the real set is not here: needed by published checkpoints", mend)
    elif real.warning:
        yield Finding("warning", real.warning, INSTALL)
    else:
        text = f"real set {real.hash} in {real.path}: all {len(manifest())} files are LIBERO's"
        yield Finding("ok", text)
    lite = resolve_assets("lite", "lite")
    yield Finding("ok", f"lite set {lite.hash} in {lite.path}")


def _suites() -> Iterator[Finding]:
    """Data of the perturbed suites: nobody needs it who does not run them."""
    from vlaprune_bench.sim.pins import check_clash
    from vlaprune_bench.sim.wheels import LIBERO_PLUS, LIBERO_PRO

    check_clash()
    for wheel, title in ((LIBERO_PRO, "LIBERO-PRO"), (LIBERO_PLUS, "LIBERO-Plus")):
        if wheel.found() is None:
            yield Finding("ok", f"{title} is not here; to have its suites: {wheel.install}")
        else:
            yield Finding("ok", f"{title}: {wheel.project} in {wheel.data()}")


def real_assets() -> AssetSet | None:
    """The real set that a run on this machine would use, where there is one; no download.

    Raises:
        UserError: it is here, and damaged.
    """
    from vlaprune_bench.sim.assets import ENVIRONMENT_VARIABLE, find_real, resolve_assets

    choice = os.environ.get(ENVIRONMENT_VARIABLE)
    if choice in (None, "", "auto", "real", "lite"):
        choice = "real" if find_real() else None
    found = resolve_assets(choice, "real") if choice else None
    return found if found and found.kind == "real" else None


def _simulator() -> Iterator[Finding]:
    """Episodes begun for real: how fast frames come, and whether they are the known ones."""
    from vlaprune_bench.doctor.probes import PROBES, TOLERANCE, difference, probe
    from vlaprune_bench.sim.assets import resolve_assets
    from vlaprune_bench.sim.pins import pins

    assets = real_assets() or resolve_assets("lite", "lite")
    for suite, task in PROBES.items():
        name = f"{suite} task {task}"
        frame, speed = probe(suite, task, assets)
        if frame.std() < 10:
            yield Finding("problem", f"{name}: the frame is blank ({speed})", "MUJOCO_GL=osmesa")
            continue
        by = difference(name, assets.kind, frame)
        level: Level = "ok" if by <= TOLERANCE else "problem"
        text = f"{name}: {by:.1f} of 255 from the known frame of the {assets.kind} assets; {speed}"
        yield Finding(level, text, f"pip install mujoco=={pins()['mujoco']}, or another MUJOCO_GL")


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
        mend = "export HTTPS_PROXY=URL, or --checkpoint FOLDER --assets FOLDER"
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
        level: Level = "ok" if free >= DISK_GIB else "warning" if free > 1 else "problem"
        mend = "export VLAPRUNE_CACHE=FOLDER HF_HOME=FOLDER on another disk, or make room"
        yield Finding(level, text, mend)


def _memory() -> Iterator[Finding]:
    from vlaprune_bench.measure.machine import available_mib, total_mib

    free, total = available_mib() / 2**10, total_mib() / 2**10
    level: Level = "ok" if free >= MEMORY_GIB else "warning"
    text = f"{free:.0f} of {total:.0f} GiB available"
    yield Finding(level, text, "vlaprune-eval --workers 0, or end other programs")
