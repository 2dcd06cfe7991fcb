"""What every command takes and prints: paths with ~, UTF-8 texts, terminals of any encoding."""

import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from vlaprune_bench.cli.report import COMMANDS, ReportOptions
from vlaprune_bench.cli.sweep import SweepOptions
from vlaprune_bench.config import EvalConfig, dump, load
from vlaprune_bench.files import user_path
from vlaprune_bench.profile.config import ProfileConfig
from vlaprune_bench.pruning import load_plugin
from vlaprune_bench.sim.package import cache_root, place_numba_cache, prepare_config
from vlaprune_bench.store import load_results
from vlaprune_bench.sweep.file import load_sweep
from vlaprune_bench.types import UserError

COMMAND_NAMES = ("eval", "sweep", "report", "profile", "doctor")


def command(name, *args, **environment):
    """Run a command as its console script does; bytes come back."""
    code = f"from vlaprune_bench.cli.{name} import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *args],
        capture_output=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
    )


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


OPTION_CLASSES = [
    ReportOptions,
    SweepOptions,
    ProfileConfig,
    *(kind for kind, _ in COMMANDS.values()),
    *(f.default.__class__ for f in fields(EvalConfig)),
]


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (kind, f.name)
        for kind in OPTION_CLASSES
        for f in fields(kind)
        if re.search(r"\bPath\b", str(f.type))
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_every_path_a_user_types_expands_its_tilde(kind, name, home):
    needed = {"results": Path("r"), "file": Path("f"), "action": "plan"}
    own = {f.name for f in fields(kind)}
    values = {k: v for k, v in needed.items() if k in own} | {name: Path("~/there")}
    assert getattr(kind(**values), name) == home / "there"


def test_files_are_found_by_a_tilde_and_outputs_in_them_expand(home):
    home.mkdir()
    (home / "c.yaml").write_text("output: ~/results\n")
    (home / "s.yaml").write_text("base: {output: ~/sweeps, trials: 1}\n")
    assert load(Path("~/c.yaml")).storage.output == home / "results"
    assert load_sweep(Path("~/s.yaml")).folder == home / "sweeps"
    with pytest.raises(UserError, match=f"^{home}/none holds no results"):
        load_results("~/none")


@pytest.mark.parametrize(
    ("path", "sentence"),
    [("~no-such-user/x", "home folder is not known"), ("a\0b", r"'a\\x00b' is no path")],
)
def test_a_path_that_is_none_is_one_sentence(path, sentence):
    with pytest.raises(UserError, match=sentence):
        user_path(path)
    with pytest.raises(UserError, match=sentence):
        EvalConfig.of(output=Path(path))


TEXT = 'x: "réglages"\n'


def read_sweep(path):
    return load_sweep(path).cells[0]


@pytest.mark.parametrize("read", [load, read_sweep, load_plugin])
@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_a_text_in_another_encoding_is_one_sentence(tmp_path, read, encoding):
    path = tmp_path / "x.yaml" if read is not load_plugin else tmp_path / "x.py"
    path.write_bytes(TEXT.encode(encoding))
    with pytest.raises(UserError, match=rf"is {path}; it (is not UTF-8|cannot be read as Python)"):
        read(path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_utf_8_is_read_whatever_the_locale(tmp_path, encoding):
    path = tmp_path / "c.yaml"
    path.write_bytes(dump(EvalConfig.of(trials=3, checkpoint="modèle")).encode(encoding))
    code = (
        "from pathlib import Path; from vlaprune_bench.config import load;"
        f"print(load(Path({str(path)!r})).what.checkpoint.encode('unicode_escape').decode())"
    )
    environment = {**os.environ, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout == "mod\\xe8le\n"


@pytest.mark.parametrize(
    "text",
    ["a: 2026-13-01", "a: !!timestamp x", "a: !!bool x", "a: !!int ''", "? [a]\n: b", "[" * 9000],
)
def test_values_that_do_not_fit_their_tags_are_one_sentence(tmp_path, text):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match="it is not valid YAML"):
        load(path)


@pytest.mark.parametrize("text", ["1: 2", "null: 3", "2026-01-01: x"])
def test_a_key_that_is_no_name_is_one_sentence(tmp_path, text):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    for read in (load, load_sweep):
        with pytest.raises(UserError, match="must be the name of an option"):
            read(path)


@pytest.mark.parametrize("name", COMMAND_NAMES)
def test_help_passes_a_terminal_of_ascii(name):
    done = command(name, "--help", PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert f"vlaprune-{name}" in done.stdout.decode("ascii")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_tables_pass_any_terminal_in_the_nearest_characters(encoding):
    done = command("report", "published", PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    text = done.stdout.decode(encoding)
    assert ("─" if encoding == "utf-8" else "-") * 40 in text
    assert "?" not in text.replace("RTX 4090?", "")  # as its source has it


def test_an_argument_in_another_encoding_is_one_sentence():
    done = command("report", b"caf\xe9", PYTHONUTF8="1")
    assert done.returncode == 2
    assert done.stderr.startswith(b"error: the argument b'caf\\xe9' is not in the encoding")


@pytest.mark.parametrize("args", [["--help"], ["published"]])
def test_a_reader_that_stops_early_ends_the_command_quietly(args):
    code = "from vlaprune_bench.cli.report import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", code, *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 141
    process.stderr.close()


# the cache


@pytest.mark.parametrize("variable", ["VLAPRUNE_CACHE", "XDG_CACHE_HOME", "HOME"])
def test_a_cache_that_cannot_be_written_is_one_sentence(variable, monkeypatch, tmp_path):
    for name in ("VLAPRUNE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "file").touch()
    for place in ("/proc/nowhere", str(tmp_path / "file")):
        monkeypatch.setenv(variable, place)
        with pytest.raises(UserError, match=r"cannot be written to \(.*\): set VLAPRUNE_CACHE"):
            prepare_config()


def test_a_cache_without_a_home_is_one_sentence(monkeypatch):
    def unknown():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", unknown)
    for name in ("VLAPRUNE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match="set VLAPRUNE_CACHE"):
        cache_root()


@pytest.mark.parametrize("writable", [True, False])
def test_compiled_code_goes_to_our_cache_where_sources_are_read_only(
    monkeypatch, tmp_path, writable
):
    monkeypatch.setenv("VLAPRUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NUMBA_CACHE_DIR", "x")  # put back afterwards
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    monkeypatch.setattr(os, "access", lambda path, mode: writable)
    place_numba_cache()
    expected = None if writable else str(tmp_path / "cache" / "numba")
    assert os.environ.get("NUMBA_CACHE_DIR") == expected
    assert (tmp_path / "cache" / "numba").is_dir() != writable
    if not writable:
        monkeypatch.delenv("NUMBA_CACHE_DIR")
        monkeypatch.setenv("VLAPRUNE_CACHE", "/proc/nowhere")
        with pytest.raises(UserError, match="set VLAPRUNE_CACHE"):
            place_numba_cache()
