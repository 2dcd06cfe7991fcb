"""vlaprune-eval's command line: what it accepts, what it refuses and how."""

import subprocess
import sys
from dataclasses import dataclass

import pytest

from vlaprune_bench.cli.eval import parse
from vlaprune_bench.config import EvalConfig, load
from vlaprune_bench.pruning import Pruner, methods
from vlaprune_bench.pruning.adp import Adp
from vlaprune_bench.pruning.fastv import FastV
from vlaprune_bench.pruning.gate import MotionGate
from vlaprune_bench.pruning.gated import Gated
from vlaprune_bench.pruning.schedule import Schedule
from vlaprune_bench.pruning.sparsevlm import SparseVlm
from vlaprune_bench.pruning.static import Static
from vlaprune_bench.pruning.uniform import Uniform
from vlaprune_bench.types import UserError


def command(*args: str, **kwargs) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "vlaprune_bench.cli.eval", *args],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **kwargs,
    )


def test_the_headline_command():
    config = parse("--suite libero_spatial --method adp --keep 0.5".split())
    assert config == EvalConfig.of(suite="libero_spatial", pruner=Adp(keep=0.5))


def test_options_of_the_method_stand_beside_the_others():
    config = parse("--method adp --keep=0.25 --rule avg --task-ids 1 2 --qk-layer 2".split())
    assert config.what.pruner == Adp(keep=0.25, qk_layer=2, gate=MotionGate(rule="avg"))
    assert config.what.task_ids == (1, 2)


def test_a_method_inside_a_method_is_chosen_by_a_flag():
    config = parse("--method gated --inner fastv --keep 0.25 --rule avg".split())
    assert config.what.pruner == Gated(FastV(keep=0.25), MotionGate(rule="avg"))
    nested = parse("--method gated --inner schedule --scorer=sparsevlm --layer 2".split())
    assert nested.what.pruner == Gated(Schedule(SparseVlm(layer=2)))


@pytest.mark.parametrize("name", [n for n in methods() if n not in ("none", "adp", "gated", "ttf")])
def test_every_method_goes_behind_the_gate_without_a_clash_of_options(name):
    config = parse(["--method", "gated", "--inner", name, "--rule", "avg"])
    assert config.what.pruner == Gated(methods()[name](), MotionGate(rule="avg"))


def test_methods_that_share_an_option_can_only_be_joined_in_a_file(tmp_path, monkeypatch):
    @dataclass(frozen=True)
    class Lookalike(Pruner):
        rule: str = "mine"

    monkeypatch.setitem(Pruner.get_known_choices(), "lookalike", Lookalike)
    with pytest.raises(UserError, match="both have --rule, which only a file"):
        parse("--method gated --inner lookalike".split())
    file = tmp_path / "run.yaml"
    file.write_text("pruner: {type: gated, inner: {type: lookalike, rule: x}, gate: {rule: avg}}\n")
    assert load(file).what.pruner == Gated(Lookalike(rule="x"), MotionGate(rule="avg"))


def test_the_command_line_wins_over_the_file(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("pruner: {type: adp, keep: 0.3, gate: {rule: avg}}\ntrials: 4\n")
    config = parse(["--config", str(file), "--keep", "0.4"])
    assert config.what.pruner == Adp(keep=0.4, gate=MotionGate(rule="avg"))
    assert config.what.trials == 4
    file.write_text("pruner: {type: gated, inner: {type: uniform, keep: 0.3}}\n")
    assert parse(["--config", str(file), "--keep", "0.4"]).what.pruner == Gated(Uniform(keep=0.4))
    # another method starts from its own defaults
    assert parse(["--config", str(file), "--method", "static"]).what.pruner == Static()


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ("--suite libero_spatia", "--suite is libero_spatia; did you mean libero_spatial?"),
        ("--method fastw", "--method is fastw"),
        ("--method static --keep 0", "--keep is 0; it must be above 0 and at most 1."),
        ("--method static --keep 1.2", "--keep is 1.2; it must be above 0 and at most 1."),
        (
            "--method none --qk-layer 2",
            "--qk-layer is an option of adp, static; the method is none",
        ),
        ("--method static --rule avg", "--rule is an option of adp, gated; the method is static"),
        ("--method gated --inner fastw", "--inner is fastw; did you mean fastv?"),
        ("--method gated --inner fastv --qk-layer 2", "--qk-layer is an option of adp, static"),
        ("--method gated --inner none", "--inner is none; a gate needs a method that prunes."),
        ("--method gated --inner adp", "--inner is adp; it has a gate of its own."),
        ("--method static --inner fastv", "--inner is an option of gated; the method is static"),
        ("--method schedule --scorer divprune", "--scorer is divprune; it has no score."),
        ("--method adp --lookbak 3", "unknown option --lookbak; did you mean --lookback?"),
        ("--config absent.yaml", "--config is absent.yaml; it cannot be read"),
        ("--plugin absent.py --method none", "--plugin is absent.py"),
    ],
)
def test_bad_input_is_one_clear_sentence(args, sentence):
    with pytest.raises(UserError) as caught:
        parse(args.split())
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bad_input_exits_with_2_and_loses_nothing(tmp_path):
    kept = tmp_path / "runs" / "episode-x.parquet"
    kept.parent.mkdir()
    kept.write_text("kept")
    done = command("--suite", "nowhere", "--output", str(kept.parent))
    assert done.returncode == 2
    assert done.stderr.startswith("error: --suite is nowhere; ")
    assert done.stderr.count("\n") == 1
    assert kept.read_text() == "kept"


def test_an_unwritable_output_exits_with_2(tmp_path):
    (tmp_path / "file").touch()
    done = command("--output", str(tmp_path / "file" / "runs"))
    assert done.returncode == 2
    assert "--output is" in done.stderr


def test_a_value_of_the_wrong_kind_exits_with_2():
    done = command("--trials", "many")
    assert done.returncode == 2
    assert "--trials" in done.stderr + done.stdout


def test_help_names_the_methods_options_and_imports_nothing_heavy():
    script = (
        "import sys\n"
        "from vlaprune_bench.cli.eval import parse\n"
        "try:\n    parse(['--method', 'adp', '--help'])\n"
        "finally:\n    heavy = {'torch', 'transformers', 'mujoco', 'pandas', 'wandb', 'libero'}\n"
        "    print('HEAVY', sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert "--keep" in done.stdout
    assert "--max-consecutive-pruned" in done.stdout
    assert "HEAVY []" in done.stdout
