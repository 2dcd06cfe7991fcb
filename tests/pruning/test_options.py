"""Nothing unread: changing any option of any method changes what is kept or what it costs.

Walks every field of every registered method, nested ones included. A method or an option without
an entry here fails, and so does one that nothing reads.
"""

from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from vlaprune_bench.policies import load_policy
from vlaprune_bench.policies.prismatic import policy as prismatic
from vlaprune_bench.pruning import Pruner, methods
from vlaprune_bench.pruning.adp import Adp
from vlaprune_bench.pruning.blind import Blind
from vlaprune_bench.pruning.divprune import DivPrune
from vlaprune_bench.pruning.downsample import Downsample
from vlaprune_bench.pruning.fastv import FastV
from vlaprune_bench.pruning.gate import MotionGate
from vlaprune_bench.pruning.gated import Gated
from vlaprune_bench.pruning.lightvla import LightVla
from vlaprune_bench.pruning.none import NoPruning
from vlaprune_bench.pruning.pact import Pact
from vlaprune_bench.pruning.random_tokens import RandomTokens
from vlaprune_bench.pruning.schedule import Schedule
from vlaprune_bench.pruning.sparsevlm import SparseVlm
from vlaprune_bench.pruning.specprune import SpecPrune
from vlaprune_bench.pruning.static import Static
from vlaprune_bench.pruning.team import Team
from vlaprune_bench.pruning.ttf import Ttf
from vlaprune_bench.pruning.uniform import Uniform
from vlaprune_bench.pruning.vla_cache import VlaCache
from vlaprune_bench.pruning.vla_pruner import VlaPruner
from vlaprune_bench.types import Observation

CALLS = 10


@dataclass(frozen=True)
class Given:
    """Another value of an option that only acts where others have these values."""

    value: Any
    given: dict[str, Any]
    policy: str = "tiny-untrained"


BASES: dict[str, Pruner] = {
    "schedule": Schedule(FastV(0.7, layer=1), later_layers=(3,), later_keeps=(0.4,))
}
"""Methods whose defaults do not fit a model of four layers."""

BUDGET = {"keep": 0.6, "camera_split": (0.3, 0.7)}
# 0.3 x 512 is 153.6
STATIC = {**BUDGET, "qk_layer": 2, "reading": Given("code", {"keep": 0.3})}
OTHERS: dict[type, dict[str, Any]] = {
    NoPruning: {},
    Blind: {},
    LightVla: {},
    Pact: {
        "layer": 2,
        "action_layer": 0,
        "rates": (0.3,),
        "window": 1,
        "decay": 0.1,
        "coverage": 0.6,
        "conflict_weight": Given(5.0, {"most_coverage": 1.0}),
        "least_coverage": 0.65,
        "most_coverage": Given(0.2, {"least_coverage": 0.1}),
    },
    Team: {
        "seeds": 2,
        "density": 3.0,
        "chance": 0.9,
        "context_share": 0.3,
        "sharpness": 0.0,
        "merge_layer": 1,
        "sources": 30,
        "reading": "code",
    },
    Ttf: {
        "keyframe": 7,
        "change": 0.5,
        "relevant": 10,
        "relevance_layer": 0,
        "reading": "code",
    },
    RandomTokens: BUDGET,
    Uniform: BUDGET,
    DivPrune: BUDGET,
    Downsample: {"pool": 3},
    Static: STATIC,
    Adp: STATIC,
    FastV: {**BUDGET, "layer": 2},
    SparseVlm: {**BUDGET, "layer": 2, "reading": "code"},
    VlaPruner: {
        **BUDGET,
        "layer": 2,
        # attention of OpenVLA-OFT is bidirectional: it has no last row
        "criterion": Given("prefill", {}, policy="tiny-openvla"),
        "window": 2,
        "decay": 0.3,
        "action_layers": (0,),
        "reading": Given("code", {"action_layers": (2, 3)}),
    },
    MotionGate: {
        "rule": "avg",
        "window_steps": 16,
        "lookback": 4,
        "hold_last_state": False,
        "displacement": "net",
        "min_delta_pos": 0.02,
        "lever_arm": 0.5,
        "min_delta_rot": Given(0.3, {"lever_arm": 0.5}),
        "hysteresis_up": 1.0,
        "hysteresis_down": 0.9,
        "tolerance": 0.05,
        "max_consecutive_pruned": 1,
        "initial_state": True,
    },
    Gated: {"inner": Uniform()},
    Schedule: {"scorer": SparseVlm(0.7, layer=1), "later_layers": (2,), "later_keeps": (0.3,)},
    VlaCache: {
        "similarity": 0.98,
        "static_limit": 40,
        "relevant": 20,
        "relevance_layer": 0,
        "reuse_layers": (3,),
        "entropy_layers": (0,),
        "entropy_rows": "all",
        "growth": 0.9,
        "entropy_factor": Given(50.0, {"reading": "paper"}),
        "reading": "paper",
    },
    SpecPrune: {
        "global_count": 60,
        "dynamic_count": 60,
        "local_count": 60,
        "local_count_fine": Given(90, {"speed": 9.0, "turn": 9.0, "rise": 9.0}),
        "dynamic_similarity": 0.5,
        "frame_lag": 3,
        "speed": Given(0.0, {"turn": 9.0, "rise": 9.0}),
        "turn": Given(0.0, {"speed": 9.0, "rise": 9.0}),
        "rise": Given(-9.0, {"speed": 9.0, "turn": 9.0}),
        "skip_text": 3,
        "local_layers": (0,),
        "global_layers": (0,),
        "prune_layers": Given((2,), {"local_layers": (0,), "prune_layers": (3,)}),
        "update_layers": (0,),
        "layer_keep": 0.5,
        "min_tokens": 200,
        "rank_slope": Given(1.0, {"update_layers": (0, 1, 2)}),
        "ema": Given(0.9, {"update_layers": (0, 1, 2)}),
        "reading": "code",
    },
}
"""Another value of every option, by the class that has it."""


def base(name: str) -> Pruner:
    return BASES.get(name) or methods()[name]()


def options(config: Any, path: tuple[str, ...] = ()):
    """Paths to every field of a dataclass, those of nested ones included; a method is one too."""
    for f in fields(config):
        value = getattr(config, f.name)
        if not is_dataclass(value) or isinstance(value, Pruner):
            yield (*path, f.name)
        if is_dataclass(value):
            yield from options(value, (*path, f.name))


def change(config: Any, path: tuple[str, ...], to: dict[str, Any]) -> Any:
    """The dataclass with the values in `to` beside the field at `path`."""
    if len(path) == 1:
        return replace(config, **to)
    return replace(config, **{path[0]: change(getattr(config, path[0]), path[1:], to)})


def owner(config: Any, path: tuple[str, ...]) -> type:
    for name in path[:-1]:
        config = getattr(config, name)
    return type(config)


def trajectory() -> list[np.ndarray]:
    """Poses per call: a random walk that also turns about z, 8 steps a call."""
    random = np.random.default_rng(0)
    poses = np.zeros((8 * CALLS, 7))
    poses[:, :3] = random.normal(scale=0.01, size=(len(poses), 3)).cumsum(axis=0)
    angle = random.normal(scale=0.1, size=len(poses)).cumsum() / 2
    poses[:, 5], poses[:, 6] = np.sin(angle), np.cos(angle)
    return [poses[:1], *(poses[8 * i - 8 : 8 * i + 1] for i in range(1, CALLS))]


def episode() -> list[Observation]:
    """A scene whose patches change from not at all, on the left, to much, on the right."""
    random = np.random.default_rng(3)
    scene = random.integers(60, 196, (2, 256, 256, 3)).astype(float)
    fade = np.linspace(-0.3, 1.0, 256).clip(0)[None, None, :, None]
    made = []
    for _ in range(CALLS):
        images = scene + 60 * fade * random.normal(size=(2, 64, 64, 1)).repeat(4, 1).repeat(4, 2)
        made.append(
            Observation(
                eef_pos=np.zeros(3),
                eef_quat=np.array([1.0, 0.0, 0.0, 0.0]),
                gripper_qpos=np.array([0.04, -0.04]),
                images=images.clip(0, 255).astype(np.uint8),
            )
        )
    return made


@pytest.fixture(scope="module")
def play():
    """Plays the episode: (policy, pruner) to what was kept and spent at every call."""
    scene, poses = episode(), trajectory()
    prepare_frames = prismatic.prepare_frames
    # the same frames come again for every option: prepare and encode them once
    prepared: dict[bytes, torch.Tensor] = {}
    encoded: dict[tuple[str, bytes], torch.Tensor] = {}

    def prepare(images, *args):
        key = images.tobytes()
        if key not in prepared:
            prepared[key] = prepare_frames(images, *args)
        return prepared[key]

    @cache
    def load(name):
        policy = load_policy(name, NoPruning(), suite="libero_spatial", device="cpu")
        encode = policy.prismatic.patches

        def patches(pixels):
            key = name, pixels.numpy().tobytes()
            if key not in encoded:
                encoded[key] = encode(pixels)
            return encoded[key]

        policy.prismatic.patches = patches
        return policy

    @cache
    def run(name, pruner):
        policy = load(name)
        policy.pruner = pruner
        memory = policy.start("pick up the black bowl on the stove and place it on the plate", 3)
        measures = [
            policy.act(memory, observation, window).measures
            for observation, window in zip(scene, poses, strict=True)
        ]
        return [
            (m.kept_visual, m.fused_patches, m.tokens_per_layer, m.total_flops) for m in measures
        ]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prismatic, "prepare_frames", prepare)
        yield run


def test_every_method_and_option_is_walked():
    for name in methods():
        pruner = base(name)
        for path in options(pruner):
            said = f"{name}: give another value of {'.'.join(path)} in OTHERS of this file"
            assert path[-1] in OTHERS.get(owner(pruner, path), {}), said


@pytest.mark.parametrize(
    ("name", "path"),
    [(name, path) for name in methods() for path in options(base(name))],
    ids=lambda value: value if isinstance(value, str) else ".".join(value),
)
def test_every_option_is_read(play, name, path):
    pruner = base(name)
    other = OTHERS[owner(pruner, path)][path[-1]]
    if not isinstance(other, Given):
        other = Given(other, {})
    before = change(pruner, path, other.given)
    after = change(before, path, {path[-1]: other.value})
    assert before != after
    assert play(other.policy, before) != play(other.policy, after)
