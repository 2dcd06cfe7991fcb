"""The vocabulary every other module speaks: observations, actions, episodes and the rows we write.

Imports nothing of ours and neither torch nor mujoco, so that reports and `--help` stay light.
"""

from __future__ import annotations

import hashlib
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from enum import StrEnum
from typing import Any, Literal

import numpy as np


class UserError(Exception):
    """Something the user can put right: printed as one sentence, exit code 2.

    The sentence names the offending key, its value, and what would be right. Not a ValueError:
    parsers wrap those in messages of their own.
    """

    def __str__(self) -> str:
        """The sentence in one line: what a file or a shell put between is no line break of ours."""
        return " ".join(super().__str__().split())


class Status(StrEnum):
    """How an episode ended, apart from whether the task was solved."""

    OK = "ok"
    ERROR = "error"
    TIMEOUT = "timeout"


@dataclass(frozen=True)
class EvalProtocol:
    """How LIBERO is evaluated: everything that moves a success rate besides the model.

    The reference values are those of the OpenVLA and OpenVLA-OFT evaluation scripts.
    """

    name: str
    settle_steps: int
    """Control steps with `settle_action` after a reset; they do not count against the budget."""
    settle_action: tuple[float, ...]
    budgets: dict[str, int]
    """Control steps an episode may take, by suite (25 physics substeps each)."""
    env_seed: int
    """Seed given to a task environment once, before its first reset."""
    camera_size: int
    """Side of the square frames rendered, pixels."""
    rotate_180: bool
    jpeg_quality: int | None
    """Quality of the 4:2:0 JPEG round trip, or None for no round trip."""
    resize: Literal["lanczos3", "bilinear"]
    """Kernel of the resize to the model's input."""
    crop_area: float
    """Fraction of the frame's AREA kept by the centre crop (1.0: no crop)."""
    execute_steps: int | None
    """Actions of a chunk executed open loop before the policy is called again; None: as many as the
    checkpoint says."""
    antialias: bool = True
    """Whether the kernel widens where the resize shrinks."""
    seed_per_trial: bool = False
    """Whether trial k's reset is seeded anew, with `env_seed` + k."""
    conventions: Literal["lerobot", "openpi"] = "lerobot"
    """Whose prompts and normalisation a flow-matching policy is given; other policies have their
    own."""
    state_dtype: Literal["float32", "float64"] = "float64"
    """Precision in which a flow-matching policy's state is computed."""

    def seed_of(self, trial: int) -> int:
        """Seed of the task environment for a trial."""
        return self.env_seed + trial if self.seed_per_trial else self.env_seed


OPENVLA_PROTOCOL = EvalProtocol(
    name="openvla",
    settle_steps=10,
    settle_action=(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0),
    budgets={
        "libero_spatial": 220,
        "libero_object": 280,
        "libero_goal": 300,
        "libero_10": 520,
        "libero_90": 400,
    },
    env_seed=0,
    camera_size=256,
    rotate_180=True,
    jpeg_quality=95,
    resize="lanczos3",
    crop_area=0.9,
    execute_steps=8,
)
# What these two harnesses do. OpenVLA's checkpoints, trained with OpenVLA's preprocessing, lose
# points under it; LeRobot's lose them under OpenVLA's.
OPENPI_PROTOCOL = replace(
    OPENVLA_PROTOCOL,
    name="openpi",
    env_seed=7,
    jpeg_quality=None,
    resize="bilinear",
    crop_area=1.0,
    execute_steps=5,
    conventions="openpi",
)
LEROBOT_PROTOCOL = replace(
    OPENVLA_PROTOCOL,
    name="lerobot",
    budgets={**OPENVLA_PROTOCOL.budgets, "libero_spatial": 280},
    env_seed=1000,
    camera_size=360,
    jpeg_quality=None,
    resize="bilinear",
    crop_area=1.0,
    execute_steps=None,
    antialias=False,
    seed_per_trial=True,
    state_dtype="float32",
)

NO_OPTIONS = "{}"
"""Options of a policy that has none of its own, JSON."""
PROTOCOLS = {p.name: p for p in (OPENVLA_PROTOCOL, LEROBOT_PROTOCOL, OPENPI_PROTOCOL)}

SimPath = Literal["fast", "reference"]
"""How the simulator is stepped: by a path of our own, or by robosuite's loop. Equal bit for bit."""
SceneProtocol = Literal["reference", "fresh"]
"""Which scene trial k is: what the reference loop's (k+1)-th reset shows, or one of its own."""

N_TASKS = {
    "libero_spatial": 10,
    "libero_object": 10,
    "libero_goal": 10,
    "libero_10": 10,
    "libero_90": 90,
}
"""Tasks of each suite."""
SUITES = tuple(N_TASKS)
CAMERAS = ("agentview", "robot0_eye_in_hand")
CONTROL_STEP_MS = 50.0
"""Simulated time of a control step: LIBERO's robots are controlled at 20 Hz."""
ACTION_OPEN = -1.0
"""Gripper command (the seventh number of an action) that opens it; 1 closes it."""

ClockKind = Literal["stop", "hold", "async"]
"""What the robot does while a policy call runs: see `rollout.clock.Clock`."""
Tick = Literal["carry", "ceil"]
"""What is done with the part of a control step that a call's latency leaves: carried over to the
next call, or each call rounded up."""


def uniform(*what: Any) -> float:
    """A number in (0, 1) drawn by what it is for alone: the same on any machine, at any time."""
    digest = hashlib.sha256(repr(what).encode()).digest()
    return (int.from_bytes(digest[:6], "big") + 0.5) / 2**48


@dataclass(frozen=True)
class Observation:
    """What the simulator shows after a control step."""

    eef_pos: np.ndarray
    """(3,) float64, metres, world frame."""
    eef_quat: np.ndarray
    """(4,) float64, xyzw, as the robot's observable gives it (no antipodal flip)."""
    gripper_qpos: np.ndarray
    """(2,) float64, metres."""
    images: np.ndarray | None = None
    """(cameras, size, size, 3) uint8, main camera first, upright; None where nobody looks."""


@dataclass(frozen=True)
class EpisodeSpec:
    """Names one episode wherever and whenever it runs: the unit of resume.

    A field that joins later has a default, which stands for what episodes were before it.
    """

    suite: str
    task: int
    trial: int
    seed: int
    protocol: str
    max_steps: int

    @property
    def named(self) -> dict[str, Any]:
        """Its fields without those at a default: what is hashed, unmoved by fields that join."""
        return {k: v for k, v in asdict(self).items() if v != DEFAULTS[EpisodeSpec].get(k, MISSING)}


PRISMATIC_ORDER = ("bos", "visual", "proprio", "text", "actions", "stop")


@dataclass(frozen=True)
class TokenLayout:
    """Which positions of the full (unpruned) prefill sequence hold what: named segments in order.

    Selection, FLOPs, gate and overlays all read this object. The order is by default that of
    OpenVLA(-OFT): BOS, the patches of each camera, proprio, the rest of the prompt, action
    placeholders, stop.
    """

    grids: tuple[tuple[int, int], ...]
    """(rows, columns) of visual tokens, one entry a camera."""
    n_prompt: int
    """Prompt tokens, BOS and the trailing empty token included."""
    has_proprio: bool = False
    n_actions: int = 0
    """Placeholder tokens for actions (chunk length x action dimensions)."""
    has_stop: bool = False
    n_generated: int = 0
    """Tokens decoded one by one after the prefill (autoregressive policies)."""
    order: tuple[str, ...] = PRISMATIC_ORDER
    """Names of the segments as they stand; one that is not named has no tokens."""
    has_bos: bool = True
    n_padding: int = 0
    """Tokens of segment `padding`, behind the text: masked, seen by nobody."""
    n_empty: int = 0
    """Tokens of segment `empty`, those of cameras that are not there: masked, seen by nobody."""
    n_prefix: int = 0
    """Tokens that see each other where a policy's attention is of the kind `prefix`; each token
    after them sees those up to itself."""
    n_denoised: int = 0
    """Action tokens of a denoising step, which reads the prefill's keys and values (flow matching);
    position `length` + i is the i-th."""

    @property
    def lengths(self) -> dict[str, int]:
        """Tokens of each segment, in order."""
        known = {
            "bos": int(self.has_bos),
            "visual": self.n_visual,
            "empty": self.n_empty,
            "proprio": int(self.has_proprio),
            "text": self.n_prompt - self.has_bos,
            "padding": self.n_padding,
            "actions": self.n_actions,
            "stop": int(self.has_stop),
        }
        return {name: known[name] for name in self.order}

    def segment(self, name: str) -> slice:
        """Positions of a segment; one that is not there is empty, at the end."""
        start = 0
        for here, length in self.lengths.items():
            if here == name:
                return slice(start, start + length)
            start += length
        return slice(start, start)

    @property
    def visual_counts(self) -> tuple[int, ...]:
        """Visual tokens of each camera."""
        return tuple(rows * columns for rows, columns in self.grids)

    @property
    def n_visual(self) -> int:
        return sum(self.visual_counts)

    @property
    def visual(self) -> slice:
        """All patches, one camera after the other."""
        return self.segment("visual")

    @property
    def proprio(self) -> slice:
        return self.segment("proprio")

    @property
    def prompt_rest(self) -> slice:
        """The prompt without BOS."""
        return self.segment("text")

    @property
    def actions(self) -> slice:
        return self.segment("actions")

    @property
    def stop(self) -> slice:
        return self.segment("stop")

    @property
    def length(self) -> int:
        return sum(self.lengths.values())

    @property
    def masked(self) -> tuple[slice, ...]:
        """Positions that nobody sees and that do not advance those after them."""
        return tuple(self.segment(name) for name in ("empty", "padding") if self.lengths.get(name))

    @property
    def n_valid(self) -> int:
        """Tokens that are not masked."""
        return self.length - sum(part.stop - part.start for part in self.masked)

    @property
    def action_rows(self) -> range:
        """Positions whose states predict the actions: one before each placeholder; for generated
        tokens the prefill's last position and then each of them (position length + i) but the last;
        for denoised ones they themselves.
        """
        if self.n_denoised:
            return range(self.length, self.length + self.n_denoised)
        first = self.actions.start - 1
        return range(first, first + (self.n_actions or self.n_generated))

    def camera(self, index: int) -> slice:
        """Patches of one camera, as indices into the visual tokens (0 is the first patch)."""
        start = sum(self.visual_counts[:index])
        return slice(start, start + self.visual_counts[index])

    def per_camera(self, kept_visual: list[int]) -> list[int]:
        """How many of `kept_visual` (indices into the visual tokens) each camera keeps."""
        counts = []
        for index in range(len(self.grids)):
            part = self.camera(index)
            counts.append(sum(part.start <= k < part.stop for k in kept_visual))
        return counts


class Role(StrEnum):
    """What a column of an episode is for. Episode ids, cells of a report, pairs and the guard of
    scenes follow from it; nothing else lists columns by what they are for."""

    PAIR = "pair"
    """Which episode it is: equal in the two that are compared."""
    SETTING = "setting"
    """What must be equal before two methods are compared."""
    METHOD = "method"
    """What is compared."""
    NAME = "name"
    """Names what the columns above identify, or follows from it."""
    MEASURED = "measured"
    PROVENANCE = "provenance"
    """When, where and by what it was measured."""


def column(
    doc: str,
    unit: str | None = None,
    role: Role | None = None,
    *,
    scene: bool = False,
    **default: Any,
) -> Any:
    """A dataclass field that is a column: its documentation and unit go into the schema.

    Args:
        doc: what the column holds, and why where it can be null.
        unit: of its numbers.
        role: of a column of episodes.
        scene: it is part of what determines the scene at an episode's begin.
        default: of a column that joined later: the value of rows from before it. It is left out of
            the identity of an episode that has it, so that ids stay.
    """
    metadata = {"doc": doc, "unit": unit or "", "role": role, "scene": scene}
    return field(metadata=metadata, **default)


@dataclass(frozen=True, kw_only=True)
class CallMeasures:
    """What one policy call did and cost, as the policy itself measured it.

    Null stands for what the server of a remote policy does not say, as where it answered with an
    action of the chunk before.
    """

    pruned: bool | None = column(
        "whether visual tokens were dropped (or reused, or fused) in this call"
    )
    visual_tokens: int | None = column("visual tokens before pruning", "tokens")
    visual_tokens_kept: int | None = column(
        "visual tokens that reach the last decoder layer", "tokens"
    )
    kept_per_camera: list[int] | None = column("visual tokens kept of each camera", "tokens")
    tokens_per_layer: list[int] | None = column("sequence length in each decoder layer", "tokens")
    expert_keys_per_layer: list[int] | None = column(
        "keys of the prefix that each layer of the action expert reads, at every denoising step; "
        "null: no expert",
        "tokens",
        default=None,
    )
    empty_tokens_dropped: int | None = column(
        "masked tokens, of cameras the checkpoint declares empty, left out of the sequence: exact, "
        "and no pruning; 0 where they are kept",
        "tokens",
        default=0,
    )
    kept_visual: list[int] | None = column(
        "indices of the kept visual tokens; null: all were kept (pruned is false)"
    )
    fused_patches: int | None = column(
        "outputs of vision towers taken from an earlier call, each tower's patches counted; the "
        "towers ran in full, and the tokens stay",
        "patches",
        default=0,
    )
    llm_prefill_macs: int | None = column(
        "gated formula 4nd^2+2n^2d+3ndm summed over layers", "MAC"
    )
    total_flops: int | None = column(
        "2 x MAC of everything the networks and the method executed; preparing frames (resizing, "
        "JPEG) is not counted",
        "FLOP",
    )
    scoring_flops: int | None = column(
        "part of total_flops spent on scoring and probe layers", "FLOP"
    )
    counted_flops: int | None = column(
        "reading of torch.utils.flop_counter; null: this call was not sampled", "FLOP"
    )
    batch_size: int = column(
        "calls computed together, at its largest; latency is a claim only at 1", "calls", default=1
    )
    latency_preprocess_ms: float | None = column("frames and prompt to model input", "ms")
    latency_vision_ms: float | None = column("vision towers and projector", "ms")
    latency_scoring_ms: float | None = column(
        "scores, gate and selection, probe layers included", "ms"
    )
    latency_prefill_ms: float | None = column("decoder layers over the (pruned) sequence", "ms")
    latency_decode_ms: float | None = column(
        "autoregressive decode steps; 0 for parallel decoding", "ms"
    )
    latency_denoise_ms: float | None = column(
        "denoising steps of an action expert; 0 for other policies", "ms", default=0.0
    )
    latency_head_ms: float | None = column("action head and un-normalisation", "ms")
    latency_total_ms: float | None = column("the whole call, synchronised", "ms")
    round_trip_ms: float | None = column(
        "from request to reply, of a remote policy; null: the policy was not remote",
        "ms",
        default=None,
    )
    server_ms: float | None = column(
        "what the server of a remote policy says the call took it; null: it does not say, or the "
        "policy was not remote",
        "ms",
        default=None,
    )


@dataclass(frozen=True, kw_only=True)
class ActionChunk:
    """What a policy call returns."""

    actions: np.ndarray
    """(chunk, 7) float64, ready for the environment."""
    measures: CallMeasures


@dataclass(frozen=True, kw_only=True)
class CallTiming:
    """What the latency of a call did in simulated time. Null stands for calls of an episode whose
    process died, and for rows from before these columns."""

    drawn_latency_ms: float | None = column(
        "latency drawn for this call in simulated time; null: clock is stop", "ms", default=None
    )
    latency_steps: int | None = column(
        "control steps that passed between its observation and its chunk", "steps", default=None
    )
    stale_actions: int | None = column(
        "first actions of its chunk that were skipped, as their time had passed",
        "actions",
        default=None,
    )
    used: str | None = column(
        "used; unused: the episode ended before its first action; discarded: it came later than "
        "its chunk is long",
        default=None,
    )


@dataclass(frozen=True, kw_only=True)
class CallRow(CallMeasures, CallTiming):
    """One policy call, as written."""

    episode_id: str = column("the episode this call belongs to")
    call: int = column("index of the call within its episode, from 0")
    step: int = column("control steps executed before this call", "steps")
    warmup: bool = column(
        "first call of its method, batch size and sequence lengths in the server's process: left "
        "out of latency statistics"
    )
    eef_displacement: float | None = column(
        "path of the end effector between this call and the next: distances between its positions "
        "after successive control steps, held ones left out, summed; null: a row from before this "
        "column",
        "m",
    )


@dataclass(frozen=True, kw_only=True)
class EpisodeRow:
    """One episode, as written. Null means: not measured, for the reason its column gives."""

    # identity: what the episode is
    episode_id: str = column(
        "hash of what the episode is, never of when or where it ran", role=Role.NAME
    )
    run_id: str = column("hash of the options that can change a result", role=Role.PROVENANCE)
    suite: str = column("LIBERO suite", role=Role.PAIR, scene=True)
    task: int = column("task index within the suite, from 0", role=Role.PAIR, scene=True)
    task_name: str = column("LIBERO's name of the task", role=Role.NAME)
    instruction: str = column("language instruction given to the policy", role=Role.NAME)
    trial: int = column(
        "index of the fixed init state, from 0; where scenes are fresh, of a placement of LIBERO's "
        "own from 50 on",
        role=Role.PAIR,
        scene=True,
    )
    seed: int = column("policy seed", role=Role.PAIR)
    env_seed: int = column("seed of the task environment", role=Role.NAME, scene=True)
    protocol: str = column("evaluation protocol", role=Role.SETTING)
    scenes: str = column(
        "which scene a trial is: reference or fresh", role=Role.SETTING, scene=True
    )
    variants: str = column(
        "what is edited of scene, frames and words, and by how much, JSON; empty: nothing",
        role=Role.SETTING,
        scene=True,
        default="",
    )
    perturbation: str = column("the same in words; empty: nothing", role=Role.NAME, default="")
    suite_reading: str = column(
        "a perturbed suite as its paper means it, or as its code runs it",
        role=Role.SETTING,
        scene=True,
        default="paper",
    )
    dimension: str = column(
        "what a perturbed suite changed in this task; empty: nothing", role=Role.NAME, default=""
    )
    unpinned: str = column(
        "versions of the simulator that are not the pinned ones, JSON; empty: none",
        role=Role.SETTING,
        scene=True,
        default="",
    )
    max_steps: int = column("budget, settle steps not counted", "steps", Role.SETTING)
    execute_steps: int = column("actions executed open loop per call", "steps", Role.SETTING)
    clock: str = column(
        "what the robot does while a call runs: stop (the world waits), hold or async",
        role=Role.SETTING,
        default="stop",
    )
    latency: str = column(
        "how long calls take in simulated time: ms, or a digest of the file that says it; empty: "
        "clock is stop",
        role=Role.SETTING,
        default="",
    )
    tick: str = column(
        "parts of control steps that calls take: carried over (carry) or rounded up (ceil)",
        role=Role.SETTING,
        default="carry",
    )
    latency_source: str = column(
        "the same as it was asked for: ms or a file; empty: clock is stop",
        role=Role.NAME,
        default="",
    )
    repeat: int = column(
        "which rerun of the same episode: tells apart what only batch size, workers or chance may "
        "move",
        role=Role.SETTING,
        default=0,
    )
    method: str = column(
        "pruning method; of a remote policy what its server says, or unknown", role=Role.METHOD
    )
    method_options: str = column("all options of the method, JSON", role=Role.METHOD)
    keep: float | None = column("keep ratio asked for; null: the method has none", role=Role.NAME)
    policy: str = column("openvla, openvla-oft, pi0, pi05, smolvla or remote", role=Role.SETTING)
    checkpoint: str = column("checkpoint name, folder or hub id", role=Role.NAME)
    checkpoint_hash: str = column("hash over the checkpoint's files", role=Role.SETTING)
    checkpoint_trained: bool = column(
        "false: an untrained checkpoint, success means nothing", role=Role.NAME
    )
    assets: str = column("asset set: real or lite", role=Role.NAME)
    assets_hash: str = column("hash over the asset files", role=Role.SETTING, scene=True)
    # what happened
    status: str = column("ok, error or timeout, apart from success", role=Role.MEASURED)
    error: str | None = column("what went wrong; null: status is ok", role=Role.MEASURED)
    success: bool | None = column(
        "task predicate true after any step; null: status is not ok", role=Role.MEASURED
    )
    steps: int = column(
        "control steps executed, held ones counted, settle steps not; up to the last call if its "
        "process died",
        "steps",
        Role.MEASURED,
    )
    actions_hash: str | None = column(
        "hash of the actions given to the simulator, in order; null: its process died",
        role=Role.MEASURED,
    )
    calls: int = column("policy calls", "calls", Role.MEASURED)
    init_state_hash: str | None = column(
        "hash of the init state; null: failed before the reset", role=Role.MEASURED
    )
    scene_hash: str | None = column(
        "hash of simulator state and body poses at the init state; null: failed before the reset",
        role=Role.MEASURED,
    )
    frames_hash: str | None = column(
        "hash of the first frames, as rendered: another renderer or driver may differ by a pixel; "
        "null: failed before",
        role=Role.MEASURED,
    )
    warnings: list[str] = column("what the reader of this row must know", role=Role.MEASURED)
    # in simulated time (null: its process died, or a row from before these columns)
    held_steps: int | None = column(
        "of steps, those that held the pose, as no action was there; the policy's are the rest",
        "steps",
        Role.MEASURED,
        default=None,
    )
    stale_actions: int | None = column(
        "actions skipped, as their time had passed", "actions", Role.MEASURED, default=None
    )
    discarded_calls: int | None = column(
        "calls that came later than their chunks are long", "calls", Role.MEASURED, default=None
    )
    unused_calls: int | None = column(
        "calls of which the episode's end came before the first action; they cost what they cost",
        "calls",
        Role.MEASURED,
        default=None,
    )
    drawn_latency_mean_ms: float | None = column(
        "drawn_latency_ms per call; null: clock is stop", "ms", Role.MEASURED, default=None
    )
    time_to_success_s: float | None = column(
        "simulated time of the control steps up to success; clock stop leaves calls out; null: no "
        "success",
        "s",
        Role.MEASURED,
        default=None,
    )
    control_hz: float | None = column(
        "actions of the policy per second of simulated time; null: no step",
        "Hz",
        Role.MEASURED,
        default=None,
    )
    # quality of execution, over all control steps
    path_m: float | None = column("path of the end effector", "m", Role.MEASURED, default=None)
    rms_jerk: float | None = column(
        "root mean square of the end effector's jerk, third differences of its positions; null: "
        "fewer than three steps",
        "m/s^3",
        Role.MEASURED,
        default=None,
    )
    peak_speed: float | None = column(
        "highest speed of the end effector over a control step; null: no step",
        "m/s",
        Role.MEASURED,
        default=None,
    )
    gripper_switches: int | None = column(
        "changes of the gripper command between open and closed, open at first",
        role=Role.MEASURED,
        default=None,
    )
    # what it cost (means over the episode's calls; null: no call was made)
    pruned_call_fraction: float | None = column(
        "fraction of calls that were pruned; null: no call, or a remote policy's server does not "
        "say",
        role=Role.MEASURED,
    )
    visual_tokens_kept_mean: float | None = column(
        "visual tokens kept per call", "tokens", Role.MEASURED
    )
    empty_tokens_dropped_mean: float | None = column(
        "empty_tokens_dropped per call: a saving that is no pruning; null: no call, or a row from "
        "before this column",
        "tokens",
        Role.MEASURED,
        default=None,
    )
    llm_prefill_macs_mean: float | None = column("llm_prefill_macs per call", "MAC", Role.MEASURED)
    total_flops_mean: float | None = column("total_flops per call", "FLOP", Role.MEASURED)
    latency_p50_ms: float | None = column(
        "median call, warm-up excluded; null: no such call", "ms", Role.MEASURED
    )
    latency_mean_ms: float | None = column(
        "mean call, warm-up excluded; null: no such call", "ms", Role.MEASURED
    )
    round_trip_p50_ms: float | None = column(
        "median from request to reply, of a remote policy, warm-up excluded; null: not remote, or "
        "no such call",
        "ms",
        Role.MEASURED,
        default=None,
    )
    server_p50_ms: float | None = column(
        "median of what the server of a remote policy says its calls took, warm-up excluded; null: "
        "it does not say, or not remote",
        "ms",
        Role.MEASURED,
        default=None,
    )
    # how it was measured
    batch_size: int = column(
        "most episodes that shared a policy call of this one", "episodes", Role.PROVENANCE
    )
    workers: int = column(
        "simulator processes beside the policy's; 0: in its own process", role=Role.PROVENANCE
    )
    device: str = column("device of the model, with its name", role=Role.PROVENANCE)
    threads: int | None = column(
        "CPU threads of the model; null: a row from before this column",
        role=Role.PROVENANCE,
        default=None,
    )
    dtype: str = column("precision of the model", role=Role.SETTING)
    attention: str = column("attention backend", role=Role.SETTING)
    policy_options: str = column(
        "options of the policy's own, JSON: what stays in float32, masked cameras, state in the "
        "prompt, step of the action attention",
        role=Role.SETTING,
        default=NO_OPTIONS,
    )
    gl_backend: str = column("renderer: egl, osmesa or glfw", role=Role.PROVENANCE)
    sim: str = column(
        "simulator path taken: fast or reference, equal bit for bit", role=Role.PROVENANCE
    )
    self_check: str | None = column(
        "comparison of the fast path with robosuite's on this machine: passed, or what differs "
        "(the reference was taken then); null: not made",
        role=Role.PROVENANCE,
    )
    wall_s: float = column("wall time of the episode, reset included", "s", Role.MEASURED)
    reset_s: float | None = column("wall time of the reset; null: it failed", "s", Role.MEASURED)
    started_at: str = column("UTC start, ISO 8601", role=Role.PROVENANCE)
    versions: str = column("package versions, JSON", role=Role.PROVENANCE)
    git_revision: str | None = column(
        "revision of the source tree; null: not a git checkout", role=Role.PROVENANCE
    )


DEFAULTS = {
    kind: {f.name: f.default for f in fields(kind) if f.default is not MISSING}
    for kind in (EpisodeSpec, EpisodeRow)
}
"""Values that stand for what was, before a field or column joined."""


def columns(*roles: Role) -> tuple[str, ...]:
    """Names of the columns of `EpisodeRow` with one of these roles, in order."""
    return tuple(f.name for f in fields(EpisodeRow) if f.metadata["role"] in roles)


IDENTITY = columns(Role.PAIR, Role.SETTING, Role.METHOD)
"""Columns whose hash is an episode's id."""
SCENE = tuple(f.name for f in fields(EpisodeRow) if f.metadata["scene"])
"""Columns that determine the scene at an episode's begin."""
