"""Tasks: from an input to feeds, and from outputs to a value. One file each, named by the pipeline id.

A task's module is the plugin: it satisfies `Task`. Everything that needs torch is imported inside functions, so
that decoding works on a device.
"""

from __future__ import annotations

from collections.abc import Sequence
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

Encode = _encoding.Encode
Encoding = _encoding.Encoding


class Task(Protocol):
    """What a file in `tasks/` provides.

    A raw input becomes one or more encodings (a question over a long context takes several passes), each pass
    gives outputs, and all of an input's outputs together become one value.
    """

    OUTPUT: str
    """Name of the graph's output that `decode` reads."""
    METRIC: str
    """What `scores` compares, for people."""
    GOLDEN_CASES: int
    """Golden cases that a bundle of this task holds: more where a case is only a decision."""
    ARCHITECTURES: tuple[str, ...]
    """Suffixes of `config.architectures` that mean this task."""
    LABELLED: bool
    """Whether `--eval` texts with labels can score it."""

    def encode(self, text: object, encode: Encode) -> list[Encoding]:
        """Return the passes for one raw input, or raise InputError."""
        ...

    def decode(self, outputs: Sequence[Outputs], options: TaskOptions) -> object:
        """Return the value of one input from the outputs of its passes."""
        ...

    def scores(self, source: Sequence[Outputs], other: Sequence[Outputs], options: TaskOptions) -> list[float]:
        """Return per case how well `other` agrees with `source`, 1 is perfect."""
        ...

    def read_options(self, folder: Path | None, config: dict[str, object], pooling: str | None) -> TaskOptions:
        """Return the options of a model from its configuration (and its own files), or raise InputError."""
        ...

    def output_spec(self, config: dict[str, object], options: TaskOptions) -> OutputSpec:
        """Return name and shape of the graph's one output."""
        ...

    def auto_class(self) -> str:
        """Return the transformers auto class that loads a model for this task."""
        ...

    def wrap(self, model: nn.Module, options: TaskOptions) -> nn.Module:
        """Return a module from token inputs to the task's output tensor."""
        ...

    def check_labels(self, labels: Sequence[str], options: TaskOptions) -> None:
        """Raise InputError where `evaluate` could not score these labels. Only called if LABELLED."""
        ...

    def evaluate(self, outputs: Sequence[Outputs], labels: Sequence[str], options: TaskOptions) -> tuple[str, float]:
        """Return name and score of the task's metric on labelled cases. Only called if LABELLED."""
        ...


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
