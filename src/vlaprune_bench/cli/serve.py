"""vlaprune-serve: answer clients of openpi, RoboArena and vla-eval with a pruned policy.

    vlaprune-serve --checkpoint tiny --method static --keep 0.5
    vlaprune-serve --method adp --keep 0.5 --connection-is-episode --replan-steps 5 --port 8001

Options of the method stand beside the others; `--method adp --help` shows them. SIGTERM drains.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from dataclasses import field, make_dataclass, replace
from pathlib import Path
from typing import Any

import tyro

from vlaprune_bench.cli import command
from vlaprune_bench.cli.eval import choose_inner, explain, flag, peek, refuse_doubles
from vlaprune_bench.pruning import load_plugin, method_class, methods
from vlaprune_bench.serve.config import LOCAL, ServeConfig
from vlaprune_bench.types import UserError


def parse(argv: list[str]) -> ServeConfig:
    """argv to configuration.

    Raises:
        UserError: an unknown option, an option of another method, or a value that cannot be.
    """
    plugin, method = peek(argv, "--plugin"), peek(argv, "--method")
    if plugin is not None:
        load_plugin(Path(plugin))
    pruner = method_class(method)() if method is not None else ServeConfig().pruner
    pruner, inner = choose_inner(pruner, argv)
    refuse_doubles(pruner)
    default = replace(ServeConfig(), pruner=pruner)
    command_line = make_dataclass(
        "CommandLine",
        [
            ("plugin", *flag(Path | None, "Python file that registers your own method.", None)),
            ("method", *flag(str, f"One of: {', '.join(methods())}.", pruner.name)),
            *inner,
            ("run", ServeConfig, field(default=default)),
        ],
    )
    parsed: Any
    parsed, unknown = tyro.cli(
        command_line,
        prog="vlaprune-serve",
        description=__doc__,
        args=argv,
        config=(tyro.conf.OmitArgPrefixes,),
        return_unknown_args=True,
    )
    if unknown:
        raise UserError(explain(unknown[0], ServeConfig, pruner, ["--plugin", "--method"]))
    return parsed.run


def run(argv: list[str]) -> None:
    config = parse(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    from vlaprune_bench.serve.load import load
    from vlaprune_bench.serve.server import PolicyServer

    if config.host not in LOCAL and config.key is None:
        print(f"warning: --host is {config.host} and there is no key: anybody may use the policy")
    policy = load(config)

    def ready(port: int) -> None:
        method = config.pruner.name
        keep = "" if config.pruner.keep_ratio is None else f" keep {config.pruner.keep_ratio:g}"
        print(
            f"serving {policy.info.name}, method {method}{keep}, at ws://{config.host}:{port}",
            flush=True,
        )

    asyncio.run(PolicyServer(policy, config, ready).run())


main = command(run)

if __name__ == "__main__":
    sys.exit(main())
