"""The task list and init states equal LIBERO's own; a hostile init state file runs nothing."""

from __future__ import annotations

import io
import os
import pickle
import zipfile

import numpy as np
import pytest

from vlaprune_bench.sim import package, suites, tasks
from vlaprune_bench.types import SUITES, UserError


@pytest.mark.parametrize("suite", SUITES)
def test_tasks_are_those_of_libero_in_its_order(suite):
    package.prepare_config()
    with package.quiet():
        from libero.libero.benchmark import get_benchmark

        benchmark = get_benchmark(suite)()
    ours = tasks.list_tasks(suite)
    assert [t.name for t in ours] == benchmark.get_task_names()
    assert [t.instruction for t in ours] == [t.language for t in benchmark.tasks]
    assert [t.index for t in ours] == list(range(benchmark.n_tasks))
    for index, task in enumerate(ours):
        assert task.bddl_file.is_file()
        assert os.path.samefile(task.bddl_file, benchmark.get_task_bddl_file_path(index))


@pytest.mark.parametrize("suite", SUITES)
def test_init_states_equal_what_torch_loads(suite):
    import torch

    for task in tasks.list_tasks(suite):
        ours = suites.load_init_states(task.init_states_file)
        theirs = torch.load(task.init_states_file, weights_only=False)
        assert ours.dtype == np.float64
        assert ours.shape[0] == 50
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(("suite", "task"), [("libero_spatial", 10), ("libero_10", -1)])
def test_unknown_task(suite, task):
    with pytest.raises(UserError, match=rf"task={task} .*{suite}.*0 to 9"):
        tasks.get_task(suite, task)


def test_unknown_suite():
    with pytest.raises(UserError, match=r"suite='libero_11'.*libero_spatial"):
        tasks.list_tasks("libero_11")


def archive(path, content: bytes):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", content)
    return path


class Hostile:
    """Unpickling this makes a folder."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_hostile_file_runs_nothing(tmp_path, protocol):
    trap = tmp_path / "trap"
    content = pickle.dumps(Hostile(trap), protocol=protocol)
    with pytest.raises(UserError, match=r"mkdir, which is refused"):
        suites.load_init_states(archive(tmp_path / "x.pruned_init", content))
    assert not trap.exists()
    pickle.loads(content)
    assert trap.exists()  # the file was hostile indeed


def test_an_array_of_hostile_objects_runs_nothing(tmp_path):
    trap = tmp_path / "trap"
    content = pickle.dumps(np.array([Hostile(trap)], dtype=object), protocol=2)
    with pytest.raises(UserError, match="refused"):
        suites.load_init_states(archive(tmp_path / "x.pruned_init", content))
    assert not trap.exists()


@pytest.mark.parametrize(
    "value",
    [
        {"a": 1},
        np.zeros((2, 3), np.float32),
        np.zeros((5, 2, 2)),
        np.zeros((0, 3)),
        np.array([[0.0, np.nan]]),
    ],
    ids=["dict", "float32", "3d", "empty", "NaN"],
)
def test_anything_but_a_table_of_doubles_is_refused(tmp_path, value):
    path = archive(tmp_path / "x.pruned_init", pickle.dumps(value, protocol=4))
    with pytest.raises(UserError, match=r"x\.pruned_init.*float64"):
        suites.load_init_states(path)


def test_files_that_are_no_archives(tmp_path):
    plain = tmp_path / "plain"
    plain.write_bytes(pickle.dumps(np.zeros((2, 3))))
    empty = tmp_path / "empty"
    with zipfile.ZipFile(empty, "w") as file:
        file.writestr("other", b"")
    cut = archive(tmp_path / "cut", pickle.dumps(np.zeros((2, 3)), protocol=2)[:-9])
    for path in (plain, empty, cut, tmp_path / "absent"):
        with pytest.raises(UserError, match=path.name):
            suites.load_init_states(path)


def test_the_table_survives_the_round_trip(tmp_path):
    table = np.random.default_rng(0).normal(size=(3, 7))
    buffer = io.BytesIO()
    pickle.dump(table, buffer, protocol=2)
    np.testing.assert_array_equal(
        suites.load_init_states(archive(tmp_path / "x", buffer.getvalue())), table
    )


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_damage_anywhere_is_a_refusal_or_leaves_a_table(tmp_path, protocol):
    """Whatever bytes are wrong, what comes is a table of doubles or one sentence; nothing hangs."""
    whole = pickle.dumps(np.random.default_rng(0).normal(size=(3, 7)), protocol=protocol)
    rng = np.random.default_rng(protocol)
    refused = 0
    for _ in range(400):
        damaged = bytearray(whole)
        places = rng.integers(0, len(whole), rng.integers(1, 4))
        for place in places:
            damaged[place] = rng.integers(256)
        try:
            states = suites.load_init_states(archive(tmp_path / "x", bytes(damaged)))
        except UserError:
            refused += 1
        else:
            assert states.dtype == np.float64
            assert states.ndim == 2
    assert refused > 50


def test_a_real_file_cut_or_changed_anywhere_is_refused(tmp_path):
    """The archive's checksums see it."""
    whole = tasks.get_task("libero_goal", 2).init_states_file.read_bytes()
    path = tmp_path / "x.pruned_init"
    for length in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(
            UserError,
            match=r"x\.pruned_init' cannot be read .*install the package they come from again",
        ):
            suites.load_init_states(path)
    changed = bytearray(whole)
    changed[len(whole) // 2] ^= 1
    path.write_bytes(bytes(changed))
    with pytest.raises(UserError, match="cannot be read"):
        suites.load_init_states(path)


def test_an_archive_that_unpacks_to_far_too_much_is_refused(tmp_path):
    path = tmp_path / "x"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", bytes(suites.MAX_INIT_STATES_BYTES + 1))
    with pytest.raises(UserError, match="too large to hold init states"):
        suites.load_init_states(path)
