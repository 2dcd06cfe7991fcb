"""Who may import whom, read off the source: the house stays as docs/design.md draws it.

Every import counts: at the top of a file, inside a function, and for type checkers alone.
"""

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "vlaprune_bench"
SRC = ROOT / "src" / PACKAGE
HEAVY = {"torch", "transformers", "mujoco", "robosuite", "libero", "pandas", "pyarrow", "wandb"}
SIMULATOR = {"mujoco", "robosuite", "libero"}
MODEL = {"torch", "transformers"}


def name_of(path: Path) -> str:
    parts = path.relative_to(SRC.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


TREES = {name_of(path): ast.parse(path.read_text()) for path in sorted(SRC.rglob("*.py"))}


def imports(tree: ast.AST, at_top: bool = False) -> set[str]:
    """Dotted names imported; `from a import b` is `a.b` where that is a module of ours, else `a`.

    Args:
        tree: of a module.
        at_top: only what importing the module imports, too.
    """
    found = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are not used here"
            assert node.module is not None
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name in TREES else node.module for name in inside}
        elif not (at_top and _waits(node)):
            found |= imports(node, at_top)
    return found


def _waits(node: ast.AST) -> bool:
    """Whether what is inside does not run when the module is imported."""
    typed = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
    return typed or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


def room(module: str) -> str:
    """The room of a module; "" for the package itself."""
    return module.removeprefix(PACKAGE).lstrip(".").partition(".")[0]


GRAPH = {module: imports(tree) & TREES.keys() for module, tree in TREES.items()}
"""Modules, and those each imports."""


def drawn() -> dict[str, set[str]]:
    """Rooms in the order of docs/design.md, and what each may import."""
    page = (ROOT / "docs" / "design.md").read_text()
    rows = page[page.index("| room | may import |") :].partition("\n\n")[0].split("\n")[2:]
    cells = [row.split("|")[1:3] for row in rows]
    return {here.strip(" `"): set(re.findall(r"`(\w+)`", may)) for here, may in cells}


def test_the_drawing_has_every_room_and_floors_rest_on_those_below():
    rooms = drawn()
    assert set(rooms) == {room(module) for module in GRAPH} - {""}, "docs/design.md: other rooms"
    for number, (here, may) in enumerate(rooms.items()):
        assert may <= set(list(rooms)[:number]), f"docs/design.md: {here} stands above its floor"


@pytest.mark.parametrize("module", [module for module in GRAPH if room(module)])
def test_a_room_imports_what_the_drawing_allows(module):
    here = room(module)
    others = {room(name) for name in GRAPH[module]} - {here}
    assert others <= drawn()[here], f"{module}; docs/design.md says what {here} may import"


def test_nothing_but_scripts_imports_experts():
    assert not any("experts" in may for may in drawn().values())


def test_no_circle():
    try:
        TopologicalSorter(GRAPH).prepare()
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


def test_imports_within_functions_and_for_type_checkers_make_a_circle_too():
    lazy = ast.parse("class A:\n def f(self):\n  from vlaprune_bench.sim import gl")
    typed = ast.parse("if TYPE_CHECKING:\n from vlaprune_bench.sim.gl import probe")
    for tree in (lazy, typed):
        assert imports(tree) == {f"{PACKAGE}.sim.gl"}
        assert imports(tree, at_top=True) == set()


def test_policies_see_no_method():
    for module, names in GRAPH.items():
        if room(module) == "policies":
            seen = {name for name in names if room(name) == "pruning"}
            assert seen <= {f"{PACKAGE}.pruning.base", f"{PACKAGE}.pruning.decoder"}, module


def loaded(module: str) -> set[str]:
    """Top-level packages that importing a module imports."""
    waiting, seen, found = [module], set(), set()
    while waiting:
        name = waiting.pop()
        parents = {name.rsplit(".", n)[0] for n in range(name.count(".") + 1)}
        for part in parents - seen:
            names = imports(TREES[part], at_top=True)
            found |= {other.split(".")[0] for other in names}
            waiting += names & TREES.keys()
        seen |= parents
    return found


@pytest.mark.parametrize(
    ("rooms", "heavy"),
    [
        (
            {
                "",
                "types",
                "config",
                "pruning",
                "store",
                "tracking",
                "profile",
                "sweep",
                "serve",
                "cli",
            },
            HEAVY,
        ),
        ({"report"}, HEAVY),
        ({"lite", "sim", "doctor"}, MODEL),
        ({"policies"}, SIMULATOR),
    ],
    ids=["what --help answers with", "report", "simulator", "policies"],
)
def test_what_is_heavy_is_imported_where_the_work_starts(rooms, heavy):
    for module in GRAPH:
        if room(module) in rooms:
            assert not loaded(module) & heavy, module
