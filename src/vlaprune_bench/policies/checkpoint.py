"""Read a checkpoint in the layout OpenVLA and OpenVLA-OFT are published in (LeRobot's: see `flow`).

    config.json, model.safetensors (or shards with model.safetensors.index.json),
    dataset_statistics.json, tokenizer.json,
    action_head--*_checkpoint.pt and proprio_projector--*_checkpoint.pt (OpenVLA-OFT)

Every file is checked when the folder is found, before anything large is read (see `folder` and
`settings`). Nothing in a checkpoint is executed: weights are safetensors, or `.pt` files read with
`weights_only=True`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from vlaprune_bench.files import user_path
from vlaprune_bench.policies.device import check_room
from vlaprune_bench.policies.folder import (
    LEROBOT_READ,
    MODEL,
    READ,
    claims,
    files,
    refuse_other_kinds,
    refuse_unclaimed,
    refuse_unreadable,
)
from vlaprune_bench.policies.hub import fetch
from vlaprune_bench.policies.settings import (
    Normalization,
    check_generation,
    check_processor_config,
    check_tokenizer_config,
    read_config,
    read_lerobot_config,
    read_normalization,
    usable_tokenizer,
)
from vlaprune_bench.policies.weights import (
    compare,
    finite,
    first_line,
    read_safetensors,
    read_state_dict,
    reading,
    ready,
    shapes,
    stored_shapes,
)
from vlaprune_bench.types import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

M = TypeVar("M", bound=nn.Module)
TINY, TINY_OPENVLA = "tiny-untrained", "tiny-openvla-untrained"
TRAINED = {
    "tiny": {f"libero_{name}": f"tiny-{name}" for name in ("spatial", "object", "goal")},
    "tiny-smolvla": {"libero_object": "tiny-smolvla-object"},
}
"""Trained families: one checkpoint a suite, as the published OpenVLA-OFT ones are."""
TINY_FLOW = {kind: f"tiny-{kind}-untrained" for kind in ("pi0", "pi05", "smolvla")}
EMBEDDED = {TINY: TINY, "tiny-openvla": TINY_OPENVLA} | {
    name: name
    for name in (*TINY_FLOW.values(), *(n for family in TRAINED.values() for n in family.values()))
}
"""Checkpoints that come with the package, by the names users give them; and families."""
_SHARD = re.compile(r"model[\w.-]*\.safetensors")
OFT_CODE = "proprio_projector"
"""A word in OpenVLA-OFT's modeling_prismatic.py that OpenVLA's does not have."""
HASH_WHOLE = 64 * 2**20
"""Files up to this many bytes are hashed in full."""
HASH_BLOCK, HASH_BLOCKS = 2**20, 64


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint folder; tensors are read where they are asked for."""

    source: str
    """What the user asked for: a folder, a hub id or the name of the embedded one."""
    folder: Path

    @classmethod
    def find(cls, source: str, suite: str = "libero_spatial") -> Checkpoint:
        """Locate a checkpoint.

        Args:
            source: a folder; a Hugging Face hub id; the short or full name of an embedded one.
            suite: which of those that a family stands for.

        Raises:
            UserError: there is none, or it cannot be fetched.
        """
        if family := TRAINED.get(source):
            if suite not in family:
                raise UserError(
                    f"--suite is {suite}; checkpoint {source} is trained on {', '.join(family)} "
                    f"(--checkpoint {TINY} runs on every suite)."
                )
            source = family[suite]
        embedded = EMBEDDED.get(source, source)
        if embedded in EMBEDDED.values():
            return cls(embedded, Path(__file__).parents[1] / "checkpoints" / embedded)
        folder = user_path(source)
        if not folder.is_dir():
            if not re.fullmatch(r"[\w.-]+/[\w.-]+", source):
                raise UserError(
                    f"--checkpoint is {source}; it must be a folder, a hub id like owner/name, or "
                    f"{' or '.join((*TRAINED, *EMBEDDED))}."
                )
            folder = fetch(source)
        found = cls(source, folder)
        found.check()
        return found

    def check(self) -> None:
        """Read every small file and look at every name, so that what is wrong is said first.

        Raises:
            UserError: a file is missing, damaged, nobody's, or says what cannot be done.
        """
        names = files(self.folder)
        if not any(re.fullmatch(r"model.*\.safetensors", name) for name in names):
            refuse_other_kinds(self.source, names)
        if "config.json" not in names:
            raise UserError(
                f"--checkpoint is {self.source}; there is no config.json in {self.folder}."
            )
        refuse_unreadable(self.folder / "config.json", self.source)  # it says the layout
        for name in names:
            if claims(name, self.read):
                refuse_unreadable(self.folder / name, self.source)
        _ = self.config
        weights = [path.name for path in self._weight_files()]
        claimed = [name for name in self.read if name != MODEL] + weights
        refuse_unclaimed(self.source, names, claimed)
        if self.is_lerobot:
            return  # its processors are read by the policy, before its weights
        for name, look in (
            ("generation_config.json", check_generation),
            ("tokenizer_config.json", check_tokenizer_config),
            ("processor_config.json", check_processor_config),
        ):
            if name in names:
                look(self._json(name), f"checkpoint {self.source}: {name}")
        _ = self.statistics
        if "tokenizer.json" in names:
            _ = self.tokenizer

    def check_for(self, suite: str, unnorm_key: str | None = None) -> None:
        """Check what an evaluation on a suite needs beside the weights.

        Raises:
            UserError: no statistics of that suite, it was trained on others, or no tokenizer.
        """
        config = self.config
        if self.is_lerobot:
            config = read_lerobot_config(config, f"checkpoint {self.source}: config.json")
        suites = config.get("vlaprune", {}).get("suites", [suite])
        if suite not in suites:
            raise UserError(
                f"--suite is {suite}; checkpoint {self.source} is trained on {', '.join(suites)}."
            )
        if self.is_lerobot:
            return
        self.suite_statistics(suite, unnorm_key)
        _ = self.tokenizer

    @cached_property
    def is_lerobot(self) -> bool:
        """Whether the layout is LeRobot's: only its config.json names a policy's type."""
        return "type" in self._json("config.json")

    @property
    def read(self) -> tuple[str, ...]:
        """Names of the files that the policy is made of, by its layout."""
        return LEROBOT_READ if self.is_lerobot else READ

    @cached_property
    def config(self) -> dict[str, Any]:
        """config.json; OpenVLA's is checked, see `settings.read_config`."""
        if self.is_lerobot:
            return self._json("config.json")
        return read_config(self._json("config.json"), f"checkpoint {self.source}: config.json")

    @cached_property
    def statistics(self) -> dict[str, Any]:
        """Normalisation statistics by dataset: dataset_statistics.json, else config.json's."""
        name, found = "dataset_statistics.json", self.config.get("norm_stats", {})
        if (self.folder / name).is_file():
            found = self._json(name)
        else:
            name = "norm_stats of config.json"
        for key, value in found.items():
            if not isinstance(value, dict):
                raise UserError(
                    f"checkpoint {self.source}: {name}: {key} is {value}; it must be a mapping "
                    "with action and proprio."
                )
        return found

    def normalization(self, size: int) -> Normalization:
        """Of pixels, for images of that side; without preprocessor_config.json the published one.

        Raises:
            UserError: the file says what cannot be done.
        """
        name = "preprocessor_config.json"
        if not (self.folder / name).is_file():
            return Normalization()
        return read_normalization(self._json(name), size, f"checkpoint {self.source}: {name}")

    @property
    def has_oft_code(self) -> bool:
        """Whether code beside the weights, or the place of their adapter, is OpenVLA-OFT's."""
        code = self.folder / "modeling_prismatic.py"
        if code.is_file() and OFT_CODE in code.read_text(encoding="utf-8", errors="replace"):
            return True
        return (self.folder / "lora_adapter").is_dir()

    @cached_property
    def hash(self) -> str:
        """sha256 (16 hex digits) over the names and contents of the checkpoint's files.

        Of a file above 64 MiB: its size, its first MiB (of safetensors, that holds the header) and
        64 blocks of 1 MiB at even distances. So it tells checkpoints apart in seconds, but does
        not prove that every byte of a large file is the same.
        """
        digest = hashlib.sha256()
        for path in self._files(self.read):
            size = path.stat().st_size
            digest.update(f"{path.name}\0{size}\0".encode())
            with path.open("rb") as file:
                if size <= HASH_WHOLE:
                    digest.update(file.read())
                    continue
                for block in range(HASH_BLOCKS + 1):
                    file.seek(block * (size - HASH_BLOCK) // HASH_BLOCKS)
                    digest.update(file.read(HASH_BLOCK))
        return digest.hexdigest()[:16]

    def suite_statistics(
        self, suite: str, unnorm_key: str | None = None
    ) -> tuple[str, dict[str, Any]]:
        """The key and the statistics of a suite: its name, or its name + "_no_noops".

        Args:
            suite: LIBERO suite.
            unnorm_key: the key, where it is another.

        Raises:
            UserError: the checkpoint was not trained on that suite, or has no such key.
        """
        keys = (suite, f"{suite}_no_noops") if unnorm_key is None else (unnorm_key,)
        for key in keys:
            if key in self.statistics:
                return key, self.statistics[key]
        there = ", ".join(self.statistics) or "none"
        if unnorm_key is not None:
            raise UserError(
                f"--unnorm-key is {unnorm_key}; checkpoint {self.source} has statistics of: "
                f"{there}."
            )
        if self.source in TRAINED["tiny"].values():
            hint = f" (--checkpoint {TINY} runs on every suite)"
        elif self.statistics:
            hint = "; if one of them is of this suite's training data, name it with --unnorm-key"
        else:
            hint = "; dataset_statistics.json of the training run belongs into the folder"
        raise UserError(
            f"--suite is {suite}; checkpoint {self.source} has statistics of: {there}{hint}."
        )

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The checkpoint's own tokenizer, read when first asked for.

        Raises:
            UserError: tokenizer.json is missing, damaged, or not what prompts need.
        """
        from tokenizers import Tokenizer

        path = self.folder / "tokenizer.json"
        if not path.is_file():
            raise UserError(
                f"checkpoint {self.source}: tokenizer.json is missing in {self.folder}; copy it "
                "there from the published checkpoint."
            )
        with reading(path, Exception):  # the library raises nothing narrower
            tokenizer = Tokenizer.from_file(str(path))
        return usable_tokenizer(tokenizer, self.config, f"checkpoint {self.source}: {path.name}")

    def load_model(
        self, module: M, unused: re.Pattern[str], device: torch.device, dtype: torch.dtype
    ) -> M:
        """Fill `module` (on the meta device) from the safetensors files, one tensor at a time.

        Raises:
            UserError: a file is missing or damaged, its tensors do not fit the module, or the
                device has no room for them.
        """
        paths, stored = self._weight_files(), {}
        for path in paths:
            for name, shape in stored_shapes(path).items():
                if name in stored:
                    raise UserError(
                        f"checkpoint {self.source}: {name} is in {path.name} and in another file; "
                        "which one is meant nothing says."
                    )
                stored[name] = shape
        compare(
            f"checkpoint {self.source}: the tensors of model.safetensors",
            shapes(module),
            {name: shape for name, shape in stored.items() if not unused.match(name)},
        )
        largest = max(path.stat().st_size for path in paths)
        check_room(f"--checkpoint is {self.source}", module, device, dtype, mapped=largest)
        state: dict[str, Tensor] = {}
        for path in paths:
            state |= read_safetensors(path, module.state_dict().keys(), device, dtype)
        return ready(module, state, device)

    @contextmanager
    def describing(self) -> Iterator[None]:
        """Turn what building a model from config.json raises into a UserError that names it."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:  # values of any kind reach libraries of any kind
            raise UserError(
                f"checkpoint {self.source}: config.json describes no model that can be built "
                f"({type(error).__name__}: {first_line(error)})."
            ) from error

    @property
    def weight_bytes(self) -> int:
        """Size of its files of weights."""
        kinds = (".safetensors", ".pt", ".bin")
        return sum(p.stat().st_size for p in self.folder.iterdir() if p.suffix in kinds)

    def has_part(self, stem: str) -> bool:
        """Whether there is any file `{stem}--*_checkpoint.pt`."""
        return bool(self._files([f"{stem}--*_checkpoint.pt"]))

    def load_part(self, module: M, stem: str, device: torch.device, dtype: torch.dtype) -> M:
        """Fill `module` (on the meta device) from the one file `{stem}--*_checkpoint.pt`.

        Raises:
            UserError: there is none or more than one, it is damaged, or does not fit the module.
        """
        paths = self._files([f"{stem}--*_checkpoint.pt"])
        if len(paths) != 1:
            names = ", ".join(path.name for path in paths) or "no such file"
            raise UserError(
                f"checkpoint {self.source}: one {stem}--*_checkpoint.pt is needed; found {names}."
            )
        path = paths[0]
        check_room(f"--checkpoint is {self.source}", module, device, dtype, path.stat().st_size)
        state = read_state_dict(path, device)
        stored = {name: tuple(tensor.shape) for name, tensor in state.items()}
        compare(f"checkpoint {self.source}: the tensors of {path.name}", shapes(module), stored)
        cast = {name: finite(tensor.to(dtype), name, path) for name, tensor in state.items()}
        return ready(module, cast, device)

    def part_step(self, stem: str) -> str | None:
        """STEP of the one file `{stem}--STEP_checkpoint.pt`; None where there is not one."""
        paths = self._files([f"{stem}--*_checkpoint.pt"])
        if len(paths) != 1:
            return None
        return paths[0].name.removeprefix(f"{stem}--").removesuffix("_checkpoint.pt")

    def _json(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise UserError(f"checkpoint {self.source}: {path} is not JSON ({error}).") from error
        if not isinstance(content, dict):
            raise UserError(
                f"checkpoint {self.source}: {path} holds a {type(content).__name__}; it must hold "
                "a mapping."
            )
        return content

    def _files(self, patterns: Iterable[str]) -> list[Path]:
        found = sorted(path for pattern in patterns for path in self.folder.glob(pattern))
        for path in found:
            if path.is_dir():
                raise UserError(f"checkpoint {self.source}: {path} is a folder, not a file.")
        return found

    def _weight_files(self) -> list[Path]:
        index = self.folder / "model.safetensors.index.json"
        names = {"model.safetensors"}
        if index.is_file():
            shards = self._json(index.name).get("weight_map")
            values = list(shards.values()) if isinstance(shards, dict) else []
            if not values or not all(isinstance(v, str) and _SHARD.fullmatch(v) for v in values):
                raise UserError(
                    f"checkpoint {self.source}: weight_map in {index.name} must give each tensor "
                    "its file, model-....safetensors."
                )
            names = set(values)
        paths = [self.folder / name for name in sorted(names)]
        missing = [path.name for path in paths if not path.is_file()]
        if missing:
            alone = missing == ["model.safetensors"] and self._files(["model-*.safetensors"])
            hint = " and there is no model.safetensors.index.json to name shards" if alone else ""
            raise UserError(
                f"checkpoint {self.source}: {', '.join(missing)} is missing in {self.folder}{hint}."
            )
        return paths


def on_meta() -> torch.device:
    """Context in which modules are built without allocating weights; loading assigns them."""
    return torch.device("meta")
