"""Read a checkpoint in the layout LeRobot publishes.

    config.json, model.safetensors (or shards with model.safetensors.index.json),
    policy_preprocessor.json, policy_postprocessor.json and the statistics files they name,
    tokenizer.json (in the folder or in tokenizer/; else of the hub repository the processor names)

Nothing in it is executed. Published names are with or without a leading `model.`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from vlaprune_bench.policies.checkpoint import Checkpoint
from vlaprune_bench.policies.device import check_room
from vlaprune_bench.policies.settings import read_architecture, read_lerobot_config, read_steps
from vlaprune_bench.policies.weights import (
    compare,
    first_line,
    read_safetensors,
    reading,
    ready,
    shapes,
    stored_shapes,
)
from vlaprune_bench.types import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

M = TypeVar("M", bound=nn.Module)
BUFFERS = re.compile(r"(?:un)?normalize_\w+\.buffer_")
"""Statistics inside very old weight files; the processors' files have them too."""


@dataclass(frozen=True)
class Names:
    """Where the parameters of a module of ours stand in the published files."""

    prefixes: tuple[tuple[str, str], ...]
    """(ours, published), the first that fits counts."""
    unused: re.Pattern[str]
    """Published names that no computation here reads."""
    tied: tuple[str, str] = ("", "")
    """A published name, and the one that stands for it where it is not there."""

    def published(self, ours: str) -> str:
        """The published name of a parameter, without `model.`."""
        for prefix, theirs in self.prefixes:
            if ours.startswith(prefix):
                return theirs + ours.removeprefix(prefix)
        raise KeyError(ours)


@dataclass(frozen=True)
class LeRobotCheckpoint(Checkpoint):
    """A checkpoint folder of LeRobot's; tensors are read where they are asked for."""

    @cached_property
    def config(self) -> dict[str, Any]:
        """config.json, checked; see `settings.read_lerobot_config`."""
        return read_lerobot_config(self._json("config.json"), self._about("config.json"))

    @cached_property
    def architecture(self) -> dict[str, Any]:
        """Sizes that a config names only by a variant, where a file beside it says them."""
        name = "architecture.json"
        if (self.folder / name).is_file():
            return read_architecture(self._json(name), self._about(name))
        return {}

    def _about(self, name: str) -> str:
        return f"checkpoint {self.source}: {name}"

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the stored tensors by published name, without `model.`.

        Raises:
            UserError: a file is missing or damaged.
        """
        found: dict[str, tuple[int, ...]] = {}
        for path in self._weight_files():
            for name, shape in stored_shapes(path).items():
                bare = name.removeprefix("model.")
                if bare in found:
                    raise UserError(
                        f"checkpoint {self.source}: {bare} is stored twice; which one is meant "
                        "nothing says."
                    )
                found[bare] = shape
        return found

    def count(self, pattern: str) -> int:
        """Layers stored: one more than the largest number that `pattern`'s one group finds."""
        found = [m for name in self.shapes if (m := re.match(pattern, name))]
        return max((int(match[1]) + 1 for match in found), default=0)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a stored tensor.

        Raises:
            UserError: it is not there.
        """
        if name not in self.shapes:
            raise UserError(
                f"checkpoint {self.source}: model.safetensors has no {name}; config.json says the "
                f"policy is a {self.config.get('type')}, which has one."
            )
        return self.shapes[name]

    def load(
        self,
        module: M,
        names: Names,
        device: torch.device,
        dtype_of: Callable[[str], torch.dtype],
    ) -> M:
        """Fill `module` (on the meta device), one tensor at a time.

        Args:
            module: its parameters have names of our own.
            names: where they stand in the files.
            device: where they go.
            dtype_of: precision of a parameter, by our name.

        Raises:
            UserError: a file is missing or damaged, or its tensors do not fit the module.
        """
        own = {self._stored(names, ours): ours for ours in module.state_dict()}
        stored = {
            name: shape
            for name, shape in self.shapes.items()
            if name in own or not (names.unused.match(name) or BUFFERS.match(name))
        }
        wanted = {their: shapes(module)[ours] for their, ours in own.items()}
        compare(f"checkpoint {self.source}: the tensors of model.safetensors", wanted, stored)
        groups: dict[torch.dtype, list[str]] = {}
        for their, ours in own.items():
            groups.setdefault(dtype_of(ours), []).extend((their, f"model.{their}"))
        paths = self._weight_files()
        largest = max(path.stat().st_size for path in paths)
        widest = max(groups, key=lambda dtype: len(groups[dtype]))
        check_room(f"--checkpoint is {self.source}", module, device, widest, mapped=largest)
        state: dict[str, Tensor] = {}
        for path in paths:
            for dtype, names_of_dtype in groups.items():
                found = read_safetensors(path, names_of_dtype, device, dtype)
                state |= {own[name.removeprefix("model.")]: t for name, t in found.items()}
        return ready(module, state, device)

    def _stored(self, names: Names, ours: str) -> str:
        name, other = names.published(ours), names.tied[1]
        return other if name == names.tied[0] and name not in self.shapes else name

    def step(self, processor: str, registry_name: str) -> tuple[dict[str, Any], str | None]:
        """A step of a processor: its configuration, and the file of its tensors.

        Args:
            processor: policy_preprocessor or policy_postprocessor.
            registry_name: what the step is.

        Raises:
            UserError: the processor's file is missing, or it has no such step.
        """
        path = self.folder / f"{processor}.json"
        if not path.is_file():
            raise UserError(
                f"checkpoint {self.source}: {path.name} is missing in {self.folder}; copy it there "
                "from the published checkpoint, with the .safetensors files it names."
            )
        for step in read_steps(self._json(path.name), self._about(path.name)):
            if step.get("registry_name") == registry_name:
                return step.get("config", {}), step.get("state_file")
        raise UserError(f"checkpoint {self.source}: {path.name} has no step {registry_name}.")

    def feature_statistics(
        self, processor: str, registry_name: str, feature: str
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """A normaliser's configuration, and its statistics of one feature by name.

        Raises:
            UserError: they are not there.
        """
        config, state_file = self.step(processor, registry_name)
        path = self.folder / str(state_file)
        if state_file is None or not path.is_file():
            raise UserError(
                f"checkpoint {self.source}: {processor}.json names statistics in {state_file}, "
                f"which is missing in {self.folder}."
            )
        with reading(path, SafetensorError, OSError), safe_open(path, "pt") as file:
            found = {
                name.removeprefix(f"{feature}."): file.get_tensor(name)
                for name in file.keys()  # noqa: SIM118
                if name.startswith(f"{feature}.")
            }
        return config, found

    @cached_property
    def tokenizer_name(self) -> str:
        """The hub repository whose tokenizer the preprocessor names."""
        step, _ = self.step("policy_preprocessor", "tokenizer_processor")
        if "tokenizer_name" not in step:
            raise UserError(
                f"{self._about('policy_preprocessor.json')}: step tokenizer_processor has no "
                "tokenizer_name; it must name the hub repository of the tokenizer."
            )
        return str(step["tokenizer_name"])

    @cached_property
    def tokenizer_files(self) -> dict[str, Path]:
        """tokenizer.json, and tokenizer_config.json where there is one.

        Raises:
            UserError: there is none here, and it cannot be fetched.
        """
        names = ("tokenizer.json", "tokenizer_config.json")
        for folder in (self.folder, self.folder / "tokenizer"):
            if (folder / names[0]).is_file():
                return {name: folder / name for name in names if (folder / name).is_file()}
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError

        try:
            return {
                name: Path(hf_hub_download(self.tokenizer_name, name, etag_timeout=5))
                for name in names
            }
        except (OSError, HfHubHTTPError) as error:
            raise UserError(
                f"checkpoint {self.source}: tokenizer.json is missing in {self.folder} and could "
                f"not be fetched from {self.tokenizer_name} ({first_line(error)}); place that "
                "repository's tokenizer.json and tokenizer_config.json there."
            ) from error

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, read when first asked for.

        Raises:
            UserError: there is none.
        """
        from tokenizers import Tokenizer

        path = self.tokenizer_files["tokenizer.json"]
        with reading(path, Exception):  # the library raises nothing narrower
            return Tokenizer.from_file(str(path))

    def special_token(self, kind: str, default: str) -> int | None:
        """Id of `pad_token` or `bos_token`; `default` is its text where no file says it."""
        text: Any = default
        if path := self.tokenizer_files.get("tokenizer_config.json"):
            with reading(path, ValueError, AttributeError):
                text = json.loads(path.read_text(encoding="utf-8")).get(kind) or default
        text = text.get("content") if isinstance(text, dict) else text
        if not isinstance(text, str):
            raise UserError(
                f"{self._about('tokenizer_config.json')}: {kind} is {text}; it must be the text of "
                "a token."
            )
        return self.tokenizer.token_to_id(text)
