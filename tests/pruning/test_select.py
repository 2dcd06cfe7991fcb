"""Camera quotas and top-k."""

import pytest
import torch

from vlaprune_bench.pruning.select import best_of_each, ranked, split_quotas, top_k_per_camera
from vlaprune_bench.types import TokenLayout


@pytest.mark.parametrize(
    ("k", "weights", "expected"),
    [
        (256, (), [128, 128]),
        (179, (), [89, 90]),
        (256, (0.4, 0.6), [102, 154]),
        (512, (0.4, 0.6), [256, 256]),
        (400, (1.0, 9.0), [144, 256]),
        (1, (), [1, 0]),
        (256, (1, 0), [256, 0]),
        (256, (0, 1), [0, 256]),
        (300, (1, 0), [256, 44]),
    ],
)
def test_quotas(k, weights, expected):
    # 179: both round(89.5) to 90, one too many is taken from camera 0; 1: both round to 0
    assert split_quotas(k, (256, 256), weights) == expected


def test_top_k_stays_within_each_camera():
    scores = torch.tensor([1.0, 9.0, 2.0, 3.0, 0.1, 0.3, 0.2, 0.0])
    kept = top_k_per_camera(scores, TokenLayout(((2, 2), (2, 2)), n_prompt=1), (2, 1))
    assert kept.tolist() == [1, 3, 5]
    assert kept.dtype == torch.int64


def test_best_of_each_camera_the_first_among_equals():
    scores = torch.tensor([1.0, 1.0, 1.0, 0.0, 5.0, 7.0, 5.0, 6.0])
    layout = TokenLayout(((2, 2), (2, 2)), n_prompt=1)
    assert best_of_each(scores, layout, 2).nonzero()[:, 0].tolist() == [0, 1, 5, 7]
    assert best_of_each(scores, layout, 9).all()
    assert not best_of_each(scores, layout, 0).any()
    there = torch.tensor([False, True, True, True, True, False, True, True])
    assert ranked(scores, slice(0, 8), there).tolist() == [7, 4, 6, 1, 2, 3]
