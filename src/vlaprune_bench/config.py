"""What an evaluation is: one frozen dataclass, the same on the command line and in YAML.

draccus stays inside this module (and the registry's base class): files are read and written here,
argv is tyro's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import draccus
import yaml

from vlaprune_bench.pruning import Pruner, method_class
from vlaprune_bench.pruning.none import NoPruning
from vlaprune_bench.types import PROTOCOLS, SUITES, SceneProtocol, SimPath, UserError

T = TypeVar("T")
Video = Literal["none", "query", "all"]

NOT_IDENTITY = frozenset(
    "output video sim workers batch episode_timeout "
    "wandb wandb_project wandb_entity wandb_group".split()
)
"""Fields that say where results go or how fast they come, not what they are."""


@dataclass(frozen=True)
class EvalConfig:
    """One evaluation: a checkpoint, a pruning method, a suite."""

    suite: str = "libero_spatial"
    """libero_spatial, libero_object, libero_goal, libero_10 or libero_90."""
    pruner: Pruner = NoPruning()
    """The pruning method with its options."""
    task_ids: tuple[int, ...] = ()
    """Tasks of the suite to run, from 0; empty: all."""
    trials: int = 50
    """Trials per task: the first so many of LIBERO's 50 fixed init states."""
    seed: int = 7
    """Policy seed."""
    protocol: str = "openvla"
    """Evaluation protocol: settle steps, budgets, preprocessing, executed steps."""
    max_steps: int | None = None
    """Control steps per episode; by default the protocol's budget for the suite."""
    execute_steps: int | None = None
    """Actions of a chunk executed before the policy is called again; by default the protocol's."""
    scenes: SceneProtocol = "reference"
    """Which scene a trial is: reference (what the reference loop shows) or fresh (seeded alone)."""
    sim: SimPath = "fast"
    """Simulator path: fast, or reference (robosuite's own stepping). Equal bit for bit."""
    checkpoint: str = "tiny"
    """A folder, a Hugging Face hub id, or an embedded one: `tiny` (trained; see docs/tiny.md),
    `tiny-untrained` or `tiny-openvla` (untrained)."""
    policy: str = "auto"
    """openvla, openvla-oft, or auto: what the checkpoint's files say."""
    cameras: int | None = None
    """Cameras an OpenVLA-OFT was trained with, 1 or 2, which no file tells; by default 2."""
    unnorm_key: str | None = None
    """Key of the normalisation statistics in the checkpoint; by default the suite's."""
    device: str = "auto"
    """cpu, cuda, cuda:N or auto."""
    dtype: str = "auto"
    """float32, bfloat16, float16 or auto (bfloat16 on CUDA, float32 on CPU)."""
    attention: str = "sdpa"
    """Attention backend of the language model: sdpa or eager."""
    assets: str = "auto"
    """Simulator assets: real, lite, a folder, or auto (what the checkpoint was made for)."""
    count_flops_every: int = 0
    """Check every n-th call's FLOPs with torch.utils.flop_counter; 0: never."""
    workers: int | Literal["auto"] = 1
    """Simulator processes beside the policy's, or auto (cores and memory say); 0: in this one."""
    batch: int = 1
    """Episodes a policy call may serve; latency is a claim only at 1."""
    episode_timeout: float = 300.0
    """Seconds a simulator may be silent before its episode ends with status timeout."""
    output: Path = Path("results/runs")
    """Folder of parquet the rows are added to; episodes it already holds are not run again."""
    video: Video = "none"
    """none, query (a frame per policy call) or all (a frame per control step)."""
    wandb: bool = False
    """Mirror episode rows to Weights & Biases."""
    wandb_project: str = "vlaprune-bench"
    """Project name on Weights & Biases."""
    wandb_entity: str | None = None
    """User or team on Weights & Biases; by default yours."""
    wandb_group: str | None = None
    """Group of runs on Weights & Biases; a sweep's is its file's name."""

    def __post_init__(self) -> None:
        if self.suite not in SUITES:
            raise UserError(f"--suite is {self.suite}{nearest(self.suite, SUITES)}.")
        if self.protocol not in PROTOCOLS:
            raise UserError(f"--protocol is {self.protocol}{nearest(self.protocol, PROTOCOLS)}.")
        n_tasks = 90 if self.suite == "libero_90" else 10
        for task in self.task_ids:
            if not 0 <= task < n_tasks:
                raise UserError(
                    f"--task-ids has {task}; the tasks of {self.suite} are 0 to {n_tasks - 1}."
                )
        if len(set(self.task_ids)) < len(self.task_ids):
            raise UserError(f"--task-ids is {self.task_ids}; each task may be named once.")
        if not 1 <= self.trials <= 50:
            raise UserError(f"--trials is {self.trials}; LIBERO has 50 init states: give 1 to 50.")
        if self.max_steps is not None and self.max_steps < 1:
            raise UserError(f"--max-steps is {self.max_steps}; it must be at least 1.")
        if self.execute_steps is not None and self.execute_steps < 1:
            raise UserError(f"--execute-steps is {self.execute_steps}; it must be at least 1.")
        if self.cameras not in (None, 1, 2):
            raise UserError(f"--cameras is {self.cameras}; LIBERO has 2: give 1 or 2.")
        if self.count_flops_every < 0:
            raise UserError(f"--count-flops-every is {self.count_flops_every}; 0 or more is right.")
        if self.workers != "auto" and self.workers < 0:
            raise UserError(f"--workers is {self.workers}; it must be auto, or 0 or more.")
        if self.batch < 1:
            raise UserError(f"--batch is {self.batch}; it must be at least 1.")
        if self.episode_timeout <= 0:
            raise UserError(f"--episode-timeout is {self.episode_timeout}; give seconds above 0.")
        for key, value, known in (
            ("dtype", self.dtype, ("auto", "float32", "bfloat16", "float16")),
            ("attention", self.attention, ("sdpa", "eager")),
            ("policy", self.policy, ("auto", "openvla", "openvla-oft")),
            ("video", self.video, ("none", "query", "all")),
            ("scenes", self.scenes, get_args(SceneProtocol)),
            ("sim", self.sim, get_args(SimPath)),
        ):
            if value not in known:
                raise UserError(f"--{key} is {value}{nearest(value, known)}.")

    @property
    def tasks(self) -> tuple[int, ...]:
        """The tasks to run, in order."""
        return self.task_ids or tuple(range(90 if self.suite == "libero_90" else 10))

    @property
    def budget(self) -> int:
        """Control steps an episode may take."""
        return self.max_steps or PROTOCOLS[self.protocol].budgets[self.suite]

    @property
    def executed(self) -> int:
        """Actions of a chunk executed before the policy is called again."""
        return self.execute_steps or PROTOCOLS[self.protocol].execute_steps


def nearest(value: str, known: Any) -> str:
    """The tail of an error sentence: the nearest valid name, and all of them."""
    near = get_close_matches(str(value), list(known), n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"; {hint}there are: {', '.join(known) or 'none'}"


def to_dict(config: Any) -> dict[str, Any]:
    """The configuration as plain data, ready for YAML or JSON."""
    return draccus.encode(config)


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
    outer = [flatten({**to_dict(c), "pruner": c.pruner.name}) for c in configs]
    inner = [flatten(method_options(c.pruner)) for c in configs]
    by_suite: dict[str, list[dict[str, Any]]] = {}
    by_method: dict[str, list[dict[str, Any]]] = {}
    for config, one, options in zip(configs, outer, inner, strict=True):
        by_suite.setdefault(config.suite, []).append(one)
        by_method.setdefault(config.pruner.name, []).append(options)
    varying = {k for group in by_suite.values() for k in _varying(group)} - {
        *NOT_IDENTITY,
        "pruner",
    }
    own = {name: _varying(group) for name, group in by_method.items()}
    names = []
    for config, one, options in zip(configs, outer, inner, strict=True):
        keep = config.pruner.keep_ratio
        parts = [config.suite if suite and len(by_suite) > 1 else "", config.pruner.name]
        parts += ["" if keep is None else f"keep {keep:g}"]
        shown = {k: one[k] for k in one if k in varying}
        shown |= {k: options[k] for k in own[config.pruner.name] if k in options and k != "keep"}
        parts += [f"{key.rsplit('.', 1)[-1]} {value}" for key, value in shown.items()]
        names.append(" ".join(part for part in parts if part))
    return names


def _varying(data: Sequence[dict[str, Any]]) -> list[str]:
    """Keys that are not the same in all of these."""
    keys = dict.fromkeys(key for one in data for key in one)
    return [key for key in keys if len({repr(one.get(key)) for one in data}) > 1]


def dump(config: EvalConfig) -> str:
    """YAML that `load` reads back to an equal object."""
    return yaml.safe_dump(to_dict(config), sort_keys=False)


def load(path: Path) -> EvalConfig:
    """Read a YAML file.

    Raises:
        UserError: the file is missing, is no YAML mapping, or has a key or value that is not known.
    """
    return from_dict(read_yaml(path, "--config"), str(path))


def read_yaml(path: Path, flag: str) -> dict[str, Any]:
    """The mapping in a YAML file, which was the value of `flag`.

    Raises:
        UserError: the file is missing or holds no mapping.
    """
    try:
        data = yaml.load(path.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except OSError as error:
        raise UserError(f"{flag} is {path}; it cannot be read: {error.strerror}.") from error
    except yaml.YAMLError as error:
        line = str(error).replace("\n", " ")
        raise UserError(f"{flag} is {path}; it is not valid YAML: {line}.") from error
    if not isinstance(data, dict):
        raise UserError(f"{flag} is {path}; it must hold a mapping of options.")
    return data


def from_dict(data: dict[str, Any], source: str) -> EvalConfig:
    """Build a configuration from plain data, refusing what nobody reads.

    Args:
        data: as `to_dict` gives it; what is left out has its default.
        source: where the data came from, for error sentences.

    Raises:
        UserError: an unknown key or a value of the wrong kind.
    """
    _check_keys(data, EvalConfig, source)
    return decode(EvalConfig, data, source)


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
        where = ".".join(getattr(error, "key_path", ())) or "a value"
        why = " ".join(str(getattr(error, "message", error)).split())
        raise UserError(f"{source}: {where} cannot be read: {why}") from error


def _check_keys(data: dict[str, Any], cls: type, source: str) -> None:
    known = {f.name: f for f in fields(cls)}
    for key, value in data.items():
        if key not in known:
            raise UserError(f"{source}: unknown key {key}{nearest(key, known)}.")
        default = known[key].default
        if isinstance(default, Pruner):
            _check_pruner(value, key, source)
        elif isinstance(value, dict) and is_dataclass(default):
            _check_keys(value, type(default), f"{source}: {key}")


def _check_pruner(data: Any, key: str, source: str) -> None:
    """Check a method's options; methods may hold other methods."""
    if not isinstance(data, dict) or "type" not in data:
        raise UserError(f"{source}: {key} must be a mapping with a `type`, the method's name.")
    options = {name: value for name, value in data.items() if name != "type"}
    _check_keys(options, method_class(data["type"]), f"{source}: {key}")


def run_id(config: EvalConfig) -> str:
    """Hash of everything in the configuration that can change a result, 12 hex digits."""
    identity = {k: v for k, v in to_dict(config).items() if k not in NOT_IDENTITY}
    return digest(identity)


def digest(data: Any) -> str:
    """Hash of plain data, 12 hex digits, the same on every machine."""
    return hashlib.sha256(canonical(data).encode()).hexdigest()[:12]


def canonical(data: Any) -> str:
    """Plain data as text, the same on every machine."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), default=str)
