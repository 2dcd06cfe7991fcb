"""What lies in a checkpoint folder: every file is read, known to change nothing, or refused.

A file nobody claims may be the head, the backbone or the adapter that the model was trained with;
running without it gives numbers of another model.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from vlaprune_bench.types import UserError

MODEL = "model*.safetensors"
READ = (
    "config.json",
    "dataset_statistics.json",
    "preprocessor_config.json",
    "tokenizer.json",
    MODEL,
    "model.safetensors.index.json",
    "action_head--*_checkpoint.pt",
    "proprio_projector--*_checkpoint.pt",
)
"""What a policy is made of: fetched, hashed and read."""
LEROBOT_READ = (
    "config.json",
    MODEL,
    "model.safetensors.index.json",
    "policy_preprocessor*.json",
    "policy_postprocessor*.json",
    "policy_preprocessor*.safetensors",
    "policy_postprocessor*.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "architecture.json",
    "tokenizer/tokenizer.json",
    "tokenizer/tokenizer_config.json",
)
"""The same in LeRobot's layout."""
LEROBOT_MARKS = ("policy_preprocessor.json", "train_config.json")
"""Files that tell a repository of LeRobot's by their names."""
CHECKED = (
    "generation_config.json",
    "tokenizer_config.json",
    "processor_config.json",
    "modeling_prismatic.py",
)
"""Fetched and looked at, because what they say could contradict what is done; not hashed."""
HARMLESS = (
    *"README* LICENSE* NOTICE* USE_POLICY* *.md *.txt *.rst *.pdf *.html *.ipynb *.py *.sh".split(),
    *"*.yaml *.yml *.toml *.csv *.tsv *.jsonl *.parquet *.log *.out *.err *.wandb *.lock".split(),
    *"*.png *.jpg *.jpeg *.gif *.webp *.svg *.mp4 *.pyc *.swp *.bak *.orig *~ #*#".split(),
    *"*.back.* events.out.tfevents.* *_results.json trainer_state.json *-metadata.json".split(),
    # the tokenizer again, in forms of which tokenizer.json is the whole
    *"tokenizer.model special_tokens_map.json added_tokens.json vocab.json merges.txt".split(),
    "chat_template.json",
    "train_config.json",
)
"""Names of text, code (never run), logs, pictures and backups."""
TRAINING_STATE = ("optimizer*.pt", "scheduler*.pt", "rng_state*.pth", "training_args.bin")
ADAPTER = ("README.md", "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
"""What `lora_adapter` may hold: published folders keep there what was merged into the weights."""
LOGS = ("wandb", "logs", "runs", "tensorboard", "__pycache__")
"""Folders in which anything but weights may lie."""
WEIGHTS = re.compile(
    r"\.(pt|pth|bin|safetensors|ckpt|pkl|pickle|npz|npy|h5|hdf5|msgpack|onnx|gguf|ggml|tar|zip)"
    r"(\.|~|$)"
)
"""Names that can hold weights, backups of them included."""
PARTS = ("action_head", "proprio_projector")
LFS = b"version https://git-lfs.github.com/spec/"


def files(folder: Path) -> list[str]:
    """Files of a folder and its sub-folders by relative name, hidden ones left out.

    A link to a folder counts as a file: what lies behind it is not looked at.
    """
    names = []
    for root, folders, inside in os.walk(folder):
        here = Path(root)
        names += [here / name for name in inside]
        names += [here / name for name in folders if (here / name).is_symlink()]
        folders[:] = [name for name in folders if not name.startswith(".")]
    return sorted(
        path.relative_to(folder).as_posix() for path in names if not path.name.startswith(".")
    )


def refuse_unclaimed(source: str, names: Iterable[str], claimed: Sequence[str]) -> None:
    """Check that all files of a checkpoint are claimed or harmless.

    Args:
        source: the checkpoint, for the sentence.
        names: relative to its folder.
        claimed: patterns of names that are read.

    Raises:
        UserError: one is neither; the sentence names it.
    """
    unclaimed = [name for name in names if not claims(name, claimed) and not _harmless(name)]
    if not unclaimed:
        return
    first, more = unclaimed[0], len(unclaimed) - 1
    for name in unclaimed:  # the one that tells most
        if reason := _reason(name):
            raise UserError(f"checkpoint {source}: {name} is in the folder; {reason}.")
    also = f" (and {more} more: {', '.join(unclaimed[1:3])}{', ...' if more > 2 else ''})"
    raise UserError(
        f"checkpoint {source}: {first}{also if more else ''} is in the folder and nothing reads "
        "it; if the model does not need it, move it out of the folder."
    )


def refuse_other_kinds(source: str, names: Sequence[str]) -> None:
    """Say what a folder without a model in safetensors is, where its files tell.

    Raises:
        UserError: it is a LoRA adapter, a native training folder or a file of another format.
    """
    adapters = [name for name in names if name.endswith("adapter_config.json")]
    native = [name for name in names if re.fullmatch(r"checkpoints/[^/]+\.pt", name)]
    ggufs = [name for name in names if name.endswith((".gguf", ".ggml"))]
    pickled = [name for name in names if re.fullmatch(r"(pytorch_)?model.*\.(bin|pth?)", name)]
    if adapters:
        why = (
            f"{adapters[0]} is a LoRA adapter alone; merge it into its base model, save the "
            "merged model as safetensors, and give that folder"
        )
    elif native:
        why = (
            f"{native[0]} is a checkpoint of OpenVLA's native training; convert it with "
            "vla-scripts/extern/convert_openvla_weights_to_hf.py and give that folder"
        )
    elif ggufs:
        why = f"{ggufs[0]} is a quantised file; the weights must be safetensors"
    elif pickled:
        why = f"{pickled[0]} holds pickled weights; save the model as safetensors"
    else:
        return
    raise UserError(f"checkpoint {source}: there is no model in safetensors; {why}.")


def refuse_unreadable(path: Path, source: str) -> None:
    """Check that a file is there in itself.

    Raises:
        UserError: it is a link to nothing, no file, empty, or a Git LFS pointer.
    """
    try:
        with path.open("rb") as file:
            start = file.read(len(LFS))
    except OSError as error:
        link = path.is_symlink() and not path.exists()
        why = "a link to nothing" if link else f"not readable ({error.strerror})"
        raise UserError(f"checkpoint {source}: {path.name} is {why}.") from error
    if start == LFS:
        raise UserError(
            f"checkpoint {source}: {path.name} is a Git LFS pointer, not the file itself; run "
            f"git lfs pull in {path.parent}."
        )
    if not start:
        raise UserError(f"checkpoint {source}: {path.name} is empty (truncated).")


def claims(name: str, patterns: Iterable[str]) -> bool:
    """Whether a name is one of those patterns, in the folder that the pattern says."""
    depth = name.count("/")
    return any(depth == p.count("/") and fnmatchcase(name, p) for p in patterns)


def _harmless(path: str) -> bool:
    folder, _, name = path.rpartition("/")
    if folder == "lora_adapter":
        return name in ADAPTER
    if any(fnmatchcase(name, pattern) for pattern in TRAINING_STATE):
        return True
    if WEIGHTS.search(name):
        return False
    return folder.split("/")[0] in LOGS or any(fnmatchcase(name, p) for p in (*HARMLESS, *CHECKED))


def _reason(path: str) -> str:
    """Why a file that nobody claims matters, where its name tells."""
    name = path.rpartition("/")[2]
    if "noisy_action_projector" in name:
        return (
            "its action head is OpenVLA-OFT's diffusion head; supported are the L1 head and "
            "discrete tokens"
        )
    if "vision_backbone" in name or "film" in name.lower():
        return (
            "it is a vision backbone trained with FiLM, which is not supported (without it the "
            "policy is another one)"
        )
    for part in PARTS:
        if part in name:
            return (
                f"if it is the model's {part}, name it {part}--STEP_checkpoint.pt and put it "
                "beside config.json, else move it out of the folder"
            )
    if name.startswith("adapter_"):
        return (
            "a LoRA adapter beside the weights may be merged into them or not; merge it, or, "
            "where that was done, move it to lora_adapter/"
        )
    if name.endswith((".gguf", ".ggml")):
        return "quantised files are not read; move it out of the folder"
    return ""
