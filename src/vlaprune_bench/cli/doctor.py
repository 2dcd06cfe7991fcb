"""vlaprune-doctor: what works on this machine, and the missing step where something does not."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import tyro

from vlaprune_bench.cli import command
from vlaprune_bench.types import UserError


def doctor() -> None:
    """Check renderer, simulator, model stack, assets and embedded checkpoint, one line each."""
    checks = {
        "renderer": _renderer,
        "simulator": _simulator,
        "torch": _torch,
        "real assets": _real_assets,
        "lite assets": _lite_assets,
    }
    broken = [name for name, check in checks.items() if not _report(name, check)]
    if broken:
        raise UserError(f"not working: {', '.join(broken)}; see the lines above.")


def _report(name: str, check: Callable[[], str]) -> bool:
    try:
        print(f"ok       {name}: {check()}")
    except UserError as error:
        print(f"missing  {name}: {error}")
        return False
    return True


def _renderer() -> str:
    from vlaprune_bench.sim.gl import choose_gl

    return choose_gl()


def _simulator() -> str:
    from vlaprune_bench.sim.tasks import list_tasks

    return f"libero_spatial has {len(list_tasks('libero_spatial'))} tasks"


def _torch() -> str:
    torch = importlib.import_module("torch")
    transformers = importlib.import_module("transformers")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return f"{torch.__version__} on {device}, transformers {transformers.__version__}"


def _real_assets() -> str:
    from vlaprune_bench.sim.assets import find_real

    return str(find_real() or "not on this machine; downloaded when a checkpoint first needs them")


def _lite_assets() -> str:
    from vlaprune_bench.sim.assets import resolve_assets

    return str(resolve_assets("lite", "lite").path)


def run(argv: list[str]) -> None:
    tyro.cli(doctor, prog="vlaprune-doctor", args=argv)


main = command(run)
