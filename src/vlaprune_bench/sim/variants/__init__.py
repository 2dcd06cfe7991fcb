"""Variants of a scene: camera, start pose, light, texture, layout, noise, blackout, words.

Every module of this folder that registers a `Variant` is one. On the command line, in files and in
rows a variant is a word, `NAME[:SEVERITY][,OPTION=VALUE...]`:

    camera:3,kind=orbit,camera=agentview
    noise:5,kind=fog
    words,kind=blank

Several of them combine, applied in the order given.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections.abc import Sequence
from dataclasses import fields
from difflib import get_close_matches
from typing import Any

from vlaprune_bench.sim.variants.base import (
    SEVERITIES,
    CameraVariant,
    Draw,
    Scale,
    Variant,
    View,
    option_types,
)
from vlaprune_bench.types import UserError

__all__ = [
    "SEVERITIES",
    "CameraVariant",
    "Draw",
    "Scale",
    "Variant",
    "View",
    "identity",
    "parse",
    "variant_class",
    "variants",
    "word",
]


def variants() -> dict[str, type[Variant]]:
    """Every registered variant by name. Imports the files, but neither mujoco nor scipy."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return dict(sorted(Variant.get_known_choices().items()))


def variant_class(name: str, flag: str = "--variant") -> type[Variant]:
    """The class registered as `name`, which stood in the value of `flag`.

    Raises:
        UserError: there is no such variant.
    """
    known = variants()
    if name not in known:
        near = get_close_matches(str(name), known, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UserError(f"{flag} is {name}; {hint}there are: {', '.join(known)}.")
    return known[name]


def parse(text: str, flag: str = "--variant") -> Variant:
    """The variant a word names.

    Raises:
        UserError: an unknown variant, option or value.
    """
    head, *pairs = text.split(",")
    name, colon, severity = head.partition(":")
    cls = variant_class(name.strip(), flag)
    types = option_types(cls)
    options: dict[str, Any] = {}
    if colon:
        pairs.insert(0, f"severity={severity}")
        if severity.strip() == "0":
            raise UserError(f"{flag} is {text}; severity must be 1 to 5.")
    for pair in pairs:
        key, equals, value = (part.strip() for part in pair.partition("="))
        if not equals or key not in types:
            raise UserError(f"{flag} is {text}; {name} has the options {', '.join(types)}.")
        if key in options:
            raise UserError(f"{flag} is {text}; it names {key} twice.")
        try:
            options[key] = types[key](value)
        except ValueError as error:
            kind = types[key].__name__
            raise UserError(f"{flag} is {text}; {key} must be of type {kind}.") from error
    return cls(**options)


def word(variant: Variant) -> str:
    """The word that `parse` reads back to an equal variant, options at their defaults left out."""
    options = {f.name: getattr(variant, f.name) for f in fields(variant)}
    severity = options.pop("severity")
    first = next(iter(variant.scales), "")
    defaults = {f.name: f.default for f in fields(variant)} | {"kind": first}
    said = [f"{key}={value}" for key, value in options.items() if value != defaults[key]]
    return ",".join([f"{variant.name}:{severity}" if severity else variant.name, *said])


def identity(chosen: Sequence[Variant]) -> str:
    """What the variants do, JSON: the part they have in an episode's identity."""
    return json.dumps([variant.identity() for variant in chosen], sort_keys=True, default=str)
