"""Ensemble: several teachers that label together.

Each proposes its likeliest output, and the one that all of them together find likeliest is the label: that with the greatest
product of their probabilities (Hinton 2002, products of experts). Models of one kind make the same mistakes; one that answers
token by token and one that answers in one pass make different ones. A whole output is chosen, as a student that learns labels
needs one, so that the teachers need not have tokens or slots in common (compare Sun et al. 2019, https://arxiv.org/abs/1904.03446,
whose teachers agree token by token).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from edgellm.distill.teachers import OneTeacher, open_teacher
from edgellm.errors import InputError, UsageError


def open_teachers(folders: Sequence[Path]) -> OneTeacher | Ensemble:
    """Return the teacher in a folder, or the teachers in several.

    Raises:
        UsageError: a folder is named twice.
        InputError: a folder holds no such model, or they can't label together.

    """
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise UsageError("A --teacher is named twice.", hint="Name each once: it would count twice.")
    teachers = [open_teacher(folder) for folder in folders]
    return teachers[0] if len(teachers) == 1 else Ensemble(teachers)


class Ensemble:
    """Several teachers; see `Teacher`.

    Raises:
        InputError: they have different vocabularies, or one can't tell how likely an output is.

    """

    def __init__(self, members: Sequence[OneTeacher]) -> None:
        """Take two teachers or more."""
        self.members = tuple(members)
        first = self.members[0]
        self.read, self.write = first.read, first.write
        self.longest = min(member.longest for member in members)
        for member in self.members[1:]:
            if member.read.get_vocab() != self.read.get_vocab():
                raise InputError(
                    f"{first.folder} and {member.folder} have different vocabularies.", hint="Teachers share theirs."
                )
        for member in self.members:
            member.check_likelihoods()

    @property
    def folders(self) -> tuple[Path, ...]:
        """Of all, in the order in which they were named."""
        return tuple(member.folder for member in self.members)

    @property
    def parameters(self) -> int:
        """Of all."""
        return sum(member.parameters for member in self.members)

    def answer(self, texts: Sequence[str], *, beams: int, slots: int) -> list[str]:
        """Return for each text the output that all find likeliest together, of those that one of them says.

        Args:
            texts: to label.
            beams, slots: as `Teacher.answer` takes them.

        Returns:
            The first teacher's output where no output can be said by all.

        """
        said = [member.answer(texts, beams=beams, slots=slots) for member in self.members]
        proposed = [list(dict.fromkeys(filter(None, outputs))) for outputs in zip(*said, strict=True)]
        open_ = [(i, output) for i, outputs in enumerate(proposed) if len(outputs) > 1 for output in outputs]
        chosen = [outputs[0] if outputs else "" for outputs in proposed]
        if not open_:
            return chosen
        asked = [texts[i] for i, _ in open_], [output for _, output in open_]
        together = (sum(each) for each in zip(*(member.likelihoods(*asked) for member in self.members), strict=True))
        best: dict[int, float] = {}
        for (i, output), likelihood in zip(open_, together, strict=True):
            if likelihood > best.get(i, -math.inf):
                best[i], chosen[i] = likelihood, output
        return chosen
