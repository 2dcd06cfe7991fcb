"""Adding a method is one new file, in a folder of its own or in an installed package.

The method is the README's example, run as it stands there.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from vlaprune_bench.cli.eval import parse
from vlaprune_bench.pruning import Pruner, methods

ROOT = Path(__file__).parents[2]


@pytest.fixture
def source():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    return next(block for block in blocks if "register_subclass" in block)


@pytest.fixture
def name(source):
    return re.search(r'register_subclass\("(.*?)"\)', source)[1]


def install(site: Path, source: str, entry: str) -> None:
    """What `pip install` leaves of a package with one module and one entry point."""
    (site / "foreign_methods").mkdir(parents=True)
    (site / "foreign_methods" / "__init__.py").touch()
    (site / "foreign_methods" / "loud.py").write_text(source)
    info = site / "foreign_methods-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: foreign-methods\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        f"[vlaprune_bench.methods]\n{entry} = foreign_methods.loud\n"
    )


def python(site: Path, *args: str) -> subprocess.CompletedProcess:
    """In a process of its own: a registered method stays registered."""
    path = os.pathsep.join([str(site), str(ROOT / "src")])
    return subprocess.run(
        [sys.executable, *args],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "PYTHONPATH": path},
    )


def test_the_readmes_method_is_one_file(source, name, tmp_path, monkeypatch):
    path = tmp_path / "my_method.py"
    path.write_text(source)
    # a copy: what is registered here must not be there for the tests after this one
    monkeypatch.setattr(Pruner, "_choice_registry", methods())
    config = parse(["--plugin", str(path), "--method", name, "--keep", "0.25"])
    assert config.what.pruner.name == name
    assert isinstance(config.what.pruner, Pruner)
    assert config.what.pruner.keep_ratio == 0.25


def test_an_installed_method_passes_the_matrix_with_one_helper(source, name, tmp_path):
    install(tmp_path, source, name)
    test = (
        "import sys\n"
        "from vlaprune_bench.testing import check_method\n"
        "from foreign_methods.loud import Loudest\n"
        "check_method(Loudest(keep=0.25))\n"
        "assert 'pytest' not in sys.modules\n"
    )
    done = python(tmp_path, "-c", test)
    assert done.returncode == 0, done.stderr


def test_an_installed_method_is_on_the_command_line(source, name, tmp_path):
    install(tmp_path, source, name)
    done = python(tmp_path, "-m", "vlaprune_bench.cli.eval", "--method", name, "--help")
    assert done.returncode == 0, done.stderr
    assert "--power" in done.stdout
    assert name in python(tmp_path, "-m", "vlaprune_bench.cli.eval", "--help").stdout


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda source: "import no_such_module\n" + source,
            "cannot be imported: ModuleNotFoundError: No module named 'no_such_module'",
        ),
        (lambda source: source + "\n1 / 0\n", "cannot be imported: ZeroDivisionError"),
        (lambda source: source.replace('"loudest"', '"fastv"'), "cannot be imported: "),
        (lambda source: source.replace('"loudest"', '"loud"'), "registers no method of that name"),
    ],
)
def test_a_broken_package_is_named(source, name, tmp_path, change, sentence):
    install(tmp_path, change(source), name)
    done = python(tmp_path, "-m", "vlaprune_bench.cli.eval", "--method", "none")
    assert done.returncode == 2
    about = "package foreign-methods: its pruning method loudest (foreign_methods.loud)"
    assert done.stderr.startswith(f"error: {about} {sentence}")
    assert done.stderr.count("\n") == 1
