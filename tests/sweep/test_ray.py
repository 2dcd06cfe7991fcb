"""Sweeps on a Ray cluster of several nodes, all on this machine: what is lost is run again."""

import os
import signal
import sys
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from tests.fakes import ASSETS, INFO, LOADED
from vlaprune_bench.cli import sweep as cli
from vlaprune_bench.config import EvalConfig
from vlaprune_bench.pruning import Pruner, methods
from vlaprune_bench.rollout.display import Display
from vlaprune_bench.rollout.identity import specs
from vlaprune_bench.rollout.interrupt import INTERRUPTED
from vlaprune_bench.rollout.jobs import Job, Schedule
from vlaprune_bench.rollout.messages import Refused
from vlaprune_bench.rollout.runner import run_cells
from vlaprune_bench.rollout.setup import Setup
from vlaprune_bench.sim.assets import ENVIRONMENT_VARIABLE
from vlaprune_bench.store import load_results
from vlaprune_bench.sweep.file import load_sweep
from vlaprune_bench.types import UserError


@contextmanager
def nodes_of_a_cluster(cpus):
    """A cluster with a node for each number of CPUs, beside its head, which has none."""
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    small = {"object_store_memory": 100 * 2**20}
    with pytest.MonkeyPatch.context() as patch:
        # sums are rounded by the number of threads, which Ray chooses unless it is told
        patch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))
        patch.setenv("RAY_AUTH_MODE", "disabled")  # else it leaves a token in the home folder
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        cluster = cluster_utils.Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 0, "include_dashboard": False, **small},
        )
        try:
            yield cluster, [cluster.add_node(num_cpus=n, **small) for n in cpus]
        finally:
            cluster.shutdown()


def run_while_nodes_die(path):
    """Run a sweep on two nodes. After its first row one of them that has episodes is killed, after
    the third the other: the rest is run by a node that has joined in between.

    Returns:
        What the launcher said.
    """
    with nodes_of_a_cluster([1, 1]) as (cluster, nodes):
        from vlaprune_bench.sweep import ray

        said, hosts, rows = [], set(), []

        class Watched(ray.RayLauncher):
            def run(self, jobs, guard, stopping, say):
                for done in super().run(jobs, guard, stopping, said.append):
                    rows.append(done[1])
                    hosts.update(host.slot.node for host in self._hosts)
                    if len(rows) == 1:
                        self.kill(next(host for host in self._hosts if host.given))
                    if len(rows) == 3:
                        cluster.add_node(num_cpus=1)
                        self.kill(next(host for host in self._hosts if host.slot.node in alive))
                    yield done

            def kill(self, host):
                cluster.remove_node(alive.pop(host.slot.node), allow_graceful=False)

        alive = {node.node_id: node for node in nodes}
        sweep = load_sweep(path, overrides={"output": str(path.parent / "out")})
        with Watched(cluster.address) as launcher:
            assert run_cells(sweep.cells, [], launcher=launcher).code == 0
        assert not alive
        assert len(hosts) == 3
    return said


PLUGIN = """
from dataclasses import dataclass
from vlaprune_bench.pruning import Pruner, ScoredPruner

@Pruner.register_subclass("loud")
@dataclass(frozen=True)
class Loud(ScoredPruner):
    def score(self, context, memory):
        return context.patches.float().norm(dim=-1)
"""
FILE = """
base: {checkpoint: tiny, assets: lite, task_ids: [0], trials: 3, max_steps: 16, workers: 2}
cells: [{pruner: loud}]
"""


@pytest.mark.xdist_group("ray")
@pytest.mark.heavy
@pytest.mark.sim
def test_ctrl_c_a_method_of_ones_own_and_a_node_without_assets(tmp_path, monkeypatch, capsys):
    """From the command line, two simulators beside the policy; the method is known here alone."""
    for name, text in (("loud.py", PLUGIN), ("study.yaml", FILE)):
        (tmp_path / name).write_text(text)
    show, pressed = Display.show, []

    def press_once(self, cell, row):
        show(self, cell, row)
        if not pressed:
            pressed.append(os.kill(os.getpid(), signal.SIGINT))

    monkeypatch.setattr(Display, "show", press_once)
    with nodes_of_a_cluster([2]) as (cluster, _):
        command = ["run", str(tmp_path / "study.yaml"), "--plugin", str(tmp_path / "loud.py")]
        command += ["--output", str(tmp_path / "out"), "--launcher", "ray"]
        command += ["--address", cluster.address]
        codes, known = [], methods()
        for _ in range(3):
            monkeypatch.setattr(Pruner, "_choice_registry", dict(known))  # a process of its own
            with pytest.raises(SystemExit) as end:
                cli.run(command)
            codes.append(end.value.code)
        # a node that lacks something is told by name, before anything runs
        cluster.add_node(num_cpus=1, env_vars={ENVIRONMENT_VARIABLE: "/nowhere"})
        monkeypatch.setattr(Pruner, "_choice_registry", dict(known))
        with pytest.raises(UserError, match=r"^node .*: VLAPRUNE_ASSETS='/nowhere' is no folder"):
            cli.run([*command, "--trials", "4", "--assets", "auto"])
    assert codes == [INTERRUPTED, 0, 0]
    rows = load_results(tmp_path / "out")
    assert Counter(rows.method) == {"none": 3, "loud": 3}
    assert set(rows.status) == {"ok"}
    assert set(rows.workers) == {2}
    told = capsys.readouterr().out
    assert "on Ray: 2 simulators, policies: 1, nodes: 1" in told
    assert "6 of 6 episodes are in" in told


@pytest.fixture
def launcher():
    """A launcher without a cluster, of an evaluation that a host has loaded."""
    pytest.importorskip("ray")
    from vlaprune_bench.sweep import ray

    made = object.__new__(ray.RayLauncher)
    made._cells = [EvalConfig()]
    made._checkpoint = SimpleNamespace(hash=INFO.checkpoint_hash)
    made._assets = ASSETS
    made._first = None
    return made


@pytest.fixture
def host():
    pytest.importorskip("ray")
    from vlaprune_bench.sweep.ray import HostHandle
    from vlaprune_bench.sweep.ray_nodes import NodeSlot

    return HostHandle(NodeSlot("id", "node two (id)", 0, 2.0), 2, None, None)


def loaded(assets="a55e7", **info):
    return replace(LOADED, info=replace(INFO, **info), assets=replace(ASSETS, hash=assets))


def test_a_node_must_have_the_files_of_the_driver(launcher, host):
    launcher._accept(host, loaded())
    assert host.loaded
    for there, sentence in (
        (
            loaded(checkpoint_hash="0ther"),
            "its files of checkpoint tiny have hash 0ther, here it is",
        ),
        (loaded(assets="0ther"), "its lite assets have hash 0ther, here it is a55e7"),
        (loaded(dtype="bfloat16"), "its policy runs in bfloat16 on .* give --dtype"),
        (Refused("--checkpoint is x; no such folder."), "--checkpoint is x; no such folder"),
    ):
        with pytest.raises(UserError, match=rf"^node two \(id\): {sentence}"):
            launcher._accept(host, there)


def test_an_episode_whose_nodes_are_lost_again_and_again_is_an_error_row(launcher, host):
    pytest.importorskip("libero")
    setup = Setup(EvalConfig.of(max_steps=16), LOADED)
    attempts, schedule = Counter(), Schedule([])
    host.given["e"] = Job(setup, specs(setup.config)[0])
    for attempt in (1, 2):
        assert list(launcher._lost(host, attempts, schedule)) == []
        host.given["e"] = schedule.take(None, [])
        assert f"(attempt {attempt})" in host.given["e"].note
    ((_, row, calls),) = launcher._lost(host, attempts, schedule)
    assert not schedule
    assert (row.status, row.success, calls) == ("error", None, [])
    assert row.error == "its node was lost 3 times, the last one was node two (id)"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--launcher", "ray"], "--address is auto; no Ray cluster answers there"),
        (["--address", "auto"], "--address is auto; it is read with --launcher ray alone"),
    ],
)
def test_what_is_wrong_with_the_address(options, sentence, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")

    def nobody(**_):
        raise ConnectionError("Could not find any running Ray instance.")

    # what Ray does where no cluster runs; one of another test, or of the user, would answer
    monkeypatch.setattr(ray, "init", nobody)
    (tmp_path / "study.yaml").write_text("base: {trials: 1}")
    with pytest.raises(UserError, match=sentence):
        cli.run(["run", str(tmp_path / "study.yaml"), *options])


def test_without_ray_one_sentence_names_the_extra(tmp_path, monkeypatch, capsys):
    (tmp_path / "study.yaml").write_text("base: {trials: 1}")
    for name in ("vlaprune_bench.sweep.ray", "vlaprune_bench.rollout.ray_actors"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr(
        sys, "argv", ["vlaprune-sweep", "run", str(tmp_path / "study.yaml"), "--launcher", "ray"]
    )
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    told = capsys.readouterr().err
    assert "pip install 'vlaprune-bench[ray]'" in told
    assert told.count("\n") == 1
