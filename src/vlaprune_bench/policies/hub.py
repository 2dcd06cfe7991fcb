"""Checkpoints on the Hugging Face hub: looked at, then fetched."""

from __future__ import annotations

import re
from pathlib import Path

from vlaprune_bench.policies.folder import (
    CHECKED,
    LEROBOT_MARKS,
    LEROBOT_READ,
    READ,
    refuse_other_kinds,
    refuse_unclaimed,
)
from vlaprune_bench.policies.weights import first_line
from vlaprune_bench.types import UserError


def fetch(source: str) -> Path:
    """Download a checkpoint, or find it in the hub's cache.

    Args:
        source: its id, owner/name.

    Raises:
        UserError: it cannot be fetched, or holds files nobody reads.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    _look(source)
    try:
        return Path(
            snapshot_download(
                source,
                allow_patterns=[*READ, *CHECKED, *LEROBOT_READ],
                ignore_patterns=["*/*"],
                etag_timeout=5,
            )
        )
    except (OSError, HfHubHTTPError) as error:
        raise UserError(
            f"--checkpoint is {source}; it is no folder here and could not be fetched from the "
            f"Hugging Face hub ({first_line(error)}). Without a network, download the repository "
            "elsewhere and give its folder."
        ) from error


def _look(source: str) -> None:
    """Judge a repository by its names: files that are not fetched count, too.

    Where the hub cannot be asked, what an earlier look let through is in its cache.
    """
    from huggingface_hub import HfApi

    try:
        found = HfApi().model_info(source, timeout=5).siblings or []
    except Exception:  # noqa: BLE001 - of a library that changes; fetching meets it and says why
        return
    names = [file.rfilename for file in found]
    if not any(re.fullmatch(r"model.*\.safetensors", name) for name in names):
        refuse_other_kinds(source, names)
    visible = [name for name in names if not re.search(r"(^|/)\.", name)]
    refuse_unclaimed(source, visible, LEROBOT_READ if {*LEROBOT_MARKS} & {*names} else READ)
