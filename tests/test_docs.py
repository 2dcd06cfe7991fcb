"""The documentation says what the code does."""

import re
import runpy
from pathlib import Path

from vlaprune_bench.pruning import methods

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
