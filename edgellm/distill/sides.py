"""Sides: a teacher and a student, each with its own tokenizer, and whether they belong together."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from torch import nn

from edgellm.core.manifest import TaskOptions
from edgellm.distill import judged
from edgellm.distill.labelled import Texts
from edgellm.errors import InputError, UsageError
from edgellm.runtime.tokenizer import Tokenizer
from edgellm.stages.load import load
from edgellm.stages.plan import MAX_OVERLAP
from edgellm.stages.reference import write_tokenizer
from edgellm.stages.source import SourceModel, check_folder, read_source
from edgellm.tasks import Task, load_task
from edgellm.tasks._torch import Wrapped


@dataclass(frozen=True)
class Side:
    """A teacher or a student: what it is, and its own tokenizer."""

    source: SourceModel
    tokenizer: Tokenizer

    @property
    def task(self) -> Task:
        """The task of both."""
        return load_task(self.source.task)

    @property
    def options(self) -> TaskOptions:
        """The task's options; long texts are read in windows where the task can, as in a bundle."""
        overlap = min(self.tokenizer.max_tokens // 2, MAX_OVERLAP) if self.task.WINDOWS else None
        return dataclasses.replace(self.source.options, overlap=overlap)

    @property
    def types(self) -> bool:
        """Whether the model takes token_type_ids."""
        return any(spec.name == "token_type_ids" for spec in self.source.inputs)

    @property
    def pad(self) -> int:
        """The id of padding."""
        return self.source.inputs[0].pad

    def model(self) -> Wrapped:
        """Return the model as its task wraps it, in fp32."""
        return cast(Wrapped, self.task.wrap(load(self.source), self.source.options))

    def answers(self, model: nn.Module, texts: Texts) -> list[object]:
        """Return what the model answers to texts."""
        return judged.answers(model, texts, self.task, self.options, self.tokenizer, pad=self.pad, types=self.types)


def read_side(folder: Path, task: str | None, max_tokens: int) -> Side:
    """Return a model with its tokenizer as a bundle would have it.

    Args:
        folder: of `save_pretrained`.
        task: pipeline id; None follows the model's configuration.
        max_tokens: that a text is cut to, or fewer where the model takes fewer.

    Raises:
        UsageError: no such task.
        InputError: the folder, weights, tokenizer or configuration can't be used.

    """
    source = read_source(str(check_folder(folder)), task=task, tokenizer=None, pooling=None, describe=_no_factory)
    longest = max_tokens if source.max_positions is None else min(max_tokens, source.max_positions)
    with tempfile.TemporaryDirectory() as place:
        write_tokenizer(source, Path(place) / "tokenizer.json")
        return Side(source, Tokenizer(Path(place) / "tokenizer.json", longest))


def _no_factory(factory: str) -> dict[str, Any]:
    raise UsageError(f"{factory} is a function; what is distilled is a folder.")


def pair(big: Side, small: Side, texts: Iterable[str]) -> tuple[Side, Side]:
    """Return teacher and student, which take texts of as many tokens.

    Args:
        big, small: the two.
        texts: that both have to read as the same ids.

    Raises:
        InputError: they don't read the same ids, or don't answer in the same labels or the same kind of vector.

    """
    teacher, student = big.source, small.source
    for what in ("labels", "scores", "pooling", "normalize"):
        x, y = (_shown(getattr(side.options, what)) for side in (teacher, student))
        if x != y:
            raise InputError(
                f"The teacher and the student differ in their {what}: {x}, and {y}.",
                hint="They have to be the same, labels in the same order.",
            )
    if _vocabulary(teacher) != _vocabulary(student):
        raise InputError(
            f"{teacher.name} and {student.name} have different vocabularies.",
            hint="A student reads the ids that its teacher reads; begin with one that has the same tokenizer.",
        )
    least = min(side.tokenizer.max_tokens for side in (big, small))
    big, small = (dataclasses.replace(side, tokenizer=side.tokenizer.limited(least)) for side in (big, small))
    for text in texts:
        if big.tokenizer.encode(text).ids != small.tokenizer.encode(text).ids:
            raise InputError(f"{teacher.name} and {student.name} read a text as other tokens: {text[:60]!r}.")
    return big, small


def _shown(value: object) -> str:
    return ", ".join(value) if isinstance(value, tuple) else str(value)


def _vocabulary(source: SourceModel) -> dict[str, int]:
    from tokenizers import Tokenizer as Whole

    vocabulary: dict[str, int] = Whole.from_file(source.tokenizer).get_vocab(with_added_tokens=True)
    return vocabulary
