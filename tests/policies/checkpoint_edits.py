"""What tests change in a checkpoint folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from vlaprune_bench.policies.checkpoint import Checkpoint


def embedded(name: str) -> Path:
    """Folder of a checkpoint that comes with the package."""
    return Checkpoint.find(name).folder


def edit_json(path: Path, change: Callable[[Any], Any]) -> None:
    """Change a JSON file in place; where the change returns something, that is written."""
    data = json.loads(path.read_text()) if path.exists() else {}
    changed = change(data)
    path.write_text(json.dumps(data if changed is None else changed))


def edit_tensors(path: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    """Change the tensors of a safetensors file in place."""
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
