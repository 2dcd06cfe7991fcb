"""scripts/train_tiny.py: the network it trains is the one inference runs, and runs can go on."""

import io
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from experts.world import SampledTask, World
from PIL import Image

from vlaprune_bench.policies import load_policy
from vlaprune_bench.policies.checkpoint import Checkpoint
from vlaprune_bench.policies.normalize import Bounds, robot_state, to_gripper_command
from vlaprune_bench.policies.preprocess import pixel_values, prepare_frames
from vlaprune_bench.pruning.base import Pruner, Selection
from vlaprune_bench.pruning.none import NoPruning
from vlaprune_bench.pruning.static import Static
from vlaprune_bench.sim.assets import resolve_assets
from vlaprune_bench.sim.tasks import TaskKey
from vlaprune_bench.types import LEROBOT_PROTOCOL, OPENVLA_PROTOCOL, Observation, UserError

SCRIPTS = Path(__file__).parents[1] / "scripts"
SUITE = "libero_spatial"
INSTRUCTIONS = (
    "pick up the black bowl on the stove and place it on the plate",
    "pick up the black bowl next to the ramekin and place it on the plate",
)
ROWS = 24


@pytest.fixture(scope="module")
def script():
    pytest.importorskip("libero", reason="libero's instructions give the vocabulary")
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        import train_tiny

        yield train_tiny
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def demos(tmp_path_factory):
    """Two tasks; the first action follows from the state, so there is something to learn."""
    folder = tmp_path_factory.mktemp("demos")
    (folder / SUITE).mkdir()
    for task, instruction in enumerate(INSTRUCTIONS):
        rng = np.random.default_rng(task)
        rows = [row(rng, task, instruction, k) for k in range(ROWS)]
        pd.DataFrame(rows).to_parquet(folder / SUITE / f"task{task:02d}.parquet")
    return folder


def row(rng, task, instruction, k, side=256):
    place = rng.uniform(-0.2, 0.2, 3)
    actions = np.zeros((8, 7))
    actions[:, :3] = place / 0.2
    actions[:, 6] = np.where(place[0] > 0, 1.0, -1.0)
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (side, side, 3), dtype=np.uint8)).save(buffer, "JPEG")
    return {
        "suite": SUITE,
        "task": task,
        "instruction": instruction,
        "demo": k,
        "seed": k,
        "agentview_jpeg": buffer.getvalue(),
        "wrist_jpeg": buffer.getvalue(),
        "eef_pos": place,
        "eef_quat": np.array([1.0, 0.0, 0.0, 0.0]),
        "gripper_qpos": np.array([0.04, -0.04]),
        "actions": actions.reshape(-1),
        "target_pos": place,
        "goal_pos": place,
        "holding": place[0] > 0,
    }


@pytest.fixture(scope="module")
def settings(script, demos, tmp_path_factory):
    optimisation = script.Optimisation(
        steps=12, micro_batch=4, micro_batches=2, warmup=2, rate=3e-3, dtype="float32"
    )
    cache = tmp_path_factory.getbasetemp() / "frames"
    out = tmp_path_factory.mktemp("run")
    return script.Settings(
        demos=demos, out=out, cache=cache, patch=56, tower_width=32, tower_depth=2, width=32,
        depth=2, rollout_every=0, compile=False, train=optimisation,
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(script, settings):
    """The folder of a finished run."""
    script.main(settings)
    return settings.out


def test_loss_falls(trained):
    log = pd.read_parquet(trained / "log.parquet")
    assert log.step.tolist() == list(range(1, 13))
    assert log.loss[-3:].mean() < 0.9 * log.loss[:3].mean()


def test_continuing_changes_nothing(script, settings, trained, tmp_path):
    run = script.Run(replace(settings, out=tmp_path))
    for _ in range(5):
        run.trainer.train_step()
    run.save()
    script.main(replace(settings, out=tmp_path))
    whole, pieces = (torch.load(f / "state.pt", weights_only=True) for f in (trained, tmp_path))
    assert pieces["step"] == whole["step"] == 12
    for kind in ("master", "average"):
        for name, value in whole[kind].items():
            assert torch.equal(value, pieces[kind][name]), name
    assert [r["loss"] for r in whole["log"]] == [r["loss"] for r in pieces["log"]]


def test_a_run_begins_with_a_checkpoint(script, settings, trained, tmp_path):
    begun = replace(settings, start=trained / "last", out=tmp_path)
    run, fresh = script.Run(begun), script.Run(replace(settings, out=tmp_path / "none"))
    state = torch.load(trained / "state.pt", weights_only=True)
    for name, value in run.trainer.master.items():
        written = state["average"][name].half().float()
        own = name.startswith("auxiliary")
        assert torch.equal(value, fresh.trainer.master[name] if own else written), name
    run.save()
    with pytest.raises(UserError, match=r"was trained with start .*last, not None"):
        script.Run(replace(begun, start=None))
    for folder, other in ((tmp_path / "nowhere", {}), (trained / "last", {"width": 64})):
        with pytest.raises(UserError, match=r"--start is .*: no checkpoint of this shape"):
            script.Run(replace(begun, start=folder, out=tmp_path / "new", **other))


def test_nothing_leaves_where_none_shall(script, settings):
    optimisation = replace(settings.train, token_dropout=0.0)
    run = script.Run(replace(settings, train=optimisation))
    assert run.trainer._leaving(np.random.default_rng(0)) is None


def test_a_run_keeps_its_dtype(script, settings, trained):
    from tiny.train import choose_dtype

    assert choose_dtype("auto", trained / "state.pt") == "float32"
    assert choose_dtype("bfloat16", trained / "state.pt") == "bfloat16"
    assert choose_dtype("auto", trained / "none.pt") in ("float32", "bfloat16")


def test_another_shape_is_refused(script, settings, trained):
    with pytest.raises(UserError, match="width 32, not 64"):
        script.main(replace(settings, width=64))


@dataclass(frozen=True)
class Given(Pruner):
    """Keeps the tokens it is told to, before the layer it is told."""

    kept: tuple[int, ...] = ()
    at: int = 0
    renumber: bool = False
    name = "given"

    @property
    def layers(self):
        return (self.at,)

    @property
    def renumber_positions(self):
        return self.renumber

    def select(self, context, memory):
        return Selection(torch.tensor(self.kept))


def some_observation():
    rng = np.random.default_rng(5)
    return Observation(
        eef_pos=rng.uniform(-0.1, 0.1, 3),
        eef_quat=np.array([1.0, 0.0, 0.0, 0.0]),
        gripper_qpos=np.array([0.04, -0.04]),
        images=rng.integers(0, 255, (2, 256, 256, 3), dtype=np.uint8),
    )


@pytest.fixture(scope="module")
def run(script, settings, trained):
    """A run that computes with the weights that were written."""
    run = script.Run(settings)
    run.trainer.average = {k: v.half().float() for k, v in run.trainer.average.items()}
    return run


def acted_on(folder, method, seen):
    """The policy, what it remembers, and what it does on an observation."""
    policy = load_policy(str(folder / "last"), method, suite=SUITE, device="cpu")
    memory = policy.start(INSTRUCTIONS[1], 0)
    poses = np.concatenate([seen.eef_pos, seen.eef_quat])[None]
    return policy, memory, policy.act(memory, seen, poses)


def trained_on(run, policy, memory, seen, leaving=None):
    """Training's forward on the same: normalised actions and the text-vision scores."""
    frames = prepare_frames(seen.images, OPENVLA_PROTOCOL, 224, torch.device("cpu"))
    one = torch.ones(1, 2)
    x = run.trainer.model.pixels(frames.byte()[None], one, 0 * one, torch.float32)
    torch.testing.assert_close(x, pixel_values(frames, torch.float32), atol=1e-5, rtol=1e-5)
    proprio = torch.from_numpy(policy.proprio_bounds.normalize(robot_state(seen))).float()
    with torch.no_grad(), run.trainer.averaged():
        actions, _, scores = run.trainer.model(x, proprio[None], memory.prompt_T, leaving)
    return policy.action_bounds.unnormalize(actions[0].numpy()), scores[0]


def test_training_computes_what_inference_does(run, settings):
    """On frames and a state, through the files: training's forward and the policy's."""
    seen = some_observation()
    policy, memory, acted = acted_on(settings.out, NoPruning(), seen)
    assert policy.info.trained
    assert policy.info.grids == ((4, 4), (4, 4))
    prompts = run.trainer.prompts
    assert torch.equal(prompts[run.demos.instructions.index(INSTRUCTIONS[1])], memory.prompt_T)
    actions, scores = trained_on(run, policy, memory, seen)
    np.testing.assert_allclose(acted.actions[:, :6], actions[:, :6], atol=2e-5)
    # nobody rotated in the demonstrations: exactly nothing is sent
    assert (acted.actions[:, 3:6] == 0.0).all()
    assert set(np.unique(acted.actions[:, 6])) <= {-1.0, 1.0}
    # the scores that training moves are those that `static` prunes by
    kept = acted_on(settings.out, Static(keep=0.25), seen)[2].measures.kept_visual
    best = scores.unflatten(0, (2, 16)).topk(4).indices + torch.tensor([[0], [16]])
    assert kept == sorted(best.flatten().tolist())


@pytest.mark.parametrize("at", [0, 1])
@pytest.mark.parametrize("renumber", [False, True])
def test_tokens_leave_in_training_as_in_inference(run, settings, at, renumber):
    from tiny.dropout import Leaving

    seen, kept = some_observation(), (1, 2, 5, 11, 20, 31)
    policy, memory, acted = acted_on(settings.out, Given(kept, at, renumber), seen)
    stays_V = torch.zeros(32, dtype=torch.bool).index_fill(0, torch.tensor(kept), True)
    leaving = Leaving(stays_V[None], torch.tensor([at]), torch.tensor([renumber]))
    actions, _ = trained_on(run, policy, memory, seen, leaving)
    np.testing.assert_allclose(acted.actions[:, :3], actions[:, :3], atol=2e-5)
    whole, _ = trained_on(run, policy, memory, seen)
    assert np.abs(whole - actions)[:, :3].max() > 1e-4


def test_what_leaves_is_drawn_for_every_sample(script):
    from tiny.dropout import draw

    grids = ((8, 8), (8, 8))
    leaving = draw(np.random.default_rng(0), 2000, grids, 4, 0.5)
    left_B = leaving.stays_BV.float().mean(1)
    assert left_B.min() >= 0.07
    assert 0.45 < (left_B < 1).float().mean() < 0.55
    assert 0.2 < left_B[left_B < 1].median() < 0.36  # log-uniform
    assert set(leaving.layer_B.tolist()) == {0, 1, 2, 3}
    assert 0.45 < leaving.renumber_B.float().mean() < 0.55
    cameras = leaving.stays_BV.unflatten(1, (2, 64)).float().mean(2)
    assert (cameras[:, 0] - cameras[:, 1]).abs().max() > 0.8
    again = draw(np.random.default_rng(0), 2000, grids, 4, 0.5)
    assert torch.equal(again.stays_BV, leaving.stays_BV)


@pytest.fixture(scope="module")
def openvla(script, settings, tmp_path_factory):
    """A run of an OpenVLA that ended, with the weights that were written."""
    settings = replace(settings, policy="openvla", out=tmp_path_factory.mktemp("openvla"))
    script.main(settings)
    run = script.Run(settings)
    run.trainer.average = {k: v.half().float() for k, v in run.trainer.average.items()}
    return run


def test_an_openvlas_loss_falls(openvla):
    log = pd.DataFrame(openvla.trainer.log)
    assert log.loss[-3:].mean() < 0.9 * log.loss[:3].mean()
    assert not (openvla.settings.out / "last" / "action_head--0_checkpoint.pt").exists()


@pytest.mark.parametrize("at", [None, 0, 1])
@pytest.mark.parametrize("renumber", [False, True])
def test_an_openvla_is_trained_as_it_acts(openvla, at, renumber):
    """Told the tokens that the policy chose, training finds each of them the best."""
    from tiny.dropout import Leaving

    seen, kept = some_observation(), (1, 2, 5, 11, 14)
    method = NoPruning() if at is None else Given(kept, at, renumber)
    policy, memory, acted = acted_on(openvla.settings.out, method, seen)
    assert policy.info.policy == "openvla"
    assert policy.info.grids == ((4, 4),)
    leaving = None
    if at is not None:
        stays_V = torch.zeros(16, dtype=torch.bool).index_fill(0, torch.tensor(kept), True)
        leaving = Leaving(stays_V[None], torch.tensor([at]), torch.tensor([renumber]))
    frames = prepare_frames(seen.images, OPENVLA_PROTOCOL, 224, torch.device("cpu"))
    one = torch.ones(1, 2)
    x = openvla.trainer.model.pixels(frames.byte()[None], one, 0 * one, torch.float32)
    model, chosen = openvla.trainer.model, torch.empty(1, 0, dtype=torch.long)
    with torch.no_grad(), openvla.trainer.averaged():
        while chosen.shape[1] < 7:
            logits, _, scores = model(x, memory.prompt_T, chosen, leaving)
            chosen = torch.cat([chosen, logits[:, -1:].argmax(-1)], dim=1)
        again = model(x, memory.prompt_T, chosen[:, :-1], leaving)[0].argmax(-1)
    assert torch.equal(again, chosen)
    normalised = model.tokens.actions(chosen[0], torch.zeros(7))[None]
    wanted = to_gripper_command(policy.action_bounds.unnormalize(normalised))
    np.testing.assert_allclose(acted.actions, wanted, atol=1e-9)
    if at is None:
        kept = acted_on(openvla.settings.out, Static(keep=0.25), seen)[2].measures.kept_visual
        assert kept == sorted(scores[0].topk(4).indices.tolist())


def test_an_openvlas_targets_are_the_tokens_of_its_actions(openvla):
    model = openvla.trainer.model
    actions = torch.tensor([[-1.0, -0.5, 0.0, 0.003, 0.999, 1.0, 2.0]])
    tokens = model.tokens.vocabulary - 1 - model.bins(actions)
    decoded = model.tokens.actions(tokens[0], torch.zeros(7))
    np.testing.assert_allclose(decoded, actions[0].clamp(-1, 1), atol=1 / 255 + 1e-6)


@pytest.fixture(scope="module")
def smolvla(script, settings, tmp_path_factory):
    """A run of a SmolVLA that ended, with the weights that were written."""
    folder = tmp_path_factory.mktemp("demos360")
    (folder / SUITE).mkdir()
    rng = np.random.default_rng(0)
    rows = [row(rng, 1, INSTRUCTIONS[1], k, 360) for k in range(ROWS)]
    pd.DataFrame(rows).to_parquet(folder / SUITE / "task01.parquet")
    out = tmp_path_factory.mktemp("smolvla")
    settings = replace(settings, policy="smolvla", demos=folder, out=out)
    script.main(settings)
    run = script.Run(settings)
    run.trainer.average = {k: v.half().float() for k, v in run.trainer.average.items()}
    return run


def test_a_smolvlas_loss_falls(smolvla):
    log = pd.DataFrame(smolvla.trainer.log)
    assert log.loss[-3:].mean() < 0.9 * log.loss[:3].mean()
    assert np.abs(smolvla.demos.actions_NA[..., :3].mean()) < 1e-5
    assert smolvla.demos.actions_NA[..., 6].std() == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("at", [None, 0, 1])
@pytest.mark.parametrize("renumber", [False, True])
def test_a_smolvla_is_trained_as_it_acts(smolvla, at, renumber):
    """Euler steps of training's velocities are what the policy does, through the files."""
    from tiny.data import CONVENTIONS
    from tiny.dropout import Leaving

    rng = np.random.default_rng(5)
    images = rng.integers(0, 255, (2, 360, 360, 3), dtype=np.uint8)
    seen, kept = replace(some_observation(), images=images), (1, 2, 5, 11, 20, 31)
    method = NoPruning() if at is None else Given(kept, at, renumber)
    folder = str(smolvla.settings.out / "last")
    policy = load_policy(folder, method, suite=SUITE, device="cpu", protocol=LEROBOT_PROTOCOL)
    assert (policy.info.policy, policy.info.trained) == ("smolvla", True)
    memory = policy.start(INSTRUCTIONS[1], 0)
    inputs = policy._inputs(memory, seen)
    acted = policy.act(memory, seen, np.concatenate([seen.eef_pos, seen.eef_quat])[None])
    leaving = None
    if at is not None:
        stays_V = torch.zeros(32, dtype=torch.bool).index_fill(0, torch.tensor(kept), True)
        leaving = Leaving(stays_V[None], torch.tensor([at]), torch.tensor([renumber]))
    model, one, lerobot = smolvla.trainer.model, torch.ones(1, 2), CONVENTIONS["lerobot"]
    x = model.pixels(
        torch.from_numpy(lerobot.frames(images, 224))[None], one, 0 * one, torch.float32
    )
    torch.testing.assert_close(x, inputs.pixels_1CHW, atol=0.51 / 127.5, rtol=0.0)
    entry = smolvla.demos.statistics[SUITE]
    state = lerobot.scale(entry, SUITE, "proprio", lerobot.state(seen))
    np.testing.assert_allclose(state, inputs.proprio, atol=1e-4)
    actions = inputs.noise_1CA
    with torch.no_grad(), smolvla.trainer.averaged():
        for step in range(10):
            (velocity,), _, scores = model(
                inputs.pixels_1CHW,
                inputs.state_S[None],
                memory.prompt_T,
                [(step, actions)],
                leaving,
            )
            actions = actions - velocity / 10
    wanted = policy._actions(actions[0].double().numpy())
    np.testing.assert_allclose(acted.actions, wanted, atol=2e-5)
    assert (acted.actions[:, 3:6] == 0.0).all()  # nobody rotated: exactly nothing is sent
    if at is None:
        static = Static(keep=0.25)
        other = load_policy(folder, static, suite=SUITE, device="cpu", protocol=LEROBOT_PROTOCOL)
        poses = np.concatenate([seen.eef_pos, seen.eef_quat])[None]
        kept = other.act(other.start(INSTRUCTIONS[1], 0), seen, poses).measures.kept_visual
        best = scores[0].unflatten(0, (2, 16)).topk(4).indices + torch.tensor([[0], [16]])
        assert kept == sorted(best.flatten().tolist())


def test_frames_of_another_protocol_are_refused(script, smolvla, settings, tmp_path):
    mixed = replace(settings, policy="smolvla", out=tmp_path)
    with pytest.raises(UserError, match="its frames are 256 pixels wide; protocol lerobot has 360"):
        script.Run(mixed)


def test_a_smolvla_of_two_suites_is_refused(script, smolvla, tmp_path):
    two = replace(smolvla.settings, suites=(SUITE, "libero_object"), out=tmp_path)
    with pytest.raises(UserError, match="suites is libero_spatial libero_object; a smolvla's"):
        script.Run(two)


def test_a_smolvla_goes_on_from_its_files(script, smolvla, tmp_path):
    begun = replace(smolvla.settings, start=smolvla.settings.out / "last", out=tmp_path)
    run = script.Run(begun)
    for name, value in run.trainer.master.items():
        if not name.startswith("auxiliary"):
            assert torch.equal(value, smolvla.trainer.average[name]), name
    found = Checkpoint.find(str(smolvla.settings.out / "last"))
    found.check_for(SUITE)
    with pytest.raises(UserError, match=f"suite is libero_10; .* is trained on {SUITE}"):
        found.check_for("libero_10")


@pytest.mark.sim
@pytest.mark.parametrize("suite", ["libero_spatial", "libero_object", "libero_goal"])
def test_views_are_the_simulators(script, suite):
    from scipy.spatial.transform import Rotation
    from tiny.views import AGENT, WRIST, rotation, shares

    with SampledTask(TaskKey(suite, 0, resolve_assets("lite", "lite"))) as task:
        seen = task.reset(0)
        world = World(task)
        hand = Rotation.from_quat(seen.eef_quat)
        for name, view, at, turn in (
            ("agentview", AGENT[suite], AGENT[suite].position, rotation(AGENT[suite])),
            (
                "robot0_eye_in_hand",
                WRIST,
                seen.eef_pos + hand.apply(WRIST.position),
                hand * rotation(WRIST),
            ),
        ):
            camera = world._model.camera(name).id
            assert world._model.cam_fovy[camera] == view.fovy
            np.testing.assert_allclose(world._data.cam_xpos[camera], at, atol=1e-3)
            matrix = world._data.cam_xmat[camera].reshape(3, 3)
            np.testing.assert_allclose(matrix, turn.as_matrix(), atol=1e-3)
        pose = np.concatenate([seen.eef_pos, hand.as_rotvec()])[None]
        points = np.array([[seen.eef_pos, [9.0, 0.0, 9.0]]])
        share_BV = shares([suite], pose, points, ((8, 8), (8, 8)), 0.9)
        first_BV = shares([suite], pose, points, ((8, 8),), 0.9)
    # the fingertips: above the middle of the first camera's frame, below that of the wrist's
    assert share_BV.sum() == pytest.approx(1.0)
    maps = share_BV[0].reshape(2, 8, 8)
    np.testing.assert_allclose(first_BV[0], maps[0].ravel() / maps[0].sum(), rtol=1e-5)
    assert maps[0, :4, 2:6].sum() > 0.45
    assert maps[1, 5:, 2:6].sum() > 0.3


def test_targets_are_in_the_models_convention(script, settings):
    demos = script.Run(settings).demos
    assert len(demos) == 2 * ROWS
    assert demos.held_out_N.sum() == 2
    assert (demos.fixed == [False, False, False, True, True, True, False]).all()
    assert np.abs(demos.actions_NA).max() <= 1.0
    assert (demos.actions_NA[..., 3:6] == -1.0).all()
    opened = demos.actions_NA[:, 0, 6] == 1.0
    np.testing.assert_array_equal(opened, demos.aux_NX[:, 6] == 0.0)  # open while not holding
    # what the policy makes of them is what the expert did, but for the clipped hundredths
    bounds = Bounds.read(demos.statistics[SUITE], SUITE, "action")
    assert bounds.mask.tolist() == [True] * 6 + [False]
    acted = to_gripper_command(bounds.unnormalize(demos.actions_NA))
    files = sorted((settings.demos / SUITE).iterdir())
    rows = np.concatenate([np.stack(pd.read_parquet(path).actions) for path in files])
    expert = rows.reshape(acted.shape)
    np.testing.assert_array_equal(acted[..., 6], expert[..., 6])
    np.testing.assert_allclose(
        acted[..., :6], expert[..., :6].clip(bounds.low[:6], bounds.high[:6]), atol=1e-6
    )


def test_a_policy_that_decides_every_step_does_not_wait():
    """Lower, close, wait twice, lift, wait, open; then the next demonstration begins and waits."""
    from tiny.data import skip_waiting

    moves, grips = [-0.5, 0, 0, 0.02, 0.8, 0, 0, 0, 0], [-1, 1, 1, 1, 1, 1, -1, -1, -1]
    first = np.zeros((9, 7))
    first[:, 2], first[:, 6] = moves, grips
    skip_waiting(first, np.array([[0]] * 7 + [[1]] * 2))
    # that it closes, and that it opens, is news; what follows a demonstration's end is none of it
    assert first[:, 2].tolist() == [-0.5, 0, 0.8, 0.8, 0.8, 0, 0, 0, 0]
    assert first[:, 6].tolist() == grips


def test_nothing_to_learn_from_is_said(script, settings, tmp_path):
    with pytest.raises(UserError, match="make demos"):
        script.main(replace(settings, demos=tmp_path, out=tmp_path / "run"))
