"""What a distillation made."""

from __future__ import annotations

from dataclasses import dataclass

from edgellm.core.training import Trained


@dataclass(frozen=True)
class Score:
    """How a model does on pairs, the nearest of several right targets counting.

    Attributes:
        texts: different ones.
        errors: share of texts that are not right to the letter (WER where a text is a word, in percent).
        token_errors: edits by tokens of the nearest target, over all texts (PER where tokens are phones, in percent).

    """

    texts: int
    errors: float
    token_errors: float

    def __str__(self) -> str:
        return f"{self.errors:.2f} % wrong, {self.token_errors:.2f} % of tokens ({self.texts} texts)"


@dataclass(frozen=True)
class Distilled:
    """A sequence-to-sequence student, and how it came about.

    Attributes:
        student: name or folder.
        teacher: name; None where it learned from the pairs alone.
        parameters: of student and teacher.
        gold: pairs that were learned from.
        labelled: texts that the teacher labelled besides.
        left_out: what could not be learned, in a sentence; empty where nothing was left out.
        dev: the kept weights on the dev pairs, which chose them; None where the training has not ended.
        test: on the test pairs, which chose nothing.
        trained: how the training went.
        label_seconds: of labelling, in this run; labels that were there cost nothing.

    """

    student: str
    teacher: str | None
    parameters: tuple[int, int | None]
    gold: int
    labelled: int
    left_out: str
    dev: Score | None
    test: Score | None
    trained: Trained
    label_seconds: float
