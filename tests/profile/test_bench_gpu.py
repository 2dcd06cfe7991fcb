"""`make bench-gpu`: its smoke form is the same code on a CPU; without a GPU it says so."""

import sys

import pytest
import torch

from benchmarks import bench_gpu
from vlaprune_bench.measure.roofline import CARDS, bound_ms, card_of


@pytest.mark.slow
def test_the_smoke_form_writes_a_page(tmp_path, monkeypatch):
    argv = f"bench_gpu --smoke --shapes tiny-untrained --keeps 0.5 --rounds 2 --out {tmp_path}"
    monkeypatch.setattr(sys, "argv", argv.split())
    assert bench_gpu.main() == 0
    page = (tmp_path / "gpu.md").read_text()
    assert page.startswith("# CPU (smoke)")
    for method in bench_gpu.METHODS:
        assert f"| {method} |" in page
    assert "max-min" in page
    assert "failed" not in page
    assert len(list(tmp_path.glob("profile-*.parquet"))) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_without_a_gpu_it_says_so(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["bench_gpu"])
    assert bench_gpu.main() == 2
    assert "there is no CUDA device here; --smoke" in capsys.readouterr().err


def test_the_roofline_is_the_larger_of_arithmetic_and_memory():
    """OpenVLA-OFT's call, 8.84 TFLOP, on an A100; a decode token reads 13.5 GB on a 4090."""
    card = card_of("cuda (NVIDIA A100-SXM4-80GB)")
    assert bound_ms(card, 8.84e12) == pytest.approx(28.3, abs=0.1)
    assert bound_ms(CARDS["rtx4090"], 13.5e9, 13.5e9) == pytest.approx(13.4, abs=0.1)
    assert card_of("cpu (AMD EPYC)") is None
