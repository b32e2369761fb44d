"""Labelled: the texts that an encoder learns from, as ids, with people's labels where there are some."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch

from edgellm.core.distill import DISTILLED
from edgellm.core.manifest import TaskOptions
from edgellm.core.training import IGNORED
from edgellm.errors import InputError, UsageError
from edgellm.runtime.tokenizer import Tokenizer
from edgellm.stages.examples import read_examples, strings_in
from edgellm.stages.rows import KINDS
from edgellm.stages.texts import ensure_disjoint, is_held_back, read_corpus
from edgellm.tasks import Encoding, Example, Task

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


_KINDS = {"softmax": "label", "sigmoid": "labels", "none": "number"}

KINDS_OF_LOGITS = {"label": "softmax", "tags": "softmax", "labels": "sigmoid", "number": "none"}
"""Kind of an answer to how its logits become scores; a vector has none."""


def kind_of(task: str, options: TaskOptions) -> str:
    """Return what an encoder answers: a "label", "labels", a "number", "tags" or a "vector".

    Raises:
        UsageError: encoders for the task are not distilled.

    """
    if task not in DISTILLED:
        raise UsageError(f"An encoder for {task} is not distilled here.", hint=f"Those for {', '.join(DISTILLED)} are.")
    return _KINDS[options.scores] if task == DISTILLED[0] else "tags" if task == DISTILLED[1] else "vector"


@dataclass(frozen=True)
class Texts:
    """Examples of one part; where they are not labelled, their gold is None."""

    examples: tuple[Example, ...]
    labelled: bool


def read_texts(path: Path, task: Task, options: TaskOptions) -> Texts:
    """Return labelled examples, or the lines of a .txt file.

    Raises:
        InputError: it can't be read, holds nothing, or has a label that the model does not know.
        MissingDependencyError: a library that scores the task is not installed.

    """
    if path.suffix.lower() == ".txt":
        return Texts(tuple(Example((text,), None) for text in read_corpus(path).texts), labelled=False)
    if not path.exists():
        raise InputError(f"There is no {path}.", hint=f"It takes {KINDS}, or a .txt file with a text on each line.")
    return Texts(tuple(read_examples(path, task, options)), labelled=True)


def read_parts(data: Path, dev: Path | None, test: Path | None, task: Task, options: TaskOptions) -> dict[str, Texts]:
    """Return the parts "train", "dev" and, where it is given, "test"; no text stands in two.

    Without dev texts, a tenth of the data by a hash of the text: the same text is always on the same side.

    Raises:
        InputError: as `read_texts`, or a text stands in two parts, or there are too few to hold some back.

    """
    parts = {"train": read_texts(data, task, options)}
    if dev is None:
        whole = parts["train"]
        held = [is_held_back(_whole(example)) for example in whole.examples]
        for name, keep in (("train", False), ("dev", True)):
            chosen = tuple(item for item, is_held in zip(whole.examples, held, strict=True) if is_held is keep)
            parts[name] = Texts(chosen, whole.labelled)
            if not chosen:
                raise InputError(
                    f"{data} has too few texts to hold some back: {len(whole.examples)}.", hint="Name dev texts."
                )
    else:
        parts["dev"] = read_texts(dev, task, options)
    if test is not None:
        parts["test"] = read_texts(test, task, options)
    ensure_disjoint(**{name: map(_whole, part.examples) for name, part in parts.items()})
    return parts


def encode(
    texts: Texts, task: Task, options: TaskOptions, tokenizer: Tokenizer, *, kind: str, names: Sequence[str]
) -> list[dict[str, object]]:
    """Return each pass of each raw input: "input_ids", "token_type_ids" where `names` has it, and "labels".

    What is not labelled has labels that no loss counts (see `losses.hard_labels`).
    """
    rows = []
    for example in texts.examples:
        for raw in example.inputs:
            for number, encoding in enumerate(task.encode(raw, tokenizer, options)):
                row: dict[str, object] = {"input_ids": list(encoding.ids)}
                if "token_type_ids" in names:
                    row["token_type_ids"] = list(encoding.type_ids)
                row["labels"] = _labels(example, raw, encoding, options, kind, first=number == 0)
                rows.append(row)
    return rows


def tags(raw: object, gold: object, encoding: Encoding, options: TaskOptions, *, first: bool) -> list[int]:
    """Return a label for each token of a pass: a word's for its first one, as the task decodes it, IGNORED for all others.

    Args:
        raw: with "words", spans of the text.
        gold: the words' labels; None where they are not known.
        encoding: of the pass.
        options: with the labels.
        first: whether it is the text's first pass.

    """
    labels = [IGNORED] * len(encoding.ids)
    if not isinstance(raw, Mapping) or gold is None:
        return labels
    tokens = [i for i, text in enumerate(encoding.texts) if text is not None]
    if not tokens:
        return labels
    # The first window has the text's beginning, even where its first letter is no token: an accent that is dropped.
    begins, ends = 0 if first else encoding.offsets[tokens[0]][0], [encoding.offsets[i][1] for i in tokens]
    for (start, end), tag in zip(raw["words"], cast("Sequence[str]", gold), strict=True):
        at = bisect_right(ends, start)
        # A window may begin inside a word, whose first token is then in the one before.
        if start >= begins and at < len(tokens) and encoding.offsets[tokens[at]][0] < end:
            labels[tokens[at]] = options.labels.index(tag)
    return labels


def collate(pad: int) -> Callable[[list[dict[str, object]]], dict[str, torch.Tensor]]:
    """Return what makes a batch of rows: int64 [B, T] tensors padded at the end, an attention mask, and labels.

    Args:
        pad: the id of padding.

    """
    fill = {"input_ids": pad, "token_type_ids": 0, "labels": IGNORED}

    def batch(rows: list[dict[str, object]]) -> dict[str, torch.Tensor]:
        longest = max(len(cast("list[int]", row["input_ids"])) for row in rows)
        tensors = {}
        for name in rows[0]:
            values = [row[name] for row in rows]
            if isinstance(values[0], list) and isinstance(values[0][0], int):
                filled = [[*item, *[fill[name]] * (longest - len(item))] for item in cast("list[list[int]]", values)]
                tensors[name] = torch.tensor(filled)
            else:
                tensors[name] = torch.tensor(values)
        lengths = torch.tensor([len(cast("list[int]", row["input_ids"])) for row in rows])
        tensors["attention_mask"] = (torch.arange(longest) < lengths[:, None]).long()
        return tensors

    return batch


def reduced(kind: str) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Return what is kept of a batch's logits for `scored`: the likeliest label where there is one, else all."""
    return lambda logits, labels: logits.argmax(-1) if kind in ("label", "tags") else logits


def scored(task: Task, options: TaskOptions, kind: str) -> Callable[[object], dict[str, float]]:
    """Return what makes the task's metrics of a Trainer's predictions, under names that it can log."""

    def compute(predicted: object) -> dict[str, float]:
        predictions, labels = predicted.predictions, predicted.label_ids  # type: ignore[attr-defined]
        golds = _read(labels, options, kind, labels, least=0.5)
        found = _read(predictions, options, kind, labels, least=0.0)
        return {metric_key(name): value for name, value in task.metrics(golds, found).items()}

    return compute


def metric_key(name: str) -> str:
    """Return the name of a metric as the Trainer logs it."""
    return name.replace(" ", "_")


def _read(
    values: NDArray[np.generic], options: TaskOptions, kind: str, labels: NDArray[np.generic], *, least: float
) -> list[object]:
    """Return labels, or what was predicted, in the form that metrics take."""
    names = options.labels
    if kind == "tags":
        return [tuple(names[int(i)] for i in row[known]) for row, known in zip(values, labels != IGNORED, strict=True)]
    if kind == "label":
        return [names[int(i)] for i in values]
    if kind == "number":
        return [float(row[0]) for row in values]
    return [tuple(sorted(name for name, value in zip(names, row, strict=True) if value > least)) for row in values]


def _labels(
    example: Example, raw: object, encoding: Encoding, options: TaskOptions, kind: str, *, first: bool
) -> object:
    gold = example.gold
    if kind == "vector":
        return 0.0  # nothing is compared with it
    if kind == "tags":
        return tags(raw, gold, encoding, options, first=first)
    if kind == "label":
        return IGNORED if gold is None else options.labels.index(str(gold))
    if gold is None:
        return [math.nan] * len(options.labels)
    if kind == "number":
        return [float(cast(float, gold))]
    return [float(label in cast("tuple[str, ...]", gold)) for label in options.labels]


def _whole(example: Example) -> str:
    return "\n".join(strings_in(example.inputs))
