"""Another instruction."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from vlaprune_bench.sim.variants.base import Draw, Scale, Variant
from vlaprune_bench.types import UserError

if TYPE_CHECKING:
    from vlaprune_bench.sim.suites import TaskInfo


@Variant.register_subclass("words")
@dataclass(frozen=True)
class Words(Variant):
    """Another instruction: words missing or shuffled, another task's, or a paraphrase.

    Without any word, the default, a checkpoint shows what it does without language.
    """

    file: str = ""
    """YAML with paraphrases, for kind=paraphrase: lists by LIBERO's name of the task."""

    scales: ClassVar = {
        "blank": Scale("share of the words missing", (0.2, 0.4, 0.6, 0.8, 1.0), default=5),
        "shuffled": Scale("share of the words that change places", (0.2, 0.4, 0.6, 0.8, 1.0), 5),
        "other": None,
        "paraphrase": None,
    }
    """`other` is the instruction of another task of the suite, `paraphrase` one of the file's; both
    are drawn for every trial."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.file) != (self.kind == "paraphrase"):
            needs = "needs" if self.kind == "paraphrase" else "takes no"
            raise UserError(f"variant words has file={self.file!r}; kind={self.kind} {needs} file.")

    def check(self, task: TaskInfo) -> None:
        if self.kind == "paraphrase" and task.name not in paraphrases(self.file):
            raise UserError(f"{self.file} has no paraphrases of {task.name}.")
        if self.kind == "other" and not _others(task.suite, task.instruction):
            raise UserError(f"variant words has kind=other; {task.suite} has no other instruction.")

    def identity(self) -> dict[str, Any]:
        if not self.file:
            return super().identity()
        content = hashlib.sha256(Path(self.file).read_bytes()).hexdigest()[:16]
        return {**super().identity(), "file": content}

    def words(self, draw: Draw, instruction: str) -> str:
        rng, words = draw.rng(self.key), instruction.split()
        if self.kind in ("other", "paraphrase"):
            choice = _others(draw.suite, instruction)
            if self.kind == "paraphrase":
                choice = _of_task(self.file, draw.suite, draw.task)
            return choice[rng.integers(len(choice))]
        some = sorted(rng.permutation(len(words))[: round(self.amount * len(words))])
        if self.kind == "blank":
            return " ".join(word for k, word in enumerate(words) if k not in some)
        # everyone takes the next one's place: no word stays where it was
        order = rng.permutation(some)
        mixed = list(words)
        for place, source in zip(order, [*order[1:], *order[:1]], strict=True):
            mixed[place] = words[source]
        return " ".join(mixed)


def _others(suite: str, instruction: str) -> list[str]:
    """The suite's instructions but this one."""
    from vlaprune_bench.sim.tasks import list_tasks

    return sorted({task.instruction for task in list_tasks(suite)} - {instruction})


def _of_task(file: str, suite: str, task: int) -> list[str]:
    from vlaprune_bench.sim.tasks import get_task

    return paraphrases(file)[get_task(suite, task).name]


@functools.cache
def paraphrases(file: str) -> dict[str, list[str]]:
    """The lists of a paraphrase file by LIBERO's name of the task.

    Raises:
        UserError: there is no such file, or it is not of that form.
    """
    import yaml

    try:
        data = yaml.safe_load(Path(file).read_text())
    except OSError as error:
        raise UserError(f"file={file} cannot be read: {error.strerror}.") from error
    except yaml.YAMLError as error:
        raise UserError(f"file={file} is not valid YAML: {' '.join(str(error).split())}") from error
    good = isinstance(data, dict) and all(
        isinstance(said, list) and said and all(isinstance(text, str) for text in said)
        for said in data.values()
    )
    if not good:
        raise UserError(f"file={file} must hold lists of sentences by LIBERO's name of the task.")
    return dict(data)
