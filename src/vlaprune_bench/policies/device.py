"""Choosing where and in which precision a model runs."""

from __future__ import annotations

import platform
from pathlib import Path

import torch
from torch import nn

from vlaprune_bench.measure.machine import available_mib, process_limit_mib
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


def check_room(
    asked: str, module: nn.Module, device: torch.device, dtype: torch.dtype, mapped: int = 0
) -> None:
    """Compare the weights of a module with the memory that is free, before they are made.

    Args:
        asked: what the user asked for, the beginning of the sentence.
        module: on the meta device.
        device: where the weights go.
        dtype: what they become.
        mapped: bytes of a file that is mapped meanwhile; where pages are free to be taken back it
            costs nothing, but a limit on the process counts it.

    Raises:
        UserError: there is no room for them.
    """
    count = sum(tensor.numel() for tensor in module.state_dict().values())
    wanted, limit = count * dtype.itemsize, process_limit_mib() * 2**20
    free = float(available_mib() * 2**20)
    if device.type == "cuda":
        free, limit = torch.cuda.mem_get_info(device)[0], float("inf")
    if wanted <= free and wanted + mapped <= limit:
        return
    name = str(dtype).removeprefix("torch.")
    hint = "choose another --device or --dtype"
    half = count * torch.bfloat16.itemsize
    if dtype.itemsize > 2 and half <= free and half + mapped <= limit:
        hint = f"--dtype bfloat16 takes {half / 1e9:.1f} GB"
    also = f" (and {mapped / 1e9:.1f} GB to read them)" if wanted <= free else ""
    raise UserError(
        f"{asked}; its weights take {wanted / 1e9:.1f} GB{also} in {name} and {device} has "
        f"{min(free, limit) / 1e9:.1f} GB free: {hint}."
    )


def describe(device: torch.device) -> str:
    """The device with its name.

    "cuda (NVIDIA H100)", or "cpu (AMD EPYC, family 26, model 2, 2 threads)": virtual machines give
    one name to processors of several generations.
    """
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    return f"cpu ({processor_name()}, {torch.get_num_threads()} threads)"


def processor_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name with its family and model, where `cpuinfo` tells them."""
    lines = cpuinfo.read_text().split("\n\n")[0].splitlines() if cpuinfo.is_file() else []
    facts = {
        key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)
    }
    name = facts.get("model name") or platform.processor() or platform.machine()
    kinds = {"family": facts.get("cpu family"), "model": facts.get("model")}
    return ", ".join([name, *(f"{kind} {number}" for kind, number in kinds.items() if number)])
