"""libero is imported without a question, a word, or a file in the home folder."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from vlaprune_bench.sim import package
from vlaprune_bench.types import UserError


@pytest.mark.sim
def test_import_asks_nothing_prints_nothing_and_leaves_home_alone(tmp_path):
    home, cache, here = tmp_path / "home", tmp_path / "cache", tmp_path / "here"
    home.mkdir()
    here.mkdir()
    environment = {k: v for k, v in os.environ.items() if k != "LIBERO_CONFIG_PATH"}
    environment |= {"HOME": str(home), "VLAPRUNE_CACHE": str(cache)}
    code = (
        "from vlaprune_bench.sim.package import import_libero; import warnings;"
        "before = list(warnings.filters); import_libero(); assert warnings.filters == before"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=here,
        env=environment,
        stdin=subprocess.DEVNULL,  # a question would fail
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not (home / ".libero").exists()
    assert list(here.iterdir()) == []
    assert list(cache.glob("libero-config/*/config.yaml"))


def test_config_names_the_installed_package(tmp_path, monkeypatch):
    monkeypatch.setenv("VLAPRUNE_CACHE", str(tmp_path))
    monkeypatch.setenv("LIBERO_CONFIG_PATH", "to be restored")
    config = package.prepare_config()
    assert os.environ["LIBERO_CONFIG_PATH"] == str(config.parent)
    paths = yaml.safe_load(config.read_text())
    assert Path(paths["bddl_files"]).is_dir()
    assert Path(paths["init_states"]).is_dir()
    assert set(paths) == {"benchmark_root", "bddl_files", "init_states", "datasets", "assets"}
    config.write_text("half a fi")
    assert yaml.safe_load(package.prepare_config().read_text()) == paths
    assert [path.name for path in config.parent.iterdir()] == ["config.yaml"]


def test_cache_root_precedence(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("VLAPRUNE_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert package.cache_root() == tmp_path / ".cache" / "vlaprune-bench"
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert package.cache_root() == Path("/xdg/vlaprune-bench")
    monkeypatch.setenv("VLAPRUNE_CACHE", "~/own")
    assert package.cache_root() == tmp_path / "own"


def test_a_missing_package_names_the_step(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install --no-deps hf-libero==0\.1\.4"):
        package.package_folder()


def test_quiet_keeps_words_but_not_errors(capsys):
    with package.quiet():
        print("chatter")
    assert capsys.readouterr() == ("", "")

    def fail():
        with package.quiet():
            print("what led to it")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert capsys.readouterr() == ("", "what led to it\n")
