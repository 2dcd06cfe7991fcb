"""DivPrune and its greedy max-min, against a plain search."""

import itertools

import pytest
import torch

from vlaprune_bench.pruning.divprune import DivPrune
from vlaprune_bench.pruning.select import max_min


def slow_max_min(distances: list[list[float]], k: int) -> list[int]:
    n = len(distances)

    def from_others(i, others):
        return min((distances[i][j] for j in others if j != i), default=0.0)

    chosen = [max(range(n), key=lambda i: from_others(i, range(n)))][:k]
    while len(chosen) < k:
        left = [i for i in range(n) if i not in chosen]
        chosen.append(max(left, key=lambda i: from_others(i, chosen)))
    return chosen


@pytest.mark.parametrize(
    ("n", "k", "seed"), [(1, 1, 0), (2, 1, 0), (2, 0, 0), (9, 4, 1), (40, 40, 2), (60, 23, 3)]
)
def test_max_min_is_the_greedy_search(n, k, seed):
    x = torch.nn.functional.normalize(torch.randn(n, 5, generator=torch.manual_seed(seed)), dim=1)
    distances = 1 - x @ x.T
    distances.fill_diagonal_(0)
    assert max_min(distances, k).tolist() == slow_max_min(distances.tolist(), k)


def test_max_min_of_equal_points_chooses_each_once():
    assert max_min(torch.zeros(6, 6), 6).tolist() == [0, 1, 2, 3, 4, 5]


def test_max_min_is_within_half_of_the_best_spread():
    # the known guarantee of the greedy rule, for metric distances
    points = torch.rand(12, 2, generator=torch.manual_seed(5))
    distances = torch.cdist(points, points)
    distances.fill_diagonal_(0)

    def spread(index):
        return min(distances[i, j] for i, j in itertools.combinations(index, 2))

    best = max(spread(index) for index in itertools.combinations(range(12), 4))
    assert spread(max_min(distances, 4).tolist()) >= best / 2


@pytest.mark.parametrize("policy", ["openvla", "oft"])
def test_each_camera_keeps_its_most_diverse_patches(layouts, make_context, policy):
    layout = layouts[policy]
    context = make_context(layout)
    kept = DivPrune(keep=0.25).select(context, None).index.tolist()
    wanted = []
    for camera in range(len(layout.grids)):
        part = layout.camera(camera)
        x = context.patches[part].double()
        x = x / x.norm(dim=1, keepdim=True)
        wanted += [part.start + i for i in slow_max_min((1 - x @ x.T).tolist(), 4)]
    assert kept == sorted(wanted)
    assert context.decoder.macs == len(layout.grids) * 16 * 16 * 8


def test_copies_of_a_patch_go_first(make_context):
    patches = torch.eye(8).repeat(2, 1)  # each direction twice
    kept = DivPrune(keep=0.5).select(make_context(patches=patches), None).index
    assert sorted(i % 8 for i in kept.tolist()) == list(range(8))


def test_a_camera_that_keeps_all_costs_nothing(layouts, make_context):
    context = make_context(layouts["oft"])
    kept = DivPrune(keep=0.625, camera_split=(0.8, 0.2)).select(context, None).index
    assert layouts["oft"].per_camera(kept.tolist()) == [16, 4]
    assert context.decoder.macs == 16 * 16 * 8
