"""Writing a results folder: one process at a time, one episode at a time, nothing ever torn."""

from __future__ import annotations

import fcntl
import hashlib
import os
import socket
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING

from vlaprune_bench.store.parts import (
    DamagedError,
    bring_up_to_date,
    read_part,
    relaxed,
    to_table,
    write_bytes,
    write_hidden,
)
from vlaprune_bench.store.read import (
    Contents,
    calls_path,
    contents,
    episode_id,
    is_merged,
    is_own,
    read_episodes,
)
from vlaprune_bench.types import CallRow, EpisodeRow, Status, UserError

if TYPE_CHECKING:
    import pyarrow as pa

LOCK = ".lock"
"""Held while somebody writes; says who."""
LOCK_ATTEMPTS = 3
HALF_WRITTEN = ".*.parquet.*"
MERGE_AT = 256
"""Single parts of finished episodes from which on they are merged: many small files read slowly."""


def holder(folder: Path) -> str | None:
    """Who is writing to a results folder now, or None."""
    path = folder / LOCK
    if not path.is_file():
        return None
    with path.open(encoding="utf-8", errors="replace") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return file.read().strip() or "another process"
    return None


class Store:
    """One results folder, to write to.

    Raises:
        UserError: the folder cannot be made or written to.
    """

    def __init__(self, folder: Path, merge_at: int = MERGE_AT) -> None:
        self.folder = folder
        self.merge_at = merge_at
        self._singles = 0
        """Single parts, as far as known: when to merge."""
        try:
            for sub in ("", "_calls", "_runs", "_videos"):
                (folder / sub).mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=folder, prefix=".probe-"):
                pass
        except OSError as error:
            raise UserError(
                f"--output is {folder}; it must be a folder that can be written to "
                f"({error.strerror})."
            ) from error

    @contextmanager
    def writing(self) -> Iterator[list[str]]:
        """Hold the folder against other writers, and put right what a kill left behind.

        The lock is the kernel's: it goes with the process, however that ends.

        Yields:
            A sentence for every damaged part that was set aside.

        Raises:
            UserError: another process holds the folder, or it holds episodes that no run put there.
        """
        with self._clear_errors(), ExitStack() as opened:
            lock = (self.folder / LOCK).open("a+", encoding="utf-8", errors="replace")
            file = opened.enter_context(lock)
            self._lock(file)
            self._refuse_exports()
            sentences = self._tidy()
            held = opened.pop_all()
        with held:
            yield sentences

    def _lock(self, file: IO[str]) -> None:
        for left in reversed(range(LOCK_ATTEMPTS)):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if left:  # it may be no writer but a `holder` that looks
                    time.sleep(0.05)
                    continue
                file.seek(0)
                who = file.read().strip() or "another process"
                raise UserError(
                    f"--output is {self.folder}; {who} is writing there: wait until it has "
                    "ended, or give another folder."
                ) from None
        since = datetime.now(UTC).isoformat(timespec="seconds")
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()} (since {since})")
        file.flush()

    def append(self, episode: EpisodeRow, calls: Iterable[CallRow]) -> None:
        """Write one finished episode; after a kill it is there whole or not at all.

        An episode that is there already (one that failed and was tried again) is replaced; killed
        at that very moment, it is gone and counts as not yet run.

        Raises:
            UserError: it cannot be written, as on a full disk; nothing half written stays.
        """
        part = self.folder / f"episode-{episode.episode_id}.parquet"
        with self._clear_errors():
            self._place(part, to_table(EpisodeRow, [episode]), to_table(CallRow, calls))
        self._singles += 1

    def _place(self, part: Path, episodes: pa.Table, calls: pa.Table) -> None:
        """Write a part and its calls: both are on the disk before either has its name."""
        hidden_calls = write_hidden(calls, calls_path(part))
        try:
            hidden = write_hidden(episodes, part)
        except BaseException:
            hidden_calls.unlink()
            raise
        part.unlink(missing_ok=True)
        hidden_calls.replace(calls_path(part))
        hidden.replace(part)
        for folder in (calls_path(part).parent, part.parent):
            _sync(folder)

    def compact(self) -> int:
        """Merge the single parts of episodes that ended well, if there are many (`merge_at`).

        Failed episodes stay parts of their own, so that a retry can replace them. Only while
        `writing`.

        Returns:
            How many were merged.
        """
        import pyarrow as pa

        if self._singles < self.merge_at:
            return 0
        self._singles = 0
        found, parts, calls = contents(self.folder), {}, []
        for path, table in found.parts.items():
            if is_merged(path) or table["status"][0].as_py() != Status.OK:
                continue
            try:
                calls.append(read_part(calls_path(path), CallRow))
            except (DamagedError, FileNotFoundError):
                continue  # the next run names it and sets it aside
            parts[path] = table
        if len(parts) < self.merge_at:
            return 0
        ids = ",".join(sorted(map(episode_id, parts)))
        name = hashlib.sha256(ids.encode()).hexdigest()[:12]
        with self._clear_errors():
            self._place(
                self.folder / f"merged-{name}.parquet",
                relaxed(pa.concat_tables(parts.values())),
                relaxed(pa.concat_tables(calls)),
            )
            _remove(parts)
        return len(parts)

    def _refuse_exports(self) -> None:
        found = contents(self.folder, ["episode_id"])
        if others := [path.name for path in found.parts if not is_own(path)]:
            raise UserError(
                f"--output is {self.folder}; it holds exported episodes ({', '.join(others)}), "
                "which no run adds to: give another folder."
            )

    def _tidy(self) -> list[str]:
        """Set damaged parts aside, and finish what a killed process was doing."""
        for hidden in (
            *self.folder.glob(HALF_WRITTEN),
            *self.folder.glob(f"_calls/{HALF_WRITTEN}"),
        ):
            hidden.unlink()
        sentences = []
        while (found := self._checked()).damaged:  # what a bad file superseded may count again
            for part, sentence in found.damaged.items():
                self._set_aside(part)
                what = "its episodes run" if is_merged(part) else "its episode runs"
                sentences.append(
                    f"{sentence}: set aside in {self.folder / '_damaged'}, {what} again"
                )
        _remove(found.superseded)
        for part in found.parts:
            bring_up_to_date(part)
        # calls without their episode: killed before it was there, or after it was merged
        whole = {calls_path(part).name for part in found.parts}
        for path in (self.folder / "_calls").glob("[!._]*.parquet"):
            if path.name not in whole:
                path.unlink()
        self._singles = sum(not is_merged(part) for part in found.parts)
        return sentences

    def _checked(self) -> Contents:
        """The contents of our own parts, every byte of episodes and calls read."""
        found = contents(self.folder)
        found.damaged = {part: why for part, why in found.damaged.items() if is_own(part)}
        for part in found.parts:
            try:
                read_part(calls_path(part), CallRow)
            except DamagedError as error:
                found.damaged[part] = str(error)
            except FileNotFoundError:
                found.damaged[part] = f"{calls_path(part)} is missing"
        return found

    def _set_aside(self, part: Path) -> None:
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
        for path in (part, calls_path(part)):
            if path.exists() or path.is_symlink():
                aside = self.folder / "_damaged" / path.relative_to(self.folder)
                aside.parent.mkdir(parents=True, exist_ok=True)
                path.rename(aside.with_name(f"{path.stem}.{stamp}{path.suffix}"))

    def save_config(self, run_id: str, text: str) -> None:
        """Keep the configuration beside the rows it makes."""
        self.save_note(f"{run_id}.yaml", text)

    def save_note(self, name: str, text: str) -> None:
        """Keep a small text file beside the rows; it is there whole or not at all."""
        path = self.folder / "_runs" / name
        with self._clear_errors():
            write_bytes(text.encode("utf-8", "backslashreplace"), path).replace(path)

    def done(self) -> set[str]:
        """Ids of the episodes the folder holds, whatever their status."""
        return set(read_episodes(self.folder, ["episode_id"])[0]["episode_id"].to_pylist())

    @contextmanager
    def _clear_errors(self) -> Iterator[None]:
        """A disk that takes no more is said in one sentence."""
        try:
            yield
        except OSError as error:
            raise UserError(
                f"--output is {self.folder}; it cannot be written to any more "
                f"({error.strerror or error}): what was finished is kept; put that right and give "
                "the same command again."
            ) from error


def _remove(parts: Iterable[Path]) -> None:
    """Remove single parts whose rows are merged, each episode before its calls."""
    for part in parts:
        part.unlink()
        calls_path(part).unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    """Make renames last through a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
