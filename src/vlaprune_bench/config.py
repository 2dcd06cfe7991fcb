"""What an evaluation is: a frozen dataclass of four groups, flat on the command line and in YAML.

draccus stays inside this module (and the registry's base class): files are read and written here,
argv is tyro's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields, is_dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, get_args

import draccus
import yaml

from vlaprune_bench.files import expand_paths, read_text, user_path
from vlaprune_bench.measure.latencies import latency_name
from vlaprune_bench.policies import POLICIES, REMOTE
from vlaprune_bench.policies.declared import declared_protocol
from vlaprune_bench.pruning import Pruner, method_class
from vlaprune_bench.pruning.none import NoPruning
from vlaprune_bench.sim.suites import Reading
from vlaprune_bench.sim.tasks import base_suite, known_suites, list_tasks, select_tasks
from vlaprune_bench.sim.variants import parse, word
from vlaprune_bench.types import (
    N_TASKS,
    PROTOCOLS,
    ClockKind,
    EvalProtocol,
    SceneProtocol,
    SimPath,
    Tick,
    UserError,
)

T = TypeVar("T")
Video = Literal["none", "query", "all"]


def nearest(value: str, known: Any) -> str:
    """The tail of an error sentence: the nearest valid name, and all of them."""
    near = get_close_matches(str(value), list(known), n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"; {hint}there are: {', '.join(known) or 'none'}"


def _check_choice(name: str, value: str, known: Collection[str]) -> None:
    if value not in known:
        raise UserError(f"--{name.replace('_', '-')} is {value}{nearest(value, known)}.")


def _check_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise UserError(f"--{name.replace('_', '-')} is {value}; it must be at least {least}.")


PACE = {"pace": True}
"""Marks an option that says how fast results come, not what they are."""
LATER = {"later": True}
"""Marks an option that joined later: left out of a run's id where it has its default."""
CELL = {"cell": True}
"""Marks an option in which configurations may differ that share a loaded policy and an open
simulator."""


@dataclass(frozen=True)
class What:
    """What is run: suite, method, episodes, protocol, checkpoint, assets."""

    suite: str = "libero_spatial"
    """libero_spatial, libero_object, libero_goal, libero_10, libero_90, or a perturbed one of
    LIBERO-PRO or LIBERO-Plus, as libero_plus_spatial; see docs/variants.md."""
    pruner: Pruner = field(default=NoPruning(), metadata=CELL)
    """The pruning method with its options."""
    task_ids: tuple[int, ...] = field(default=(), metadata=CELL)
    """Tasks of the suite to run, from 0; empty: all."""
    trials: int = field(default=50, metadata=CELL)
    """Trials per task: the first so many of LIBERO's 50 fixed init states; of fresh scenes any
    number."""
    seed: int = field(default=7, metadata=CELL)
    """Policy seed."""
    protocol: str = "auto"
    """Evaluation protocol (settle steps, budgets, seeds, preprocessing, executed steps): openvla,
    lerobot, openpi, or auto: what the checkpoint was published with."""
    max_steps: int | None = field(default=None, metadata=CELL)
    """Control steps per episode; by default the protocol's budget for the suite."""
    execute_steps: int | None = field(default=None, metadata=CELL)
    """Actions of a chunk executed before the policy is called again; by default the protocol's, or
    where that leaves it open the checkpoint's (`n_action_steps`)."""
    scenes: SceneProtocol = "reference"
    """Which scene a trial is: reference (what the reference loop shows) or fresh (seeded alone)."""
    variants: tuple[str, ...] = field(default=(), metadata=LATER)
    """What is edited of the scenes, as camera:3,kind=orbit; several combine. docs/variants.md."""
    dimension: str | None = field(default=None, metadata=LATER | CELL)
    """Only tasks of a perturbed suite that are perturbed in this."""
    base_tasks: tuple[int, ...] = field(default=(), metadata=LATER | CELL)
    """Only tasks of a perturbed suite that come from these of the base suite; empty: from any."""
    suite_reading: Reading = field(default="paper", metadata=LATER)
    """A perturbed suite's tasks as its paper means them, or as its code runs them (code)."""
    clock: ClockKind = field(default="stop", metadata={**LATER, **CELL})
    """What the robot does while a call runs: stop (the world waits), hold (it holds its pose), or
    async (it goes on with the rest of its chunk). See docs/clock.md."""
    latency: str | None = field(default=None, metadata={**LATER, **CELL})
    """How long calls take in simulated time: ms, a profile's parquet, or a CSV of quantiles."""
    tick: Tick = field(default="carry", metadata={**LATER, **CELL})
    """The part of a control step (50 ms) that a call's latency leaves: carry it over to the next
    call, or ceil: round each call up."""
    checkpoint: str = "tiny"
    """A folder, a Hugging Face hub id, or an embedded one: `tiny` (trained; see docs/tiny.md),
    `tiny-untrained` or `tiny-openvla` (untrained)."""
    policy: str = "auto"
    """openvla, openvla-oft, pi0, pi05, smolvla, auto (what the checkpoint's files say), or remote:
    behind --url."""
    url: str | None = field(default=None, metadata=LATER)
    """Policy server of a remote policy, as ws://host:8000: see docs/serving.md."""
    dialect: Literal["openpi", "vla-eval", "auto"] = field(default="auto", metadata=LATER)
    """What the policy server speaks: openpi, vla-eval, or auto: found out."""
    policy_options: tuple[str, ...] = field(default=(), metadata=LATER)
    """Options of the policy's own, each key=value: see docs/policies.md."""
    cameras: int | None = field(default=None, metadata=LATER)
    """Cameras an OpenVLA-OFT was trained with, 1 or 2, which no file tells; by default 2."""
    repeat: int = field(default=0, metadata={**LATER, **CELL})
    """Which rerun of the same episodes this is, from 0: rows of reruns stand beside each other, and
    a report tells how many episodes flip (the noise floor)."""
    unnorm_key: str | None = field(default=None, metadata=LATER)
    """Key of the normalisation statistics in the checkpoint; by default the suite's."""
    assets: str = "auto"
    """Simulator assets: real, lite, a folder, or auto (what the checkpoint was made for)."""

    def __post_init__(self) -> None:
        _check_choice("suite", self.suite, known_suites())
        _check_choice("suite_reading", self.suite_reading, get_args(Reading))
        _check_choice("protocol", self.protocol, ("auto", *PROTOCOLS))
        _check_choice("scenes", self.scenes, get_args(SceneProtocol))
        _check_choice("policy", self.policy, ("auto", *POLICIES))
        _check_choice("dialect", self.dialect, ("openpi", "vla-eval", "auto"))
        self._check_remote()
        self._check_clock()
        if self.suite in N_TASKS:
            self._check_tasks(N_TASKS[self.suite])
        words = tuple(word(parse(text, "--variants")) for text in self.variants)
        object.__setattr__(self, "variants", words)  # equal variants are equal options
        if len(set(self.task_ids)) < len(self.task_ids):
            raise UserError(f"--task-ids is {self.task_ids}; each task may be named once.")
        _check_least("trials", self.trials, 1)
        if self.trials > 50 and self.scenes == "reference":
            raise UserError(
                f"--trials is {self.trials}; LIBERO has 50 init states: give 1 to 50, or "
                "--scenes fresh, which has no last one."
            )
        for name in ("max_steps", "execute_steps"):
            if getattr(self, name) is not None:
                _check_least(name, getattr(self, name), 1)
        _check_least("repeat", self.repeat, 0)
        if self.cameras not in (None, 1, 2):
            raise UserError(f"--cameras is {self.cameras}; LIBERO has 2: give 1 or 2.")

    def _check_tasks(self, n_tasks: int) -> None:
        """What is said of the tasks of one of LIBERO's own suites."""
        for task in self.task_ids:
            if not 0 <= task < n_tasks:
                raise UserError(
                    f"--task-ids has {task}; the tasks of {self.suite} are 0 to {n_tasks - 1}."
                )
        for name in ("dimension", "base_tasks"):
            if value := getattr(self, name):
                raise UserError(
                    f"--{name.replace('_', '-')} is {value}; {self.suite} is not perturbed: "
                    "--variants perturbs it."
                )

    def _check_remote(self) -> None:
        """A remote policy has a server and nothing that the server decides; another has neither."""
        if self.policy != REMOTE:
            for name in ("url", "dialect"):
                if (value := getattr(self, name)) != getattr(What, name):
                    raise UserError(f"--{name} is {value}; only --policy remote has a server.")
            return
        if self.url is None:
            raise UserError("--policy is remote; give its server, as --url ws://host:8000.")
        if not self.url.startswith(("ws://", "wss://")):
            raise UserError(f"--url is {self.url}; it must be like ws://host:8000.")
        if not isinstance(self.pruner, NoPruning):
            raise UserError(
                f"--method is {self.pruner.name}; a remote policy prunes where it runs "
                "(vlaprune-serve --method): leave it out here."
            )
        for name in ("checkpoint", "policy_options", "cameras", "unnorm_key"):
            if (value := getattr(self, name)) != getattr(What, name):
                raise UserError(
                    f"--{name.replace('_', '-')} is {value}; a remote policy's server decides that."
                )

    def _check_clock(self) -> None:
        """Simulated time has a latency, and a world that waits has none."""
        _check_choice("clock", self.clock, get_args(ClockKind))
        _check_choice("tick", self.tick, get_args(Tick))
        if self.clock == "stop":
            for name in ("latency", "tick"):
                if (value := getattr(self, name)) != getattr(What, name):
                    raise UserError(
                        f"--{name} is {value}; with --clock stop the world waits for calls: give "
                        "--clock hold or async."
                    )
        elif self.latency is None:
            raise UserError(
                f"--clock is {self.clock}; give --latency: ms, a profile's parquet, or a CSV of "
                "quantiles."
            )
        else:
            object.__setattr__(self, "latency", latency_name(self.latency))

    @property
    def tasks(self) -> tuple[int, ...]:
        """The tasks to run, in order.

        Raises:
            UserError: of a perturbed suite: what is asked for is not there, or its data is not.
        """
        if self.suite in N_TASKS:
            return self.task_ids or tuple(range(N_TASKS[self.suite]))
        return select_tasks(self.suite, self.dimension, self.base_tasks, self.task_ids)

    @property
    def n_trials(self) -> int:
        """Trials of each task: a perturbed suite may have fewer than are asked for."""
        if self.suite in N_TASKS or not self.tasks:
            return self.trials
        most = list_tasks(self.suite, self.suite_reading)[self.tasks[0]].max_trials
        return min(self.trials, most or self.trials)

    @property
    def base_suite(self) -> str:
        """The LIBERO suite this one comes from: its checkpoint, statistics and budget are used."""
        return base_suite(self.suite)

    @property
    def budget(self) -> int:
        """Control steps an episode may take."""
        return self.max_steps or self.evaluation.budgets[self.base_suite]

    @property
    def evaluation(self) -> EvalProtocol:
        """The protocol, the checkpoint's own (or the dialect's) where it is not named."""
        if self.protocol == "auto" and self.policy == REMOTE:
            return PROTOCOLS["openvla" if self.dialect == "vla-eval" else "openpi"]
        if self.protocol == "auto":
            return declared_protocol(self.checkpoint)
        return PROTOCOLS[self.protocol]


@dataclass(frozen=True)
class Compute:
    """How it is computed: device, precision, simulator, workers."""

    device: str = "auto"
    """cpu, cuda, cuda:N or auto."""
    dtype: str = "auto"
    """float32, bfloat16, float16 or auto (bfloat16 on CUDA, float32 on CPU)."""
    attention: str = "sdpa"
    """Attention backend of the language model: sdpa or eager."""
    threads: int | Literal["auto"] = field(default="auto", metadata=PACE)
    """CPU threads of the model, or auto: one for a small model, else the cores that simulators
    leave (OMP_NUM_THREADS, where it is set)."""
    count_flops_every: int = 0
    """Check every n-th call's FLOPs with torch.utils.flop_counter; 0: never."""
    allow_unpinned: bool = field(default=False, metadata=PACE)
    """Run on a simulator of other versions than the pinned ones: other episodes, with a warning."""
    sim: SimPath = field(default="fast", metadata=PACE)
    """Simulator path: fast, or reference (robosuite's own stepping). Equal bit for bit."""
    workers: int | Literal["auto"] = field(default=1, metadata=PACE)
    """Simulator processes beside the policy's, or auto (cores and memory say); 0: in this one."""
    batch: int = field(default=1, metadata=PACE)
    """Episodes a policy call may serve; latency is a claim only at 1."""
    episode_timeout: float = field(default=300.0, metadata=PACE)
    """Seconds a simulator may be silent before its episode ends with status timeout."""

    def __post_init__(self) -> None:
        _check_choice("dtype", self.dtype, ("auto", "float32", "bfloat16", "float16"))
        _check_choice("attention", self.attention, ("sdpa", "eager"))
        _check_choice("sim", self.sim, get_args(SimPath))
        _check_least("count_flops_every", self.count_flops_every, 0)
        if self.workers != "auto" and self.workers < 0:
            raise UserError(f"--workers is {self.workers}; it must be auto, or 0 or more.")
        if self.threads != "auto" and self.threads < 1:
            raise UserError(f"--threads is {self.threads}; it must be auto, or 1 or more.")
        _check_least("batch", self.batch, 1)
        if self.episode_timeout <= 0:
            raise UserError(f"--episode-timeout is {self.episode_timeout}; give seconds above 0.")


@dataclass(frozen=True)
class Storage:
    """Where results go: folder and videos."""

    output: Path = field(default=Path("results/runs"), metadata=PACE)
    """Folder of parquet the rows are added to; episodes it already holds are not run again."""
    video: Video = field(default="none", metadata=PACE)
    """none, query (a frame per policy call) or all (a frame per control step)."""

    def __post_init__(self) -> None:
        expand_paths(self)
        _check_choice("video", self.video, get_args(Video))


@dataclass(frozen=True)
class Tracking:
    """Where rows are mirrored: Weights & Biases."""

    wandb: bool = field(default=False, metadata=PACE)
    """Mirror episode rows to Weights & Biases."""
    wandb_project: str = field(default="vlaprune-bench", metadata=PACE)
    """Project name on Weights & Biases."""
    wandb_entity: str | None = field(default=None, metadata=PACE)
    """User or team on Weights & Biases; by default yours."""
    wandb_group: str | None = field(default=None, metadata=PACE)
    """Group of runs on Weights & Biases; a sweep's is its file's name."""


@dataclass(frozen=True)
class EvalConfig:
    """One evaluation: a checkpoint, a pruning method, a suite.

    Its groups keep what belongs together; in files and on the command line all options are flat.
    """

    what: What = What()
    compute: Compute = Compute()
    storage: Storage = Storage()
    tracking: Tracking = Tracking()

    @classmethod
    def of(cls, **options: Any) -> EvalConfig:
        """A configuration of options, whatever their groups; those left out have their defaults."""
        return cls().but(**options)

    def __post_init__(self) -> None:
        if self.what.policy == REMOTE:
            for name in ("device", "dtype", "attention", "threads", "count_flops_every"):
                if (value := getattr(self.compute, name)) != getattr(Compute, name):
                    flag = name.replace("_", "-")
                    raise UserError(f"--{flag} is {value}; a remote policy's server decides that.")

    def but(self, **options: Any) -> EvalConfig:
        """This configuration with other values of some options, whatever their groups."""
        groups: dict[str, dict[str, Any]] = {}
        for name, value in options.items():
            groups.setdefault(GROUP_OF[name], {})[name] = value
        changed = {g: replace(getattr(self, g), **values) for g, values in groups.items()}
        return replace(self, **changed)


OPTIONS: dict[str, Field[Any]] = {
    f.name: f for group in fields(EvalConfig) for f in fields(cast(Any, group.default))
}
"""Every option of an evaluation by its name."""
GROUP_OF = {f.name: g.name for g in fields(EvalConfig) for f in fields(cast(Any, g.default))}
"""The group each option is in."""


def world(config: EvalConfig) -> EvalConfig:
    """What cells must share to run on one policy and in one simulator, the rest at defaults."""
    defaults = {name: f.default for name, f in OPTIONS.items() if f.metadata.get("cell")}
    return EvalConfig(config.what, config.compute).but(**defaults)


def to_dict(config: EvalConfig) -> dict[str, Any]:
    """The configuration as plain data, all options flat, ready for YAML or JSON."""
    return {k: v for group in draccus.encode(config).values() for k, v in group.items()}


def method_options(pruner: Pruner) -> dict[str, Any]:
    """A method's options as plain data, its name left out."""
    encoded = dict(draccus.encode(pruner, Pruner))
    encoded.pop("type")
    return encoded


def flatten(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested data with dotted keys: {"gate": {"rule": "avg"}} is {"gate.rule": "avg"}."""
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def labels(configs: Sequence[EvalConfig], suite: bool = True) -> list[str]:
    """A short name for each: suite, method, keep, and the options in which those of one method
    differ. Options that differ only with the suite (a checkpoint for each) are left out."""
    outer = [(c.what.suite, without_pace(to_dict(c))) for c in configs]
    inner = [(c.what.pruner.name, flatten(method_options(c.what.pruner))) for c in configs]
    of_suite, of_method = _varying(outer), _varying(inner)
    shown = set().union(*of_suite.values()) - {"pruner"}
    names = []
    for config, (_, options), (method, own) in zip(configs, outer, inner, strict=True):
        keep = config.what.pruner.keep_ratio
        parts = [config.what.suite] if suite and len(of_suite) > 1 else []
        parts += [method] if keep is None else [method, f"keep {keep:g}"]
        parts += [f"{name} {value}" for name, value in options.items() if name in shown]
        varying = of_method[method] - {"keep"}
        parts += [f"{k.rpartition('.')[2]} {value}" for k, value in own.items() if k in varying]
        names.append(" ".join(parts))
    return names


def _varying(of: Sequence[tuple[str, dict[str, Any]]]) -> dict[str, set[str]]:
    """For each name, the keys that are not the same in all its data."""
    found: dict[str, set[str]] = {}
    for name in dict(of):
        data = [one for other, one in of if other == name]
        keys = {key for one in data for key in one}
        found[name] = {key for key in keys if len({repr(one.get(key)) for one in data}) > 1}
    return found


def dump(config: EvalConfig) -> str:
    """YAML that `load` reads back to an equal object."""
    return yaml.safe_dump(to_dict(config), sort_keys=False)


def load(path: Path) -> EvalConfig:
    """Read a YAML file.

    Raises:
        UserError: the file is missing, is no YAML mapping, or has a key or value that is not known.
    """
    return from_dict(read_yaml(path, "--config"), str(path))


TAG_ERRORS = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What PyYAML raises, besides its own, on values that do not fit their tags, as 2026-13-01."""


def read_yaml(path: Path, flag: str) -> dict[str, Any]:
    """The mapping in a YAML file, which was the value of `flag`.

    Raises:
        UserError: the file is missing, is no UTF-8 or holds no mapping.
    """
    text = read_text(user_path(path), flag)
    try:
        data = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, *TAG_ERRORS) as error:
        why = " ".join(str(error).split()).rstrip(".")
        raise UserError(f"{flag} is {path}; it is not valid YAML: {why}.") from error
    if not isinstance(data, dict):
        raise UserError(f"{flag} is {path}; it must hold a mapping of options.")
    for key in data:
        if not isinstance(key, str):
            raise UserError(f"{flag} is {path}; its key {key} must be the name of an option.")
    return data


def from_dict(data: dict[str, Any], source: str) -> EvalConfig:
    """Build a configuration from plain data, refusing what nobody reads.

    Args:
        data: as `to_dict` gives it; what is left out has its default.
        source: where the data came from, for error sentences.

    Raises:
        UserError: an unknown key or a value of the wrong kind.
    """
    _check_keys(data, OPTIONS, source)
    groups: dict[str, dict[str, Any]] = {}
    for key, value in data.items():
        groups.setdefault(GROUP_OF[key], {})[key] = value
    return decode(EvalConfig, groups, source)


def decode(cls: type[T], data: dict[str, Any], source: str) -> T:
    """Plain data, its keys known, as an object of a dataclass.

    Raises:
        UserError: a value of the wrong kind.
    """
    try:
        return draccus.decode(cls, data)
    except (draccus.utils.DecodingError, draccus.utils.ParsingError) as error:
        # draccus wraps what __post_init__ raised; the sentence inside is the one for the user
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, UserError):
                raise cause from error
            cause = cause.__cause__ or cause.__context__
        path = tuple(getattr(error, "key_path", ()))
        where = ".".join(path[cls is EvalConfig :]) or "a value"  # groups are ours alone
        why = " ".join(str(getattr(error, "message", error)).split())
        raise UserError(f"{source}: {where} cannot be read: {why}") from error


def _check_keys(data: dict[str, Any], known: Mapping[str, Field[Any]], source: str) -> None:
    for key, value in data.items():
        if key not in known:
            raise UserError(f"{source}: unknown key {key}{nearest(key, known)}.")
        default, kind = known[key].default, str(known[key].type)
        # draccus would take a word for a list of letters, and write a list down as a word
        if kind.startswith("tuple") and isinstance(value, str | dict):
            raise UserError(f"{source}: {key} is {value}; it must be a list.")
        if kind.startswith(("str", "Path")) and isinstance(value, list | dict):
            raise UserError(f"{source}: {key} is {value}; it must be text.")
        if isinstance(default, Pruner):
            _check_pruner(value, key, source)
        elif isinstance(value, dict) and is_dataclass(default):
            _check_keys(value, _fields(default), f"{source}: {key}")


def _fields(of: Any) -> dict[str, Field[Any]]:
    return {f.name: f for f in fields(of)}


def _check_pruner(data: Any, key: str, source: str) -> None:
    """Check a method's options; methods may hold other methods."""
    if not isinstance(data, dict) or "type" not in data:
        raise UserError(f"{source}: {key} must be a mapping with a `type`, the method's name.")
    options = {name: value for name, value in data.items() if name != "type"}
    _check_keys(options, _fields(method_class(data["type"])), f"{source}: {key}")


def run_id(config: EvalConfig) -> str:
    """Hash of everything in the configuration that can change a result, 12 hex digits."""
    data = without_pace(to_dict(config))
    plain = to_dict(EvalConfig())
    for name in [n for n in data if OPTIONS[n].metadata.get("later") and data[n] == plain[n]]:
        del data[name]
    return digest({**data, "protocol": config.what.evaluation.name})


def without_pace(data: dict[str, Any]) -> dict[str, Any]:
    """Those of some options that can change a result."""
    return {k: v for k, v in data.items() if not OPTIONS[k].metadata.get("pace")}


def digest(data: Any) -> str:
    """Hash of plain data, 12 hex digits, the same on every machine."""
    return hashlib.sha256(canonical(data).encode()).hexdigest()[:12]


def canonical(data: Any) -> str:
    """Plain data as text, the same on every machine."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), default=str)
