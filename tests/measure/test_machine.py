"""Cores and memory: a container's limits count."""

from vlaprune_bench.measure import machine


def test_auto_sees_a_containers_limits(monkeypatch):
    group = {
        "cpu.max": "150000 50000\n",
        "memory.max": f"{3 * 2**30}\n",
        "memory.current": f"{2 * 2**30}\n",
        "memory.stat": f"anon 5\ninactive_file {2**29}\n",
    }
    monkeypatch.setattr(machine, "_control_group", lambda name: group[name])
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))
    assert machine.usable_cores() == 3
    assert machine.available_mib() == 1536
    group["cpu.max"], group["memory.max"] = "max 100000", "max"
    assert machine.usable_cores() == 64
    assert machine.available_mib() > 0


@pytest.mark.slow
@pytest.mark.sim
def test_two_workers_on_the_real_simulator_and_one_loses_its_gl_context(tmp_path, monkeypatch):
    evaluate = pytest.importorskip("vlaprune_bench.rollout.engine").evaluate
    config = EvalConfig(
        task_ids=(0, 1), trials=2, max_steps=16, assets="lite", output=tmp_path / "runs", workers=2
    )
    monkeypatch.setattr(pool, "MODULE", "tests.rollout.frail_sim")
    assert evaluate(config, []) == 1
    rows = results(tmp_path / "runs")
    assert rows.status.tolist() == ["ok", "ok", "error", "ok"]
    lost = rows.iloc[2]
    assert lost.error.startswith("RuntimeError: no frame: the GL context was freed")
    assert (lost.calls, lost.steps, lost.success) == (2, 15, None)
    assert lost.actions_hash is not None
    assert rows[rows.status == "ok"].self_check.eq("passed").all()
    assert rows.scene_hash.nunique() == 4
