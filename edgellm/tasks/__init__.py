"""Tasks: from a raw input to passes, and from their outputs to a value. One file each, named by the pipeline id.

A task's module is the plugin: it satisfies `Task`. Everything that needs torch or a metric's library is imported inside
functions, so that decoding works on a device. A raw input is a text, or an object with the arguments that the
transformers pipeline of that name takes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from edgellm import plugins
from edgellm.core.manifest import TaskOptions
from edgellm.core.signature import OutputSpec
from edgellm.errors import unknown
from edgellm.tasks import _encoding

if TYPE_CHECKING:
    from torch import nn

    from edgellm.core.signature import Outputs

Encoding = _encoding.Encoding
Tokenizer = _encoding.Tokenizer


@dataclass(frozen=True)
class Facts:
    """What a task may read of a source model.

    Attributes:
        config: of the model.
        folder: of `save_pretrained`, or None.
        tokenizer: tokenizer_config.json, or empty.
        vocabulary: piece to id.
        pooling: what the user asked for, or None.
        alternatives: tokens of a slot that the graph is to name.

    """

    config: Mapping[str, object]
    folder: Path | None = None
    tokenizer: Mapping[str, object] = field(default_factory=dict)
    vocabulary: Mapping[str, int] = field(default_factory=dict)
    pooling: str | None = None
    alternatives: int = 1


@dataclass(frozen=True)
class Example:
    """A labelled example.

    Attributes:
        inputs: raw inputs whose values together are predicted from: one, or two vectors to compare.
        gold: what people said, in the form in which the task predicts.

    """

    inputs: tuple[object, ...]
    gold: object


class Task(Protocol):
    """What a file in `tasks/` provides.

    A raw input becomes one or more encodings (a question over a long context takes several passes), each pass
    gives outputs, and all of an input's outputs together become one value.
    """

    OUTPUT: str
    """Name of the graph's output that `decode` reads."""
    METRIC: str
    """What `agree` compares, for people."""
    EXACT: float | None
    """Share of golden cases whose answer has to be the source's to the letter; None where answers are no texts."""
    GOLDEN_CASES: int
    """Golden cases that a bundle of this task holds: more where a case is only a decision."""
    ARCHITECTURES: tuple[str, ...]
    """Suffixes of `config.architectures` that mean this task; empty where it has to be asked for."""
    WINDOWS: bool
    """Whether long texts are read in overlapping windows; where not, they are cut."""
    COLUMNS: str
    """The columns of a row of labelled data, for people."""
    LIBRARIES: tuple[str, ...]
    """Modules that scoring labelled data imports; all are in the `eval` extra."""
    right: Callable[[object, object], bool] | None
    """Whether a prediction is right, from gold and prediction; None where it is not right or wrong but near or far."""

    def encode(self, raw: object, tokenizer: Tokenizer, options: TaskOptions) -> list[Encoding]:
        """Return the passes for one raw input, or raise InputError."""
        ...

    def decode(
        self,
        raw: object,
        encodings: Sequence[Encoding],
        outputs: Sequence[Outputs],
        options: TaskOptions,
        tokenizer: Tokenizer,
    ) -> object:
        """Return the value of one input from the outputs of its passes."""
        ...

    def agree(self, source: object, other: object, options: TaskOptions) -> float:
        """Return how well one value agrees with the source's, 1 is perfect; both may have been JSON."""
        ...

    def golden(self, texts: Sequence[str], options: TaskOptions) -> list[object]:
        """Return raw inputs made of the project's own texts, as many as there are texts."""
        ...

    def bench(self, text: str, options: TaskOptions) -> object:
        """Return the raw input that a text of any length is timed as."""
        ...

    def read_options(self, facts: Facts) -> TaskOptions:
        """Return the options of a model from its configuration (and its own files), or raise InputError."""
        ...

    def output_spec(self, config: Mapping[str, object], options: TaskOptions) -> OutputSpec:
        """Return name and shape of the graph's one output."""
        ...

    def auto_class(self) -> str:
        """Return the transformers auto class that loads a model for this task."""
        ...

    def wrap(self, model: nn.Module, options: TaskOptions) -> nn.Module:
        """Return a module from token inputs to the task's output tensor."""
        ...

    def example(self, row: Mapping[str, object], options: TaskOptions) -> Example:
        """Return the example in a row of labelled data, or raise InputError that names what is wrong with the row."""
        ...

    def predict(self, values: Sequence[object], options: TaskOptions) -> object:
        """Return the prediction of an example from the values of its inputs, in the form of its gold."""
        ...

    def metrics(self, golds: Sequence[object], predictions: Sequence[object]) -> dict[str, float]:
        """Return the task's metrics by name, the one that decides first; 1 is perfect."""
        ...


def special_token(tokenizer: Mapping[str, object], name: str) -> str:
    """Return a special token that tokenizer_config.json names ("mask_token"), or an empty string."""
    token = tokenizer.get(name)
    return str((token.get("content") if isinstance(token, Mapping) else token) or "")


_USUAL = {"mask_token": ("[MASK]", "<mask>"), "pad_token": ("[PAD]", "<pad>"), "unk_token": ("[UNK]", "<unk>")}
"""What old checkpoints do not say, because their tokenizer's class knew it."""


def find_special(facts: Facts, name: str) -> str | None:
    """Return a special token of `_USUAL` that is in the vocabulary: the named one, or a usual one where none is named."""
    named = special_token(facts.tokenizer, name)
    return next((token for token in ([named] if named else _USUAL[name]) if token in facts.vocabulary), None)


def task_names() -> list[str]:
    """Return the names of all tasks, sorted."""
    return plugins.names("edgellm.tasks")


def load_task(name: str) -> Task:
    """Return the task `name`.

    Raises:
        UsageError: no such task; the message names the nearest.

    """
    if name not in task_names():
        raise unknown("task", name, task_names())
    return cast(Task, plugins.load("edgellm.tasks", name))
