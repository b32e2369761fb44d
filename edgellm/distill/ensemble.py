"""Ensemble: several teachers that label together.

Each proposes an output, and the one that all of them together find likeliest is the label: that with the greatest product of
their probabilities (Hinton 2002, products of experts). A whole output is chosen, as a student that learns labels needs one, so
that a teacher that answers token by token and one that answers in one pass can teach together (compare Sun et al. 2019,
https://arxiv.org/abs/1904.03446, whose teachers agree token by token).

A text that one of them has no answer to, or to which one gives an answer that another can't say, has no label: there is
nothing to compare. A CTC model can't say what needs more slots than the text has.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path

from edgellm.distill.students import MASK_PREDICT_TYPE, type_of
from edgellm.distill.teacher import SingleTeacher
from edgellm.distill.teachers import open_teacher
from edgellm.errors import InputError, UsageError
from edgellm.stages.source import check_folder


def open_teachers(folders: Sequence[Path]) -> SingleTeacher | Ensemble:
    """Return the teacher in a folder, or the teachers in several.

    Raises:
        UsageError: a folder is named twice.
        InputError: a folder holds no such model, or they can't label together.

    """
    if len(folders) == 1:
        return open_teacher(folders[0])
    seen = set[Path]()
    for folder in folders:
        check_folder(folder)
        if folder.resolve() in seen:
            raise UsageError(f"--teacher {folder} is named twice.", hint="Name it once: it would count twice.")
        seen.add(folder.resolve())
        if type_of(folder) == MASK_PREDICT_TYPE:
            raise InputError(
                f"{folder} predicts masks, and has no probability for what another model says.",
                hint="Models that answer token by token, and CTC models, can teach together.",
            )
    return Ensemble([open_teacher(folder) for folder in folders])


class Ensemble:
    """Several teachers; see `Teacher`. What they say does not depend on their order.

    Raises:
        InputError: they have different tokenizers, or one can't tell how likely an output is.

    """

    def __init__(self, members: Sequence[SingleTeacher]) -> None:
        """Take two teachers or more."""
        self.members = tuple(members)
        first = self.members[0]
        self.read, self.write = first.read, first.write
        self.longest = min(member.longest for member in members)
        for member in self.members:
            if (member.read.to_str(), member.write.to_str()) != (self.read.to_str(), self.write.to_str()):
                raise InputError(
                    f"{first.folder} and {member.folder} have different tokenizers: an output of one is another for the other.",
                    hint="Teachers that label together have the same tokenizer.json, and target_tokenizer.json if there is one.",
                )
            member.check_likelihoods()

    @property
    def folders(self) -> tuple[Path, ...]:
        """Of all, in the order in which they were named."""
        return tuple(member.folder for member in self.members)

    @property
    def parameters(self) -> int:
        """How many there are, in all models."""
        return sum(member.parameters for member in self.members)

    def digest(self) -> str:
        """Return the SHA-256 of the members', whatever their order."""
        return hashlib.sha256("".join(sorted(member.digest() for member in self.members)).encode()).hexdigest()

    def answer(self, texts: Sequence[str], *, beams: int, slots: int) -> list[str]:
        """Return for each text the output that all find likeliest together, of those that one of them says.

        Args:
            texts: to label.
            beams, slots: as `Teacher.answer` takes them.

        Returns:
            Outputs; an empty one where one of the teachers has none, or can't say another's.

        Raises:
            InputError: a model's probability is no number.

        """
        said = [member.answer(texts, beams=beams, slots=slots) for member in self.members]
        proposed = [sorted({" ".join(output.split()) for output in outputs}) for outputs in zip(*said, strict=True)]
        open_ = [(i, output) for i, outputs in enumerate(proposed) if all(outputs) for output in outputs]
        asked = [texts[i] for i, _ in open_], [output for _, output in open_]
        found = [member.likelihoods(*asked) for member in self.members]
        for member, likelihoods in zip(self.members, found, strict=True):
            if any(map(math.isnan, likelihoods)):
                raise InputError(
                    f"{member.folder} gives probabilities that are no numbers.", hint="Its weights are broken."
                )
        chosen, best = [""] * len(texts), [-math.inf] * len(texts)
        unsayable = set[int]()
        for (i, output), together in zip(open_, map(sum, zip(*found, strict=True)), strict=True):
            if together == -math.inf:
                unsayable.add(i)
            elif together > best[i]:
                best[i], chosen[i] = together, output
        return ["" if i in unsayable else output for i, output in enumerate(chosen)]
