"""Read a checkpoint in the layout OpenVLA and OpenVLA-OFT are published in.

    config.json, model.safetensors (or shards with model.safetensors.index.json),
    dataset_statistics.json, tokenizer.json,
    action_head--*_checkpoint.pt and proprio_projector--*_checkpoint.pt (OpenVLA-OFT)

Nothing in a checkpoint is executed: weights are safetensors, or `.pt` files read with
`weights_only=True`.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from vlaprune_bench.files import user_path
from vlaprune_bench.types import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

M = TypeVar("M", bound=nn.Module)
TINY, TINY_OPENVLA = "tiny-untrained", "tiny-openvla-untrained"
TRAINED = {f"libero_{name}": f"tiny-{name}" for name in ("spatial", "object", "goal")}
"""What `tiny` is: one checkpoint a suite, as the published OpenVLA-OFT ones are."""
EMBEDDED = {TINY: TINY, "tiny-openvla": TINY_OPENVLA} | {name: name for name in TRAINED.values()}
"""Checkpoints that come with the package, by the names users give them; and `tiny`."""
PATTERNS = (
    "config.json",
    "dataset_statistics.json",
    "tokenizer.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    "action_head--*_checkpoint.pt",
    "proprio_projector--*_checkpoint.pt",
    "noisy_action_projector--*_checkpoint.pt",  # never loaded: tells the diffusion head
)
"""The files a checkpoint is made of; anything else beside them is neither fetched nor hashed."""
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
            suite: which of those that `tiny` stands for.

        Raises:
            UserError: there is none, or it cannot be fetched.
        """
        if source == "tiny":
            if suite not in TRAINED:
                raise UserError(
                    f"--suite is {suite}; checkpoint tiny is trained on {', '.join(TRAINED)} "
                    f"(--checkpoint {TINY} runs on every suite)."
                )
            source = TRAINED[suite]
        embedded = EMBEDDED.get(source, source)
        if embedded in EMBEDDED.values():
            return cls(embedded, Path(__file__).parents[1] / "checkpoints" / embedded)
        folder = user_path(source)
        if not folder.is_dir():
            folder = _fetch(source)
        if not (folder / "config.json").is_file():
            raise UserError(f"--checkpoint is {source}; there is no config.json in {folder}.")
        return cls(source, folder)

    @cached_property
    def config(self) -> dict[str, Any]:
        """config.json."""
        return self._json("config.json")

    @cached_property
    def statistics(self) -> dict[str, Any]:
        """Normalisation statistics by dataset: dataset_statistics.json, else config.json's."""
        if (self.folder / "dataset_statistics.json").is_file():
            return self._json("dataset_statistics.json")
        return self.config.get("norm_stats", {})

    @cached_property
    def hash(self) -> str:
        """sha256 (16 hex digits) over the names and contents of the checkpoint's files.

        Of a file above 64 MiB: its size, its first MiB (of safetensors, that holds the header) and
        64 blocks of 1 MiB at even distances. So it tells checkpoints apart in seconds, but does
        not prove that every byte of a large file is the same.
        """
        digest = hashlib.sha256()
        for path in self._files(PATTERNS):
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

    def suite_statistics(self, suite: str) -> tuple[str, dict[str, Any]]:
        """The key and the statistics of a suite: its name, or its name + "_no_noops".

        Raises:
            UserError: the checkpoint was not trained on that suite.
        """
        for key in (suite, f"{suite}_no_noops"):
            if key in self.statistics:
                return key, self.statistics[key]
        there = ", ".join(self.statistics) or "none"
        ours = self.source in TRAINED.values()
        hint = f" (--checkpoint {TINY} runs on every suite)" if ours else ""
        raise UserError(
            f"--suite is {suite}; checkpoint {self.source} has statistics of: {there}{hint}."
        )

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The checkpoint's own tokenizer, read when first asked for.

        Raises:
            UserError: tokenizer.json is missing.
        """
        from tokenizers import Tokenizer

        path = self.folder / "tokenizer.json"
        if not path.is_file():
            raise UserError(
                f"checkpoint {self.source}: tokenizer.json is missing in {self.folder}; copy it "
                "there from the published checkpoint."
            )
        return Tokenizer.from_file(str(path))

    def load_model(
        self, module: M, unused: re.Pattern[str], device: torch.device, dtype: torch.dtype
    ) -> M:
        """Fill `module` (on the meta device) from the safetensors files, one tensor at a time.

        Raises:
            UserError: a file is missing or damaged, or its tensors do not fit the module.
        """
        wanted = _shapes(module)
        stored: dict[str, tuple[int, ...]] = {}
        state: dict[str, Tensor] = {}
        for collect in (True, False):  # names and shapes of all files first, then the tensors
            for path in self._weight_files():
                with (
                    _reading(path, SafetensorError),
                    safe_open(path, "pt", device=str(device)) as file,
                ):
                    for name in file.keys():  # noqa: SIM118 (not a dict)
                        if unused.match(name):
                            continue
                        if collect:
                            stored[name] = tuple(file.get_slice(name).get_shape())
                        else:
                            state[name] = file.get_tensor(name).to(dtype)
            if collect:
                self._compare("model.safetensors", wanted, stored)
        return ready(module, state, device)

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
        # what torch.load raises depends on where the file was cut
        with _reading(paths[0], pickle.UnpicklingError, RuntimeError, OSError, EOFError):
            stored = torch.load(paths[0], map_location=device, weights_only=True)
        if not isinstance(stored, dict):
            raise UserError(f"{paths[0]} holds a {type(stored).__name__}; it must be a state dict.")
        state = {name.removeprefix("module."): value for name, value in stored.items()}
        self._compare(paths[0].name, _shapes(module), {n: tuple(t.shape) for n, t in state.items()})
        return ready(module, {name: value.to(dtype) for name, value in state.items()}, device)

    def _json(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"checkpoint {self.source}: {path} is not JSON ({error}).") from error
        return content

    def _files(self, patterns: Iterable[str]) -> list[Path]:
        return sorted(path for pattern in patterns for path in self.folder.glob(pattern))

    def _weight_files(self) -> list[Path]:
        index = self.folder / "model.safetensors.index.json"
        names = {"model.safetensors"}
        if index.is_file():
            names = set(self._json(index.name).get("weight_map", {}).values())
        paths = [self.folder / name for name in sorted(names)]
        missing = [path.name for path in paths if not path.is_file()]
        if missing or not paths:
            raise UserError(
                f"checkpoint {self.source}: {', '.join(missing) or 'every shard'} is missing in "
                f"{self.folder}."
            )
        return paths

    def _compare(
        self,
        file: str,
        wanted: dict[str, tuple[int, ...]],
        stored: dict[str, tuple[int, ...]],
    ) -> None:
        """Raise UserError unless exactly the wanted tensors are stored, in the wanted shapes."""
        both = wanted.keys() & stored.keys()
        problems = {
            "missing": [f"{n} {wanted[n]}" for n in wanted if n not in stored],
            "unexpected": [f"{n} {stored[n]}" for n in stored if n not in wanted],
            "misshapen": [
                f"{n} {stored[n]} instead of {wanted[n]}"
                for n in wanted
                if n in both and stored[n] != wanted[n]
            ],
        }
        parts = [
            f"{len(names)} {kind}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
            for kind, names in problems.items()
            if names
        ]
        if parts:
            raise UserError(
                f"checkpoint {self.source}: the tensors of {file} do not fit config.json: "
                f"{'; '.join(parts)}."
            )


def on_meta() -> torch.device:
    """Context in which modules are built without allocating weights; loading assigns them."""
    return torch.device("meta")


def ready(module: M, state: dict[str, Tensor], device: torch.device) -> M:
    """Give the module its weights and switch training off; `device` is for computed buffers."""
    module.load_state_dict(state, assign=True)
    return module.to(device).eval().requires_grad_(False)


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


@contextmanager
def _reading(path: Path, *errors: type[Exception]) -> Iterator[None]:
    """Turn what a reader raises on a damaged file into a UserError that names the file."""
    try:
        yield
    except errors as error:
        raise UserError(f"{path} is damaged or truncated ({_first_line(error)}).") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__


def _fetch(source: str) -> Path:
    """Download a checkpoint from the Hugging Face hub, or find it in the hub's cache."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", source):
        raise UserError(
            f"--checkpoint is {source}; it must be a folder, a hub id like owner/name, or "
            f"tiny or {' or '.join(EMBEDDED)}."
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(
            snapshot_download(
                source, allow_patterns=list(PATTERNS), ignore_patterns=["*/*"], etag_timeout=5
            )
        )
    except (OSError, HfHubHTTPError) as error:
        raise UserError(
            f"--checkpoint is {source}; it is no folder here and could not be fetched from the "
            f"Hugging Face hub ({_first_line(error)}). Without a network, download the repository "
            "elsewhere and give its folder."
        ) from error
