"""The results folder: readable by pandas, never torn, whatever happens to it."""

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.rows import call_row, episode_row
from vlaprune_bench.store import (
    Store,
    copy_calls,
    holder,
    load_calls,
    load_results,
    read_episodes,
    schema,
)
from vlaprune_bench.types import CallRow, EpisodeRow, Role, UserError, column

CALLS = 3


def add(store, *names, **changes):
    for name in names:
        calls = [call_row(episode_id=name, call=call) for call in range(CALLS)]
        store.append(episode_row(episode_id=name, **changes), calls)


def assert_holds(folder, names):
    """Each of these episodes once, with all its calls once, and nothing else."""
    assert sorted(load_results(folder).episode_id) == sorted(names)
    calls = load_calls(folder)
    assert calls.groupby("episode_id").call.apply(sorted).to_dict() == {
        name: list(range(CALLS)) for name in names
    }


def test_pandas_reads_the_folder(tmp_path):
    store = Store(tmp_path)
    store.save_config("abc", "suite: libero_spatial\n")
    add(store, "e1", "e2")
    plain = pd.read_parquet(tmp_path)
    assert sorted(plain.episode_id) == ["e1", "e2"]
    assert list(plain.columns) == list(load_results(tmp_path).columns)
    assert_holds(tmp_path, ["e1", "e2"])
    assert load_calls(tmp_path).tokens_per_layer[0].tolist() == [300, 300]
    assert store.done() == {"e1", "e2"}


def test_no_calls_and_nulls_keep_their_types(tmp_path):
    store = Store(tmp_path)
    store.append(episode_row(episode_id="bad", success=None, status="error", error="boom"), [])
    row = load_results(tmp_path).iloc[0]
    assert row.success is None
    assert row.error == "boom"
    assert load_calls(tmp_path).empty


@pytest.mark.parametrize("kind", [EpisodeRow, CallRow])
def test_every_column_says_what_it_is(kind):
    for field in schema(kind):
        assert field.metadata[b"doc"]
        if field.name.endswith("_ms"):
            assert field.metadata[b"unit"] == b"ms"


def test_units_survive_in_the_file(tmp_path):
    Store(tmp_path).append(episode_row(episode_id="e"), [])
    column = pq.read_schema(tmp_path / "episode-e.parquet").field("total_flops_mean")
    assert column.metadata[b"unit"] == b"FLOP"


def test_a_part_older_than_a_column_reads_with_null_there(tmp_path):
    add(Store(tmp_path), "e")
    path = tmp_path / "episode-e.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["self_check", "scenes"]), path)
    row = load_results(tmp_path).iloc[0]
    assert row.episode_id == "e"
    assert pd.isna(row.scenes)


@dataclass(frozen=True, kw_only=True)
class LaterRow(EpisodeRow):
    """Episodes of a version yet to come."""

    joined_later: str = column("what was not asked before", role=Role.PROVENANCE, default="usual")


def test_rows_from_before_a_column_have_its_default(tmp_path, monkeypatch):
    """In our reading; and, once a run begins, to readers that take one file's columns for all."""
    add(Store(tmp_path), "a", "c")
    old = (tmp_path / "episode-a.parquet").read_bytes()
    for module in ("parts", "read", "write"):
        monkeypatch.setattr(f"vlaprune_bench.store.{module}.EpisodeRow", LaterRow)
    store = Store(tmp_path)
    row = asdict(episode_row(episode_id="d")) | {"joined_later": "asked"}
    store.append(LaterRow(**row), [])
    expected = {"a": "usual", "c": "usual", "d": "asked"}

    def joined(rows):
        return dict(zip(rows.episode_id, rows.joined_later, strict=True))

    assert joined(load_results(tmp_path)) == expected
    assert "joined_later" not in pd.read_parquet(tmp_path)  # why parts are brought up to date
    with store.writing() as sentences:
        assert sentences == []
    assert joined(pd.read_parquet(tmp_path)) == expected
    assert (tmp_path / "episode-a.parquet").read_bytes() != old
    assert len(load_calls(tmp_path)) == 2 * CALLS


def test_parts_of_a_version_yet_to_come_stay_as_they_are(tmp_path):
    add(Store(tmp_path), "a")
    path = tmp_path / "episode-a.parquet"
    table = pq.read_table(path).drop_columns(["self_check"])
    pq.write_table(table.append_column("joined_later", [["x"]]), path)
    with Store(tmp_path).writing():
        assert "joined_later" in pq.read_schema(path).names
    assert pd.isna(load_results(tmp_path).self_check[0])


def test_calls_from_before_a_column_are_merged_and_copied(tmp_path):
    store = Store(tmp_path, merge_at=2)
    add(store, "a", "b")
    path = tmp_path / "_calls" / "calls-a.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["batch_size", "latency_denoise_ms"]), path)
    assert store.compact() == 2
    assert_holds(tmp_path, "ab")
    calls = load_calls(tmp_path)
    assert calls[calls.episode_id == "a"].batch_size.isna().all()  # nobody knows
    assert (calls.latency_denoise_ms == 0).all()
    assert (calls[calls.episode_id == "b"].batch_size == 1).all()
    copy = tmp_path / "copied" / "calls.parquet"
    assert copy_calls(tmp_path, copy) == []
    assert len(pd.read_parquet(copy)) == 2 * CALLS


@pytest.mark.parametrize("columns", [None, ["episode_id", "execute_steps"]])
def test_old_rows_of_one_action_a_call_say_that_one_was_executed(tmp_path, columns):
    store = Store(tmp_path)
    add(store, "a", policy="openvla", execute_steps=8)
    add(store, "b", policy="openvla", execute_steps=1)
    add(store, "c", policy="openvla-oft", execute_steps=8)
    table, _ = read_episodes(tmp_path, columns)
    assert table.column_names == (columns or schema(EpisodeRow).names)
    found = {row["episode_id"]: row["execute_steps"] for row in table.to_pylist()}
    assert found == {"a": 1, "b": 1, "c": 8}


# what others put there


def exported(folder, *names):
    """A file of episodes under a name of its own, with its calls."""
    store = Store(folder / "run", merge_at=len(names))
    add(store, *names)
    store.compact()
    (part,) = (folder / "run").glob("*.parquet")
    (folder / "_calls").mkdir()
    part.rename(folder / "episodes.parquet")
    (folder / "run" / "_calls" / part.name).rename(folder / "_calls" / "episodes.parquet")
    return folder / "episodes.parquet"


def test_a_file_of_episodes_and_its_folder_are_read(tmp_path):
    file = exported(tmp_path, *"abc")
    assert_holds(tmp_path, "abc")
    assert_holds(file, "abc")
    (tmp_path / "_calls" / "episodes.parquet").unlink()
    with pytest.warns(UserWarning, match=r"_calls/episodes\.parquet is missing"):
        assert load_calls(file).empty


def test_what_holds_no_episodes_is_named_and_never_touched(tmp_path):
    add(Store(tmp_path), "a")
    table = tmp_path / "summary.parquet"
    pd.DataFrame({"success": [1.0]}).to_parquet(table)
    noise = tmp_path / "noise.parquet"
    noise.write_bytes(b"noise")
    with pytest.warns(UserWarning, match=r"(summary|noise)\.parquet"):
        assert list(load_results(tmp_path).episode_id) == ["a"]
    with Store(tmp_path).writing() as sentences:
        assert sentences == []
    assert table.exists()
    assert noise.exists()


def test_an_episode_in_two_files_is_refused(tmp_path):
    file = exported(tmp_path, *"abc")
    add(Store(tmp_path), "b")
    with pytest.raises(UserError, match=r"episode-b\.parquet and episodes\.parquet both hold 1 e"):
        load_results(tmp_path)
    (tmp_path / "episode-b.parquet").unlink()
    pq.write_table(pa.concat_tables([pq.read_table(file)] * 2), file)
    with pytest.raises(UserError, match=r"episodes\.parquet holds an episode more than once"):
        load_results(file)


def test_no_run_adds_to_an_export(tmp_path):
    exported(tmp_path, *"ab")
    before = (tmp_path / "episodes.parquet").read_bytes()
    with (
        pytest.raises(UserError, match=r"it holds exported episodes \(episodes\.parquet\)"),
        Store(tmp_path).writing(),
    ):
        pass
    assert (tmp_path / "episodes.parquet").read_bytes() == before
    assert_holds(tmp_path, "ab")


def test_an_output_that_cannot_be_written_is_named(tmp_path):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(UserError, match=r"--output is .*file/runs; it must be a folder"):
        Store(file / "runs")


def test_an_empty_folder_is_named(tmp_path):
    with pytest.raises(UserError, match="holds no results"):
        load_results(tmp_path)


def test_a_failed_episode_is_replaced_by_its_retry(tmp_path):
    store = Store(tmp_path, merge_at=2)
    add(store, "a", "b", "c")
    add(store, "bad", status="error", success=None)
    assert store.compact() == 3
    assert (tmp_path / "episode-bad.parquet").exists()  # not merged: it may be tried again
    add(store, "bad", warnings=["attempt 2"])
    assert_holds(tmp_path, ["a", "b", "c", "bad"])
    assert set(load_results(tmp_path).status) == {"ok"}


# merging


def test_merging_leaves_one_part_that_pandas_reads_too(tmp_path):
    store = Store(tmp_path, merge_at=3)
    add(store, "a", "b")
    assert store.compact() == 0
    add(store, "c")
    assert store.compact() == 3
    add(store, "d")
    for folder in (tmp_path, tmp_path / "_calls"):
        assert len(list(folder.glob("[!.]*.parquet"))) == 2
    assert_holds(tmp_path, "abcd")
    assert sorted(pd.read_parquet(tmp_path).episode_id) == list("abcd")
    assert store.done() == set("abcd")


class KilledError(BaseException):
    """Stands for a kill: nothing may catch it."""


@pytest.mark.parametrize("moment", range(12))
def test_a_kill_within_a_merge_loses_nothing_and_doubles_nothing(tmp_path, monkeypatch, moment):
    """Killed before its n-th rename or removal."""
    add(Store(tmp_path), *"abcd")
    store, left = Store(tmp_path, merge_at=2), [moment]

    def breaking(original):
        def wrapped(*args, **kwargs):
            if left[0] == 0:
                raise KilledError
            left[0] -= 1
            return original(*args, **kwargs)

        return wrapped

    with monkeypatch.context() as patch, store.writing():
        patch.setattr(Path, "replace", breaking(Path.replace))
        patch.setattr(Path, "unlink", breaking(Path.unlink))
        try:
            store.compact()
            assert moment > 9  # all done: there are no more moments
        except KilledError:
            pass
    assert_holds(tmp_path, "abcd")
    with Store(tmp_path, merge_at=2).writing() as sentences:
        assert sentences == []
    assert_holds(tmp_path, "abcd")
    assert sorted(pd.read_parquet(tmp_path).episode_id) == list("abcd")
    assert len(pd.read_parquet(tmp_path / "_calls")) == 4 * CALLS


def test_a_reader_sees_every_row_while_parts_are_merged_under_its_hands(tmp_path, monkeypatch):
    import vlaprune_bench.store.read as read

    store = Store(tmp_path, merge_at=2)
    add(store, *"abc")
    original, merged = read.read_part, []

    def read_part(*args, **kwargs):
        if not merged:
            merged.append(True)
            store.compact()  # after the reader has listed the folder
        return original(*args, **kwargs)

    monkeypatch.setattr(read, "read_part", read_part)
    assert sorted(load_results(tmp_path).episode_id) == list("abc")


# damage


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_bytes(b"")


def noise(path):
    path.write_bytes(random.Random(0).randbytes(path.stat().st_size))


def noise_in_the_data(path):
    """The last bytes of the first column: footer and structure stay whole."""
    content = bytearray(path.read_bytes())
    column = pq.read_metadata(path).row_group(0).column(0)
    start = column.dictionary_page_offset or column.data_page_offset
    end = start + column.total_compressed_size
    content[end - 1] ^= 0xFF
    path.write_bytes(bytes(content))


def dangling(path):
    path.unlink()
    path.symlink_to("nowhere")


def folder_instead(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("part", ["episode-b.parquet", "_calls/calls-b.parquet"])
@pytest.mark.parametrize(
    "harm", [cut, empty, noise, noise_in_the_data, dangling, folder_instead, Path.unlink]
)
def test_a_damaged_part_is_named_and_set_aside_and_the_rest_is_read(tmp_path, part, harm):
    if (part, harm) == ("episode-b.parquet", Path.unlink):
        pytest.skip("an episode that is not there is not run yet")
    store = Store(tmp_path)
    add(store, *"abc")
    harm(tmp_path / part)
    with pytest.warns(UserWarning, match=Path(part).name):
        rows = (load_calls if "calls" in part else load_results)(tmp_path)
    assert set(rows.episode_id) == {"a", "c"}
    with Store(tmp_path).writing() as sentences:
        assert len(sentences) == 1
        assert part in sentences[0]
        assert "its episode runs again" in sentences[0]
    assert_holds(tmp_path, "ac")
    assert store.done() == {"a", "c"}
    assert list((tmp_path / "_damaged").rglob("*-b.*"))


@pytest.mark.parametrize("where", ["", "_calls"])
def test_a_damaged_merged_part_is_set_aside_with_its_twin(tmp_path, where):
    store = Store(tmp_path, merge_at=2)
    add(store, *"ab")
    store.compact()
    add(store, "c")
    cut(next((tmp_path / where).glob("merged-*")))
    with Store(tmp_path).writing() as sentences:
        assert len(sentences) == 1
        assert "its episodes run again" in sentences[0]
    assert_holds(tmp_path, "c")
    assert len(list((tmp_path / "_damaged").rglob("merged-*"))) == 2


def test_a_disk_that_fails_damages_no_part(tmp_path, monkeypatch):
    add(Store(tmp_path), "a")

    def failing(path):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", failing)
        with pytest.raises(UserError, match=r"episode-a\.parquet cannot be read \(Input/output"):
            load_results(tmp_path)
        with (
            pytest.raises(UserError, match=r"episode-a\.parquet cannot be read"),
            Store(tmp_path).writing(),
        ):
            pass
    assert_holds(tmp_path, "a")


# two writers


def test_a_second_writer_is_refused_and_told_who_the_first_is(tmp_path):
    assert holder(tmp_path) is None
    with Store(tmp_path).writing():
        assert f"process {os.getpid()} on " in holder(tmp_path)
        with (
            pytest.raises(UserError, match=rf"process {os.getpid()} on .* is writing there"),
            Store(tmp_path).writing(),
        ):
            pass
    assert holder(tmp_path) is None
    with Store(tmp_path).writing():
        pass


HOLDER = """
import sys
from pathlib import Path
from vlaprune_bench.store import Store
with Store(Path(sys.argv[1])).writing():
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_lock_goes_with_the_process_that_held_it(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout.readline() == "held\n"
    with pytest.raises(UserError, match=f"process {process.pid} on"), Store(tmp_path).writing():
        pass
    process.kill()
    process.communicate()
    with Store(tmp_path).writing() as sentences:
        assert sentences == []


# disks


@pytest.mark.parametrize("write", [1, 2])
def test_a_full_disk_is_one_sentence_and_leaves_nothing_torn(tmp_path, monkeypatch, write):
    """The n-th file of an episode meets the full disk."""
    store, left = Store(tmp_path), [write]
    add(store, "a")
    fsync = os.fsync

    def full(handle):
        left[0] -= 1
        if left[0] == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match=r"No space left on device.*what was finished is kept"):
            add(store, "b")
    assert_holds(tmp_path, "a")
    assert not list(tmp_path.glob(".episode*")) + list(tmp_path.glob("_calls/*b*"))
    add(store, "b")
    assert_holds(tmp_path, "ab")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system (root)")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_really_full_disk(small_disk):
    (small_disk / "ballast").write_bytes(bytes(600_000))
    store, names = Store(small_disk / "runs"), [f"e{i}" for i in range(100)]
    with store.writing(), pytest.raises(UserError, match="No space left on device"):
        add(store, *names)
    reported = sorted(store.done(), key=names.index)
    assert reported == names[: len(reported)]
    assert 0 < len(reported) < 100
    assert_holds(store.folder, reported)
    (small_disk / "ballast").unlink()
    with store.writing() as sentences:
        assert sentences == []
        add(store, "after")
    assert_holds(store.folder, [*reported, "after"])


def test_a_read_only_disk_is_read_and_refused_for_writing(small_disk):
    add(Store(small_disk / "runs"), "a")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert_holds(small_disk / "runs", "a")
    assert holder(small_disk / "runs") is None
    with pytest.raises(UserError, match=r"Read-only file system"):
        Store(small_disk / "runs")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write to a read-only folder")
def test_a_read_only_folder_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="Permission denied"):
        Store(tmp_path)


# kills


WRITER = """
import sys
from pathlib import Path
from tests.rows import call_row, episode_row
from vlaprune_bench.store import Store
store = Store(Path(sys.argv[1]))
for i in range(10_000):
    name = f"{sys.argv[2]}-{i}"
    store.append(episode_row(episode_id=name), [call_row(episode_id=name, call=0)] * 30)
    print(name, flush=True)
"""


def test_kills_never_tear_a_file(tmp_path):
    random.seed(0)
    reported = []
    for attempt in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), str(attempt)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        reported.append(process.stdout.readline().strip())
        time.sleep(random.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        reported += process.communicate()[0].split()
    episodes, calls = pd.read_parquet(tmp_path), load_calls(tmp_path)
    assert set(reported) <= set(episodes.episode_id)
    assert episodes.episode_id.is_unique
    counts = calls.groupby("episode_id").size()
    assert all(counts[name] == 30 for name in episodes.episode_id)
