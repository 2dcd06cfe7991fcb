"""Adding a method is one new file: the README's example, run as it stands there."""

import re
from pathlib import Path

import pytest

from vlaprune_bench.cli.eval import parse
from vlaprune_bench.pruning import Pruner

README = Path(__file__).parents[2] / "README.md"


@pytest.fixture
def plugin(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    source = next(block for block in blocks if "register_subclass" in block)
    path = tmp_path / "my_method.py"
    path.write_text(source)
    return path, re.search(r'register_subclass\("(.*?)"\)', source)[1]


def test_the_readmes_method_is_one_file(plugin):
    path, name = plugin
    config = parse(["--plugin", str(path), "--method", name, "--keep", "0.25"])
    assert config.pruner.name == name
    assert isinstance(config.pruner, Pruner)
    assert config.pruner.keep_ratio == 0.25
