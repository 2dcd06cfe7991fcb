"""Camera quotas and top-k."""

import pytest
import torch

from vlaprune_bench.pruning.select import split_quotas, top_k_per_camera
from vlaprune_bench.types import UserError


@pytest.mark.parametrize(
    ("k", "weights", "expected"),
    [
        (256, (), [128, 128]),
        (179, (), [89, 90]),
        (256, (0.4, 0.6), [102, 154]),
        (512, (0.4, 0.6), [256, 256]),
        (400, (1.0, 9.0), [144, 256]),
        (1, (), [1, 0]),
    ],
)
def test_quotas(k, weights, expected):
    # 179: both round(89.5) to 90, one too many is taken from camera 0; 1: both round to 0
    assert split_quotas(k, (256, 256), weights) == expected


def test_quotas_need_one_share_a_camera():
    with pytest.raises(UserError, match="3 shares; this policy has 2 cameras"):
        split_quotas(8, (16, 16), (1, 1, 1))


def test_top_k_stays_within_each_camera():
    scores = torch.tensor([1.0, 9.0, 2.0, 3.0, 0.1, 0.3, 0.2, 0.0])
    kept = top_k_per_camera(scores, (4, 4), (2, 1))
    assert kept.tolist() == [1, 3, 5]
    assert kept.dtype == torch.int64
