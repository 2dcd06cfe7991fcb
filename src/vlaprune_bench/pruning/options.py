"""Options of methods: dataclass fields that say which values make sense, checked here alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import field, fields
from functools import cache
from operator import ge, gt, le
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from vlaprune_bench.types import UserError

if TYPE_CHECKING:
    from vlaprune_bench.pruning.decoder import ModelShape

BOUNDS = {"at_least": ge, "above": gt, "at_most": le}


def option(
    default: Any,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    layers: bool = False,
    count: Literal["camera", "call"] | None = None,
    published: Any = None,
) -> Any:
    """A dataclass field that says which values make sense.

    Args:
        default: of the field; None or (): left to the method.
        at_least: lower bound, of each value in a tuple.
        above: lower bound that itself is out.
        at_most: upper bound.
        layers: whether it names a decoder layer, or several in ascending order, which the model
            must have.
        count: what it counts visual tokens of, which the model must have. The default is of 16 x 16
            patches a camera and scales with the model's grid.
        published: what the default stands for, by `reading` where it is a dict. Layers are of 32
            and scale with the model's depth.
    """
    bounds = {"at_least": at_least, "above": above, "at_most": at_most}
    if layers and at_least is None:
        bounds["at_least"] = 0
    given = {key: bound for key, bound in bounds.items() if bound is not None}
    more = {"bounds": given, "layers": layers, "count": count, "published": published}
    return field(default=default, metadata=more)


def check_options(config: Any) -> None:
    """Refuse values out of bounds, layers that do not ascend, and names that are not known.

    Args:
        config: a dataclass; fields of type Literal know their names, others see `option`.

    Raises:
        UserError: naming key, value and what would be right.
    """
    for f in fields(config):
        value = getattr(config, f.name)
        known = _known(config.__class__).get(f.name)
        if known and value not in known:
            *others, last = map(str, known)
            raise wrong(f.name, value, f"it must be {', '.join(others)} or {last}")
        parts = value if isinstance(value, tuple) else () if value is None else (value,)
        bounds = f.metadata.get("bounds", {})
        if not all(BOUNDS[key](part, bound) for key, bound in bounds.items() for part in parts):
            said = " and ".join(f"{key.replace('_', ' ')} {b:g}" for key, b in bounds.items())
            who = "each" if isinstance(value, tuple) else "it"
            raise wrong(f.name, value, f"{who} must be {said}")
        if f.metadata.get("layers") and sorted(set(parts)) != list(parts):
            raise wrong(f.name, value, "the layers must ascend")


def resolve_options(config: Any, model: ModelShape) -> Iterator[tuple[str, Any]]:
    """Options as a model runs them: published ones filled in, default counts scaled.

    Yields:
        Name and value of each option that is not as it stands in `config`.

    Raises:
        UserError: a layer or a count that the model does not have.
    """
    for f in fields(config):
        given = value = getattr(config, f.name)
        if f.metadata and given == f.default:
            value = _published(config, given, f.metadata, model)
        parts = value if isinstance(value, tuple) else () if value is None else (value,)
        if f.metadata.get("layers") and max(parts, default=0) >= model.n_layers:
            there = f"decoder layers 0 to {model.n_layers - 1}"
            raise wrong(f.name, value, f"this model has {there}")
        if of := f.metadata.get("count"):
            n = model.patches * (len(model.grids) if of == "call" else 1)
            if max(parts, default=0) > n:
                raise wrong(f.name, value, f"a {of} of this model has {n} visual tokens")
        if value != given:
            yield f.name, value


def _published(config: Any, value: Any, about: Mapping[str, Any], model: ModelShape) -> Any:
    """What a default stands for on a model."""
    published = about.get("published")
    if isinstance(published, dict):
        published = published[config.reading]
    if about.get("count"):
        return model.scale_count(value if published is None else published)
    if published is None or not about["layers"]:
        return value if published is None else published
    if isinstance(published, tuple):
        return model.scale_layers(published)
    return model.scale_layers((published,))[0]


def wrong(name: str, value: Any, right: str) -> UserError:
    """A sentence about an option: its flag, its value, what would be right."""
    if isinstance(value, tuple):
        value = " ".join(f"{part:g}" for part in value) or "empty"
    elif isinstance(value, float):
        value = f"{value:g}"
    return UserError(f"--{name.replace('_', '-')} is {value}; {right}.")


@cache
def _known(config: type) -> dict[str, tuple[Any, ...]]:
    """Values of each field whose type is a Literal."""
    hints = get_type_hints(config)
    return {name: get_args(hint) for name, hint in hints.items() if get_origin(hint) is Literal}
