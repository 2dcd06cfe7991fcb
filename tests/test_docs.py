"""The documentation says what the code does."""

import re
import runpy
from pathlib import Path

from vlaprune_bench.pruning import methods

ROOT = Path(__file__).parents[1]


def test_results_page_lists_every_column():
    page = runpy.run_path(str(ROOT / "scripts" / "make_results_docs.py"))["page"]
    assert (ROOT / "docs" / "results.md").read_text() == page()


def test_tables_of_methods_are_made_from_the_code():
    made = runpy.run_path(str(ROOT / "scripts" / "make_methods_docs.py"))["pages"]()
    for path, text in made.items():
        said = f"{path.name} is not what the code says: run python scripts/make_methods_docs.py"
        assert path.read_text() == text, said


def test_links_lead_somewhere():
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_methods_page_describes_every_method():
    page = (ROOT / "docs" / "methods.md").read_text()
    table = page[page.index("| method | stage |") :].partition("\n\n")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.split("\n")[2:]]
    described = {row[0].strip("`") for row in rows if len(row) == 5 and all(row)}
    said = "docs/methods.md, first table: each method has a row of stage, score, selection and cost"
    assert described == set(methods()), said
