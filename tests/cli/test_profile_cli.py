"""vlaprune-profile's command line."""

import subprocess
import sys

import pandas as pd
import pytest

from vlaprune_bench.cli.profile import parse
from vlaprune_bench.profile.config import ProfileConfig

SIMULATOR = {"mujoco", "robosuite", "libero"}
HEAVY = {"torch", "transformers", "pandas", "pyarrow", *SIMULATOR}


def python(script: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=300
    )


def test_the_headline_command():
    line = "--shape openvla-7b --methods none static --keeps 0.7 0.5 --dtype bfloat16 --rounds 30"
    assert parse(line.split()) == ProfileConfig(
        shape="openvla-7b",
        methods=("none", "static"),
        keeps=(0.7, 0.5),
        dtype="bfloat16",
        rounds=30,
    )
    assert parse([]) == ProfileConfig()


def test_help_imports_nothing_heavy():
    done = python(
        "import sys\n"
        "from vlaprune_bench.cli.profile import parse\n"
        "try:\n    parse(['--help'])\n"
        f"finally:\n    print('HEAVY', sorted({HEAVY} & set(sys.modules)))\n"
    )
    assert done.returncode == 0, done.stderr
    assert "--keeps" in done.stdout
    assert "HEAVY []" in done.stdout


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ("--methods fastw", "--methods is fastw; did you mean fastv?"),
        ("--cuda-graphs --device cpu", "--cuda-graphs is given; it needs a CUDA device"),
        ("--methods schedule", "--later-layers is 9 15; this model has decoder layers 0 to 3"),
        ("--device cuda:77", "--device is cuda:77"),
        ("--output /dev/null/here", "--output is /dev/null/here"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(args, sentence, tmp_path, monkeypatch, capsys):
    from vlaprune_bench.cli.profile import main

    given = args if "--output" in args else f"{args} --output {tmp_path}"
    monkeypatch.setattr(sys, "argv", ["vlaprune-profile", *given.split()])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert sentence in err
    assert err.count("\n") == 1


def test_it_runs_without_a_simulator(tmp_path):
    line = f"--methods static adp --keeps 0.5 --rounds 1 --output {tmp_path}"
    done = python(
        "import sys\n"
        "from vlaprune_bench.cli.profile import main\n"
        f"sys.argv = ['vlaprune-profile', *{line.split()!r}]\n"
        f"main()\nprint('SIMULATOR', sorted({SIMULATOR} & set(sys.modules)))\n"
    )
    assert done.returncode == 0, done.stderr
    assert "SIMULATOR []" in done.stdout
    assert "…" not in done.stdout  # nothing is cut at 80 columns
    assert pd.read_parquet(tmp_path).method.tolist() == ["none", "static", "adp"]
