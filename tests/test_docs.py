"""The documentation says what the code does.

Read here, on every page: links, files, commands, flags and `make` targets that are named, and the
tables that repeat what the code knows. `docs/design.md` is read by `test_imports.py`.
"""

import dataclasses
import re
import runpy
from pathlib import Path
from shlex import split

import pytest
import tyro

from vlaprune_bench import types
from vlaprune_bench.cli import certify, profile, report, serve, sweep
from vlaprune_bench.cli import eval as evaluation
from vlaprune_bench.config import EvalConfig
from vlaprune_bench.pruning import methods
from vlaprune_bench.serve.config import ServeConfig

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
ROOMS = ROOT / "src" / "vlaprune_bench"
WHERE = [ROOT, ROOMS, ROOT / "tests", ROOMS / "rollout", ROOMS / "pruning"]
"""Folders that pages name files from."""
FOREIGN = {
    "src/lerobot/envs/libero.py",
    "examples/libero/main.py",
    "my_method.py",
    "certificate.md",
}
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def code(page: Path) -> list[str]:
    """Lines of the shell blocks of a page, continued ones joined."""
    blocks = re.findall(r"```bash\n(.*?)```", page.read_text(), flags=re.DOTALL)
    return [line for block in blocks for line in block.replace("\\\n", " ").split("\n")]


def table(page: str, head: str) -> list[list[str]]:
    """Cells of the rows of a table, found by how its first line begins."""
    text = (ROOT / "docs" / page).read_text()
    rows = text[text.index(head) :].partition("\n\n")[0].split("\n")[2:]
    return [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows]


def flags(config: type) -> set[str]:
    """Names of a dataclass's options, those of its parts included."""
    found = set()
    for f in dataclasses.fields(config):
        found.add(f.name.replace("_", "-"))
        if dataclasses.is_dataclass(f.default):
            found |= flags(type(f.default))
    return found


def main_table():
    """Cells of the main table."""
    from vlaprune_bench.sweep.file import load_sweep

    return load_sweep(ROOT / "configs" / "sweeps" / "main-table.yaml").cells


@every_page
def test_files_that_are_named_exist(page):
    names = set(re.findall(r"`([\w./-]+\.(?:py|yaml|md))`", page.read_text())) - FOREIGN
    missing = [name for name in names if not any((root / name).exists() for root in WHERE)]
    assert not missing, f"{page.name} names files that are not there: say where it is now"


@every_page
def test_make_targets_that_are_named_exist(page):
    rules = (ROOT / "Makefile").read_text()
    known = {name for line in re.findall(r"^([\w -]+):(?!=)", rules, re.M) for name in line.split()}
    known |= {f"sweep-{path.stem}" for path in (ROOT / "configs" / "sweeps").glob("*.yaml")}
    text = "\n".join([*code(page), *re.findall(r"`([^`\n]+)`", page.read_text())])
    named = set(re.findall(r"\bmake ([a-z][a-z-]+)", text))
    assert named <= known, f"{page.name} names targets the Makefile has not"


@every_page
def test_commands_that_are_shown_parse(page, monkeypatch):
    monkeypatch.chdir(ROOT)

    def read_report(args):
        kind, _ = report.COMMANDS.get(args[0], (report.ReportOptions, None))
        tyro.cli(kind, args=args[args[0] in report.COMMANDS :])

    def read_doctor(args):
        assert args in ([], ["--quick"])

    parsers = {"eval": evaluation.parse, "profile": profile.parse, "sweep": sweep.parse}
    parsers |= {"serve": serve.parse, "certify": certify.parse}
    parsers |= {"report": read_report, "doctor": read_doctor}
    for line in code(page):
        words = split(re.sub(r"\$\w+", "1", line), comments=True)
        commands = (i for i, word in enumerate(words) if re.fullmatch(r"vlaprune-[a-z]+", word))
        start = next(commands, None)
        if start is None or "--plugin" in words:  # tests/pruning/test_plugin.py runs that one
            continue
        command, *args = words[start:]
        end = next((i for i, word in enumerate(args) if word in (">", "|", "&")), len(args))
        parsers[command.removeprefix("vlaprune-")](args[:end])


@every_page
def test_flags_that_are_named_exist(page):
    if page.name in ("tiny.md", "tiny-table.md"):  # of scripts, which --help of each lists
        pytest.skip("flags of scripts")
    commands = [sweep.SweepOptions, sweep.Launching, certify.CertifyOptions]
    commands += [*(kind for kind, _ in report.COMMANDS.values())]
    known = {"config", "plugin", "method", "quick", "help", "no-deps", "retry-errors"}
    for part in (EvalConfig, ServeConfig, profile.ProfileConfig, report.ReportOptions, *commands):
        known |= flags(part)
    for method in methods().values():
        known |= flags(method)
    named = set(re.findall(r"`--([a-z-]+)", page.read_text()))
    assert named <= known, f"{page.name} names options no command has"


def test_the_protocols_page_has_the_budgets():
    (row,) = [row for row in table("protocol.md", "| what | value |") if row[0] == "budget"]
    budgets = types.OPENVLA_PROTOCOL.budgets
    said = ", ".join(f"{name.removeprefix('libero_')} {steps}" for name, steps in budgets.items())
    assert row[1].replace("libero_", "") == f"{said} control steps"


def test_the_arithmetic_of_scaling_is_that_of_the_protocol_and_the_main_table():
    total = {}
    for suite, budget, calls, *_ in table("scaling.md", "| suite | budget |"):
        steps = types.OPENVLA_PROTOCOL.budgets[suite]
        total[suite] = -(-steps // types.OPENVLA_PROTOCOL.execute_steps)
        assert (int(budget), int(calls)) == (steps, total[suite])
    episodes = dict.fromkeys(total, 0)
    for cell in main_table():
        episodes[cell.what.suite] += len(cell.what.tasks) * cell.what.trials
    page = (ROOT / "docs" / "scaling.md").read_text()
    (each,) = set(episodes.values())
    assert f"has {sum(episodes.values()):,} episodes, {each:,} on each suite" in page
    hours = [sum(total.values()) * each * ms / 3.6e6 for ms in (50, 100, 200)]
    assert "{:.0f}, {:.0f} or {:.0f} GPU hours".format(*hours) in page


def test_the_studies_that_are_listed_are_those_there_are():
    files = {path.stem for path in (ROOT / "configs" / "sweeps").glob("*.yaml")}
    named = re.findall(r"`([\w-]+)`", " ".join(row[0] for row in table("sweeps.md", "| target |")))
    assert {name.removeprefix("sweep-") for name in named} == files, "docs/sweeps.md, The studies"


def test_the_main_table_has_every_method_that_holds_no_other():
    from vlaprune_bench.pruning import Pruner

    alone = {
        name
        for name, method in methods().items()
        if not any(isinstance(value, Pruner) for value in vars(method()).values())
    }
    said = "configs/sweeps/main-table.yaml (and what docs/scaling.md counts) has other methods"
    assert {cell.what.pruner.name for cell in main_table()} == alone, said


def test_results_page_lists_every_column():
    page = runpy.run_path(str(ROOT / "scripts" / "make_results_docs.py"))["page"]
    said = "docs/results.md is not what the code says: run python scripts/make_results_docs.py"
    assert (ROOT / "docs" / "results.md").read_text() == page(), said


def test_tables_of_methods_are_made_from_the_code():
    made = runpy.run_path(str(ROOT / "scripts" / "make_methods_docs.py"))["pages"]()
    for path, text in made.items():
        said = f"{path.name} is not what the code says: run python scripts/make_methods_docs.py"
        assert path.read_text() == text, said


def test_links_lead_somewhere():
    for page in PAGES:
        for target, place in re.findall(r"\]\((?!http)([^)#]+)#?([^)]*)\)", page.read_text()):
            there = page.parent / target
            assert there.exists(), f"{page.name} links to {target}"
            if place:
                heads = re.findall(r"^#+ (.*)", there.read_text(), flags=re.MULTILINE)
                known = [re.sub(r"[^\w-]", "", head.lower().replace(" ", "-")) for head in heads]
                assert place in known, f"{page.name} links to {target}#{place}"


def test_methods_page_describes_every_method():
    page = (ROOT / "docs" / "methods.md").read_text()
    table = page[page.index("| method | stage |") :].partition("\n\n")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.split("\n")[2:]]
    described = {row[0].strip("`") for row in rows if len(row) == 5 and all(row)}
    said = "docs/methods.md, first table: each method has a row of stage, score, selection and cost"
    assert described == set(methods()), said
