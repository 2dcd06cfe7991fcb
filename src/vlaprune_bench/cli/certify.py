"""vlaprune-certify: the boldest setting that keeps what works, with a certificate.

    vlaprune-certify --suite libero_spatial --method adp --keeps 0.7 0.5 0.3 --budget 0.05
    vlaprune-certify --suite libero_spatial --scenes fresh --method fastv --keeps 0.5
    vlaprune-certify verify results/certify/certificate.json results/certify

Candidates are tested from the mildest on, each against none on the same scenes, for as many scenes
as it takes; the first that is not certified ends it. The same command goes on where it was stopped.
Options of an evaluation and of the method stand beside these, as in vlaprune-eval.
"""

from __future__ import annotations

import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from vlaprune_bench.certify.terms import Terms
from vlaprune_bench.cli import command
from vlaprune_bench.cli.eval import parse_all, peek
from vlaprune_bench.cli.sweep import Launching
from vlaprune_bench.files import expand_paths

OUTPUT = Path("results/certify")


@dataclass(frozen=True)
class CertifyOptions(Terms):
    """Terms of a certificate, and where it goes."""

    certificate: Path | None = None
    """File of the certificate, JSON; its page goes beside it. By default certificate.json in the
    results folder."""


@dataclass(frozen=True)
class VerifyOptions:
    """Make a certificate anew from the rows it counts, and compare."""

    certificate: Annotated[Path, tyro.conf.Positional]
    """The file vlaprune-certify wrote."""
    results: Annotated[Path, tyro.conf.Positional]
    """The folder with its rows, or what `vlaprune-report export` made of it."""

    def __post_init__(self) -> None:
        expand_paths(self)


def parse(argv: list[str]) -> Any:
    """argv to what is asked: `VerifyOptions`, or terms, launching and run."""
    if argv[:1] == ["verify"]:
        return tyro.cli(VerifyOptions, prog="vlaprune-certify verify", args=argv[1:])
    parts = {"terms": CertifyOptions(), "launching": Launching()}
    parsed = parse_all(argv, "vlaprune-certify", __doc__ or "", parts)
    if peek(argv, "--output") is None and peek(argv, "--config") is None:
        parsed.run = parsed.run.but(output=OUTPUT)
    return parsed


def run(argv: list[str]) -> None:
    asked = parse(argv)
    if isinstance(asked, VerifyOptions):
        verify(asked)
        return
    from vlaprune_bench.certify.order import candidates
    from vlaprune_bench.certify.run import certify

    config = asked.run
    design = asked.terms.design(config)
    ranked, order = candidates(config, asked.terms)
    path = asked.terms.certificate or config.storage.output / "certificate.json"
    with asked.launching.open(asked.plugin) as launcher:
        code, made = certify(
            design,
            ranked,
            order,
            path,
            ["vlaprune-certify", *argv],
            launcher=launcher,
            ahead=asked.terms.ahead,
        )
    if made is not None:
        print(f"\n{textwrap.fill(made['statement'], 100)}\n\nwrote {path} and {path.stem}.md")
    raise SystemExit(code)


def verify(options: VerifyOptions) -> None:
    """Print what a certificate says, once it is made anew from its rows."""
    from vlaprune_bench.certify.certificate import verify
    from vlaprune_bench.certify.run import rows_by_id

    said = verify(options.certificate, rows_by_id(options.results), options.results)
    print(textwrap.fill(f"verified from its rows: {said}", 100))


main = command(run)

if __name__ == "__main__":
    sys.exit(main())
