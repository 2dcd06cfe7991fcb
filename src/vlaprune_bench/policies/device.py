"""Choosing where and in which precision a model runs."""

from __future__ import annotations

import platform
from pathlib import Path

import torch

from vlaprune_bench.types import UserError

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
ATTENTIONS = ("sdpa", "eager")


def choose_device(name: str) -> torch.device:
    """The device of that name; "auto" is CUDA where there is one.

    Raises:
        UserError: no such device here.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        name = "cuda" if count else "cpu"
    if name == "cpu":
        return torch.device("cpu")
    kind, _, index = name.partition(":")
    if kind != "cuda" or not (index or "0").isdecimal() or int(index or 0) >= count:
        raise UserError(
            f"--device is {name}; it must be auto, cpu or one of the {count} CUDA devices here."
        )
    return torch.device("cuda", int(index or 0))


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The precision of that name; "auto" is bfloat16 on CUDA and float32 elsewhere.

    Raises:
        UserError: we do not support it.
    """
    if name == "auto":
        name = "bfloat16" if device.type == "cuda" else "float32"
    if name not in DTYPES:
        raise UserError(f"--dtype is {name}; it must be auto, {', '.join(DTYPES)}.")
    return DTYPES[name]


def check_attention(name: str) -> str:
    """Return `name` if it is an attention backend we support.

    Raises:
        UserError: it is not.
    """
    if name not in ATTENTIONS:
        raise UserError(f"--attention is {name}; it must be {' or '.join(ATTENTIONS)}.")
    return name


def describe(device: torch.device) -> str:
    """The device with its name, e.g. "cuda (NVIDIA H100)" or "cpu (AMD EPYC 9654, 2 threads)"."""
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    return f"cpu ({name}, {torch.get_num_threads()} threads)"
