"""vlaprune-eval: roll out a LIBERO suite with a pruned policy and write parquet.

    vlaprune-eval --suite libero_spatial --method adp --keep 0.5
    vlaprune-eval --config configs/eval/adp.yaml --method static --trials 2

Options of the method stand beside the others; `--method adp --help` shows them. A method that
holds another one has a flag for it: `--method gated --inner fastv --keep 0.25`. Values on the
command line win over those of `--config`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import field, fields, is_dataclass, make_dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from vlaprune_bench.cli import command
from vlaprune_bench.config import EvalConfig, load, nearest
from vlaprune_bench.pruning import Pruner, load_plugin, method_class, methods
from vlaprune_bench.types import UserError


def parse(argv: list[str]) -> EvalConfig:
    """argv to configuration; see `parse_all`."""
    return _parse_eval(argv).run


def _parse_eval(argv: list[str]) -> Any:
    """argv to configuration (`run`) and whether errors are run again (`retry_errors`)."""
    retry = switch("Run the episodes again that ended in errors, those alone.")
    return parse_all(argv, "vlaprune-eval", __doc__ or "", {}, [("retry_errors", *retry)])


def parse_all(
    argv: list[str],
    program: str,
    description: str,
    parts: Mapping[str, Any],
    more: Sequence[tuple[str, Any, Any]] = (),
) -> Any:
    """argv to the configuration (`run`) of a command that takes an evaluation's options.

    tyro cannot choose a subclass by a flag, so the file and the method are looked up first and
    the rest is parsed with the object they give as default.

    Args:
        argv: without the program's name.
        program: its name.
        description: of its --help.
        parts: dataclasses whose options it takes besides, as they are by default.
        more: single options besides, as fields.

    Raises:
        UserError: an unknown option, an option of another method, or a value that cannot be.
    """
    plugin, config, method = (peek(argv, name) for name in ("--plugin", "--config", "--method"))
    if plugin is not None:
        load_plugin(Path(plugin))
    default = load(Path(config)) if config is not None else EvalConfig()
    pruner = default.what.pruner
    if method is not None and method != pruner.name:
        pruner = method_class(method)()
    pruner, inner = choose_inner(pruner, argv)
    refuse_doubles(pruner)
    default = default.but(pruner=pruner)

    command_line = make_dataclass(
        "CommandLine",
        [
            ("config", *flag(Path | None, "YAML file of options; the command line wins.", None)),
            ("plugin", *flag(Path | None, "Python file that registers your own method.", None)),
            *more,
            ("method", *flag(str, f"One of: {', '.join(methods())}.", pruner.name)),
            *inner,
            *((name, type(part), field(default=part)) for name, part in parts.items()),
            ("run", EvalConfig, field(default=default)),
        ],
    )
    parsed: Any
    parsed, unknown = tyro.cli(
        command_line,
        prog=program,
        description=description,
        args=argv,
        config=(tyro.conf.OmitArgPrefixes,),
        return_unknown_args=True,
    )
    if unknown:
        others = ["--config", "--plugin", "--method"]
        others += [f"--{name.replace('_', '-')}" for name, *_ in more]
        others += [option for part in parts.values() for option in _options(part)]
        raise UserError(explain(unknown[0], EvalConfig, parsed.run.what.pruner, others))
    return parsed


def flag(kind: Any, help_text: str, default: Any) -> tuple[Any, Any]:
    """Type and default of a field of a command line."""
    return Annotated[kind, tyro.conf.arg(help=help_text)], field(default=default)


def switch(help_text: str) -> tuple[Any, Any]:
    kind = Annotated[bool, tyro.conf.arg(help=help_text), tyro.conf.FlagCreatePairsOff]
    return kind, field(default=False)


def peek(argv: list[str], name: str) -> str | None:
    """The value of one flag, wherever it stands; the last one counts."""
    value = None
    for index, arg in enumerate(argv):
        if arg == name and index + 1 < len(argv):
            value = argv[index + 1]
        elif arg.startswith(f"{name}="):
            value = arg.split("=", 1)[1]
    return value


def choose_inner(pruner: Pruner, argv: list[str]) -> tuple[Pruner, list[tuple[str, Any, Any]]]:
    """Choose the methods inside a method by flags named after their fields, as `--method` does.

    Returns:
        The method with what it holds, and those flags as fields of the command line.
    """
    flags = []
    for f in fields(pruner):
        held = getattr(pruner, f.name)
        if isinstance(held, Pruner):
            chooses = f"--{f.name.replace('_', '-')}"
            name = peek(argv, chooses)
            if name is not None and name != held.name:
                held = method_class(name, chooses)()
            held, deeper = choose_inner(held, argv)
            pruner = replace(pruner, **{f.name: held})
            about = f"The method inside {pruner.name}; one of those of --method."
            flags += [(f.name, *flag(str, about, held.name)), *deeper]
    return pruner, flags


def refuse_doubles(pruner: Pruner) -> None:
    """Refuse methods in one another that share an option: a flag could not say whose it is."""
    options = _options(pruner, deep=True)
    if doubles := {option for option in options if options.count(option) > 1}:
        raise UserError(
            f"--method is {pruner.name}; it and the method inside both have {min(doubles)}, "
            "which only a file (--config) can keep apart."
        )


def _options(config: Any, deep: bool = False) -> list[str]:
    """The flags of a configuration (or its class), those of nested parts included.

    Args:
        config: a dataclass, or an object of one.
        deep: the methods inside a method, too; else only the flags that choose them.
    """
    names = []
    for f in fields(config):
        value = f.default if isinstance(config, type) else getattr(config, f.name)
        if f.name == "pruner":
            continue
        if not is_dataclass(value) or isinstance(value, Pruner):
            names.append(f"--{f.name.replace('_', '-')}")
        if is_dataclass(value) and (deep or not isinstance(value, Pruner)):
            names += _options(value, deep)
    return names


def explain(unknown: str, config: type, pruner: Pruner, others: list[str]) -> str:
    """One sentence about an argument nobody reads.

    Args:
        unknown: the argument.
        config: the command's options.
        pruner: the method.
        others: flags of the command besides.
    """
    name = unknown.split("=", 1)[0].replace("_", "-")
    owners = [method for method, cls in methods().items() if name in _options(cls)]
    if owners:
        return (
            f"{name} is an option of {', '.join(owners)}; the method is {pruner.name}, "
            "which does not read it."
        )
    known = [*others, *_options(config), *_options(pruner, deep=True)]
    return f"unknown option {unknown}{nearest(name, known)}."


def run(argv: list[str]) -> None:
    asked = _parse_eval(argv)
    config = asked.run
    from vlaprune_bench.report.summary import show_summary
    from vlaprune_bench.rollout.runner import run_cells

    outcome = run_cells([config], ["vlaprune-eval", *argv], retry=asked.retry_errors)
    show_summary(config.storage.output)
    raise SystemExit(outcome.code)


main = command(run)

if __name__ == "__main__":
    sys.exit(main())
