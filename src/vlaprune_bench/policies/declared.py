"""What a checkpoint's config.json says before anything heavy is imported."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from vlaprune_bench.types import LEROBOT_PROTOCOL, OPENVLA_PROTOCOL, EvalProtocol


def declared_protocol(checkpoint: str) -> EvalProtocol:
    """The protocol a checkpoint was published with: LeRobot's for its layout, else OpenVLA's.

    Args:
        checkpoint: an embedded one's name, a folder or a hub id. Of a hub id that was never
            fetched nothing is known, so OpenVLA's: once it is, ask again.
    """
    if not isinstance(checkpoint, str):
        return OPENVLA_PROTOCOL  # reading the option says what is wrong
    if checkpoint not in _known:
        path = _config_path(checkpoint)
        try:
            found = None if path is None else json.loads(path.read_bytes())
        except ValueError:
            found = None  # loading it says what is wrong
        if not isinstance(found, dict):
            return OPENVLA_PROTOCOL
        _known[checkpoint] = protocol_of(found)
    return _known[checkpoint]


_known: dict[str, EvalProtocol] = {}
"""By checkpoint: a process asks for one many times."""


def protocol_of(config: dict[str, object]) -> EvalProtocol:
    """The protocol of a config.json; only LeRobot's name a policy's type."""
    return LEROBOT_PROTOCOL if "type" in config else OPENVLA_PROTOCOL


def _config_path(checkpoint: str) -> Path | None:
    embedded = Path(__file__).parents[1] / "checkpoints" / checkpoint
    for folder in (embedded, Path(checkpoint).expanduser()):
        if os.path.isfile(folder / "config.json"):  # False where a name is too long, too
            return folder / "config.json"
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", checkpoint):
        return None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(checkpoint, "config.json")
    return Path(found) if isinstance(found, str) else None
