"""Files of weights into modules: what is stored is compared with what is wanted, then copied."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from vlaprune_bench.types import UserError

M = TypeVar("M", bound=nn.Module)
PRECISIONS = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
"""Stored precisions from which weights are taken, as safetensors names them."""
NOT_QUANTISED = "supported are float32, bfloat16 and float16, not quantised weights"


def ready(module: M, state: dict[str, Tensor], device: torch.device) -> M:
    """Give the module its weights and switch training off; `device` is for computed buffers."""
    module.load_state_dict(state, assign=True)
    return module.to(device).eval().requires_grad_(False)


def stored_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors in a safetensors file.

    Raises:
        UserError: the file is damaged, or a tensor is stored in a precision that is not taken.
    """
    shapes = {}
    with reading(path, SafetensorError, OSError), safe_open(path, "pt") as file:
        for name in file.keys():  # noqa: SIM118 (not a dict)
            part = file.get_slice(name)
            if part.get_dtype() not in PRECISIONS:
                raise UserError(f"{path}: {name} is stored as {part.get_dtype()}; {NOT_QUANTISED}.")
            shapes[name] = tuple(part.get_shape())
    return shapes


def read_safetensors(
    path: Path, wanted: Collection[str], device: torch.device, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Those of the wanted tensors that a safetensors file holds, copied out of it one by one.

    Raises:
        UserError: the file is damaged, or a value is not finite.
    """
    state = {}
    with reading(path, SafetensorError, OSError), safe_open(path, "pt", str(device)) as file:
        for name in file.keys():  # noqa: SIM118 (not a dict)
            if name in wanted:
                # on a CPU the file is mapped: without a copy weights would follow what is
                # written over it later
                tensor = file.get_tensor(name).to(dtype, copy=device.type == "cpu")
                state[name] = finite(tensor, name, path)
    return state


def read_state_dict(path: Path, device: torch.device) -> dict[str, Tensor]:
    """The tensors of a `.pt` file, by name without the `module.` of distributed training.

    Raises:
        UserError: it is damaged, or holds anything else than a state dict of plain tensors.
    """
    with reading(path, Exception):  # what torch.load raises depends on where a file was cut
        stored = torch.load(path, map_location=device, weights_only=True, mmap=False)
    if not isinstance(stored, dict):
        raise UserError(f"{path} holds a {type(stored).__name__}; it must be a state dict.")
    for name, value in stored.items():
        _check_entry(name, value, stored, path)
    state = {name.removeprefix("module."): value for name, value in stored.items()}
    if len(state) < len(stored):
        raise UserError(f"{path} holds a tensor twice, with and without module. before its name.")
    return state


def shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shapes of a module's tensors by name."""
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def compare(
    what: str, wanted: dict[str, tuple[int, ...]], stored: dict[str, tuple[int, ...]]
) -> None:
    """Raise UserError unless exactly the wanted tensors are stored, in their shapes.

    Args:
        what: begins the sentence.
        wanted: shapes by name.
        stored: shapes by name.
    """
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
        raise UserError(f"{what} do not fit config.json: {'; '.join(parts)}.")


def finite(tensor: Tensor, name: str, path: Path) -> Tensor:
    """The tensor, every value of which must be finite in the precision it is in now.

    Raises:
        UserError: one is not.
    """
    if tensor.numel() and not all(x.isfinite() for x in torch.aminmax(tensor)):
        precision = str(tensor.dtype).removeprefix("torch.")
        raise UserError(f"{path}: {name} has values that are not finite in {precision}.")
    return tensor


@contextmanager
def reading(path: Path, *errors: type[Exception]) -> Iterator[None]:
    """Turn what a reader raises on a damaged file into a UserError that names the file."""
    try:
        yield
    except UserError:
        raise
    except errors as error:
        text = str(error)
        if found := re.search(r"GLOBAL (\S+)", text):
            raise UserError(
                f"{path} holds {found[1]}, an object, where only tensors are read (nothing in a "
                "checkpoint is run); it must hold the module's state_dict()."
            ) from error
        # torch's own hint is to run what is in the file
        why = "it cannot be unpickled" if "weights_only" in text else first_line(error)
        raise UserError(f"{path} is damaged or truncated ({why}).") from error


def first_line(error: Exception) -> str:
    """The first line of an error's message, without its full stop."""
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__


def _check_entry(name: Any, value: Any, stored: dict[Any, Any], path: Path) -> None:
    if isinstance(value, dict):
        beside = ", ".join(str(key) for key in stored if key != name) or "nothing"
        raise UserError(
            f"{path} has a state dict under the key {name} (beside it: {beside}); save that one "
            "alone in the file."
        )
    if not isinstance(name, str) or not isinstance(value, Tensor):
        raise UserError(
            f"{path} holds {name}, a {type(value).__name__}; it must be a state dict of tensors."
        )
    if value.dtype not in PRECISIONS.values() or value.layout != torch.strided:
        precision = str(value.dtype).removeprefix("torch.")
        raise UserError(f"{path} holds {name} in {precision}; {NOT_QUANTISED}.")
