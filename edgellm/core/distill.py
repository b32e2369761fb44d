"""What a distillation is told, and what it made."""

from __future__ import annotations

from dataclasses import dataclass

from edgellm.core.training import Trained
from edgellm.errors import UsageError, unknown

DISTILLED = ("text-classification", "token-classification", "feature-extraction")
"""Tasks whose encoders are distilled."""


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
        soft: weight of the teacher's probabilities, beside 1 for the labels; 0 where they were not learned.
        temperature: that the logits of both were divided by, where they were.
        risk: weight of outputs that would be wrong, beside 1 for the labels; 0 where they were not counted.

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
    soft: float = 0.0
    temperature: float | None = None
    risk: float = 0.0


MATCHES = {
    "mse": "squared distance of hidden states (TinyBERT)",
    "cosine": "their angle alone (DistilBERT)",
}
"""How hidden states are compared."""

ATTENDS = {
    "relations": "how queries, keys and values of the last layer relate (MiniLM); heads may differ",
    "maps": "attention probabilities of all layers (TinyBERT); as many heads on both sides",
}
"""What of the attention is compared."""


@dataclass(frozen=True)
class Signals:
    """What a student learns from: hard x labels + (1 - hard) x teacher's answers + hidden x states + attention x attention.

    Attributes:
        temperature: that the answers of both are divided by.
        hard: share of people's labels in what is learned of answers, from 0 to 1.
        hidden: weight of hidden states, or 0.
        attention: weight of attention, or 0.
        match: a key of `MATCHES`.
        attend: a key of `ATTENDS`.
        smoothing: of people's labels, where each text has one.

    Raises:
        UsageError: one is out of its range.

    """

    temperature: float = 2.0
    hard: float = 0.5
    hidden: float = 1.0
    attention: float = 0.0
    match: str = "mse"
    attend: str = "relations"
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        for kind, chosen, choices in (("match", self.match, MATCHES), ("attend", self.attend, ATTENDS)):
            if chosen not in choices:
                raise unknown(kind, chosen, choices)
        for name, value, low, high in (
            ("temperature", self.temperature, 0.1, 100.0), ("hard", self.hard, 0.0, 1.0),
            ("hidden", self.hidden, 0.0, 1e6), ("attention", self.attention, 0.0, 1e6),
            ("smoothing", self.smoothing, 0.0, 0.9),
        ):  # fmt: skip
            if not low <= value <= high:
                raise UsageError(f"--{name} is {value:g}; it goes from {low:g} to {high:g}.")


@dataclass(frozen=True)
class StudentScore:
    """How a student does on texts that it was not trained on.

    Attributes:
        part: "dev", whose texts chose the step that was kept, or "test", whose texts chose nothing.
        texts: examples.
        agreement: what `agreed` is: "equal decisions", "cosine similarity"...
        agreed: of the student with its teacher, mean over the examples; 1 is the same.
        metric: of labels, or None where there are none.
        teacher: the teacher's.
        before: the student's before training.
        student: the student's.

    """

    part: str
    texts: int
    agreement: str
    agreed: float
    metric: str | None = None
    teacher: float | None = None
    before: float | None = None
    student: float | None = None


@dataclass(frozen=True)
class DistilledEncoder:
    """A classifier, tagger or sentence encoder that learned from a larger one.

    Attributes:
        trained: how the training went.
        task: pipeline id.
        teacher: its name.
        student: what the student was: a folder's name, or the teacher's own layers.
        layers: the teacher's layers that it began as, from 0, where it did.
        parameters: of the teacher, and of the student.
        texts: that it was trained on.
        max_tokens: where they were cut.
        signals: what was learned, as it was used: `hard` is 0 where nothing is labelled.
        scores: on dev texts, and on test texts where there are some; empty while a training is paused.
        folder: of the student, or, while the training is paused, of its checkpoints.

    """

    trained: Trained
    task: str
    teacher: str
    student: str
    layers: tuple[int, ...] | None
    parameters: tuple[int, int]
    texts: int
    max_tokens: int
    signals: Signals
    scores: tuple[StudentScore, ...]
    folder: str
