"""Who may import whom, read off the source: the house stays as drawn."""

import ast
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src" / "vlaprune_bench"

ALLOWED = {
    "types": set(),
    "measure": {"types"},
    "video": {"types"},
    "lite": {"types"},
    "pruning": {"types", "files"},
    "policies": {"types", "files", "pruning", "measure"},
    "sim": {"types", "files", "lite"},
    "experts": {"types", "sim"},
    "files": {"types"},
    "store": {"types", "files"},
    "config": {"types", "files", "pruning"},
    "tracking": {"types", "config"},
    "report": {"types", "files", "measure", "video", "store", "config"},
    "rollout": {
        "types", "pruning", "measure", "video", "policies", "sim", "store", "config", "tracking",
        "report",
    },
    "sweep": {"types", "files", "measure", "pruning", "config", "store", "rollout", "report"},
    "profile": {"types", "files", "measure", "pruning", "policies", "config", "store"},
    "doctor": {"types", "measure", "sim"},
}  # fmt: skip
HEAVY = {"torch", "transformers", "mujoco", "robosuite", "libero", "pandas", "pyarrow", "wandb"}
LIGHT_ROOMS = (
    "types", "files", "config", "pruning", "cli", "store", "tracking", "report", "profile", "sweep",
)  # fmt: skip
"""Their modules import nothing heavy at the top, so that --help answers at once."""


def room(path: Path) -> str:
    return path.relative_to(SRC).parts[0].removesuffix(".py")


def imports(tree: ast.AST, top_level_only: bool = False) -> set[str]:
    """Modules imported; blocks under TYPE_CHECKING do not count."""
    found = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        elif not (top_level_only and isinstance(node, ast.FunctionDef | ast.ClassDef)):
            found |= imports(node, top_level_only)
    return found


@pytest.mark.parametrize("path", sorted(SRC.rglob("*.py")), ids=lambda p: str(p.relative_to(SRC)))
def test_import_rules(path):
    tree = ast.parse(path.read_text())
    here = room(path)
    ours = {name.split(".")[1] for name in imports(tree) if name.startswith("vlaprune_bench.")}
    if here in ALLOWED:
        assert ours - {here} <= ALLOWED[here]
    if here in LIGHT_ROOMS:
        top = {name.split(".")[0] for name in imports(tree, top_level_only=True)}
        assert not top & HEAVY


def test_policies_see_only_the_base_of_pruning():
    for path in (SRC / "policies").rglob("*.py"):
        for name in imports(ast.parse(path.read_text())):
            if name.startswith("vlaprune_bench.pruning"):
                assert name == "vlaprune_bench.pruning.base", path
