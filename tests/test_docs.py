"""The documentation says what the code does."""

import re
import runpy
from dataclasses import fields
from pathlib import Path

from vlaprune_bench.pruning import methods
from vlaprune_bench.pruning.adp import Adp
from vlaprune_bench.pruning.gate import MotionGate
from vlaprune_bench.pruning.static import Static

ROOT = Path(__file__).parents[1]


def test_results_page_lists_every_column():
    page = runpy.run_path(str(ROOT / "scripts" / "make_results_docs.py"))["page"]
    assert (ROOT / "docs" / "results.md").read_text() == page()


def test_readme_lists_every_method():
    readme = (ROOT / "README.md").read_text()
    for method in methods():
        assert f"| `{method}` |" in readme


def test_links_lead_somewhere():
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_methods_page_lists_every_method_with_its_options():
    page = (ROOT / "docs" / "methods.md").read_text()
    gate = page[page.index("The gate (`adp`, `gated`):") :].partition("\n\n")[0]
    names = {f.name for f in fields(MotionGate)}
    assert set(re.findall(r"`(\w+)`", gate.partition(":")[2])) == names
    table = page[page.index("| method | source |") :].partition("\n\n")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.split("\n")[2:]]
    assert sorted(row[0].strip("`") for row in rows) == list(methods())
    for row in rows:
        assert len(row) == 7
        cls = methods()[row[0].strip("`")]
        listed = set(re.findall(r"`(\w+)`", row[6]))
        if cls is Adp:
            assert row[6] == "those of `static` and of the gate"
            listed = {f.name for f in fields(Static)}
        if {f.name for f in fields(cls)} & {"gate"}:
            assert "of the gate" in row[6]
            listed.add("gate")
        assert listed == {f.name for f in fields(cls)}, row[0]


def test_methods_page_says_whose_positions_are_contiguous():
    page = (ROOT / "docs" / "methods.md").read_text()
    part = page[page.index("Contiguous, as if") : page.index("`gated` and `schedule`\ndo as")]
    contiguous, own = part.split("Their own:")
    for name, cls in methods().items():
        if name not in ("none", "gated", "schedule"):
            assert f"`{name}`" in (contiguous if cls().renumber_positions else own)
