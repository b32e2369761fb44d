"""Labelled data of any task: rows of a file to examples, and values back to predictions."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from edgellm.core.manifest import TaskOptions
from edgellm.errors import InputError, MissingDependencyError
from edgellm.stages.rows import read_placed
from edgellm.tasks import Example, Task


def read_examples(path: Path, task: Task, options: TaskOptions) -> list[Example]:
    """Return the examples in a file of labelled data, or in a saved dataset (see `read_rows`).

    Raises:
        InputError: it can't be read, or a row does not fit the task or has an empty text; the message names the line.
        MissingDependencyError: a library that scores the task, or reads a dataset, is not installed.

    """
    for library in task.LIBRARIES:
        if importlib.util.find_spec(library) is None:
            raise MissingDependencyError(
                f"Scoring labelled data needs {library}.", hint="Install it with: pip install 'edgellm[eval]'"
            )
    examples: list[Example] = []
    for place, row in read_placed(path):
        try:
            examples.append(task.example(row, options))
        except InputError as error:
            raise InputError(f"{path} {place}: {error.args[0]}", hint=error.hint) from None
        if not all(text.strip() for text in texts_in(examples[-1:])):
            raise InputError(f"{path} {place} has an empty text.")
        if type(examples[-1].gold) is not type(examples[0].gold):
            raise InputError(f"{path} {place} is of another kind than the first.", hint=f"Columns: {task.COLUMNS}.")
    return examples


def texts_in(examples: Iterable[Example]) -> Iterator[str]:
    """Yield every text that stands in a raw input of an example."""
    for example in examples:
        yield from strings_in(example.inputs)


def raw_inputs(examples: Iterable[Example]) -> list[object]:
    """Return the raw inputs of all examples, in their order."""
    return [raw for example in examples for raw in example.inputs]


def predictions(
    examples: Sequence[Example], values: Iterable[object], task: Task, options: TaskOptions
) -> list[object]:
    """Return what is predicted of each example from the values of its raw inputs."""
    rest = iter(values)
    return [task.predict(list(islice(rest, len(example.inputs))), options) for example in examples]


def strings_in(value: object) -> Iterator[str]:
    """Yield every text that stands in a raw input, or in a sequence of them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from strings_in(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from strings_in(item)
