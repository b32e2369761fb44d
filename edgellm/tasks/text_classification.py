"""text-classification: a text to labels with scores, best first, as the transformers pipeline gives with top_k=None."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgellm.core.manifest import TaskOptions
from edgellm.core.signature import OutputSpec
from edgellm.errors import InputError, UsageError
from edgellm.tasks._encoding import Encode, Encoding

if TYPE_CHECKING:
    from torch import nn

    from edgellm.core.signature import Outputs

METRIC = "equal decisions"
GOLDEN_CASES = 288
ARCHITECTURES = ("ForSequenceClassification",)
LABELLED = True
OUTPUT = "logits"


def encode(text: object, encode: Encode) -> list[Encoding]:
    """Return the one pass of a text."""
    if not isinstance(text, str):
        raise InputError(f"text-classification takes a text, not {type(text).__name__}.")
    return [encode(text, None)]


def decode(outputs: Sequence[Outputs], options: TaskOptions) -> object:
    """Return [{"label": str, "score": float}, ...], highest score first."""
    scores = _scores(outputs[0], options)
    order = np.argsort(-scores, kind="stable")
    return [{"label": options.labels[i], "score": float(scores[i])} for i in order]


def scores(source: Sequence[Outputs], other: Sequence[Outputs], options: TaskOptions) -> list[float]:
    """Return 1 where the decision is the same, else 0; for regression 1 minus the distance, at least 0."""
    return [_agree(a, b, options) for a, b in zip(source, other, strict=True)]


def read_options(folder: Path | None, config: dict[str, object], pooling: str | None) -> TaskOptions:
    """Return labels and score function as the transformers pipeline chooses them from the configuration."""
    if pooling is not None:
        raise UsageError("--pooling belongs to feature-extraction; a classifier has its own head.")
    labels = _labels(config)
    kind = config.get("problem_type")
    if kind == "regression":
        scores = "none"
    elif kind == "multi_label_classification" or len(labels) == 1:
        scores = "sigmoid"
    else:
        scores = "softmax"
    return TaskOptions(labels=labels, scores=scores)


def output_spec(config: dict[str, object], options: TaskOptions) -> OutputSpec:
    """Return [1, labels]."""
    return OutputSpec(OUTPUT, "float32", (1, len(options.labels)))


def auto_class() -> str:
    """Return the auto class of a classifier."""
    return "AutoModelForSequenceClassification"


def wrap(model: nn.Module, options: TaskOptions) -> nn.Module:
    """Return the classifier's logits as the graph's one output."""
    from edgellm.tasks._torch import Logits

    return Logits(model)


def evaluate(outputs: Sequence[Outputs], labels: Sequence[str], options: TaskOptions) -> tuple[str, float]:
    """Return the accuracy of the best label.

    Raises:
        InputError: a label that the model does not know, or a model whose answer is not one label.

    """
    check_labels(labels, options)
    from sklearn.metrics import accuracy_score

    predicted = [options.labels[int(np.argmax(case[OUTPUT][0]))] for case in outputs]
    return "accuracy", float(accuracy_score(list(labels), predicted))


def check_labels(labels: Sequence[str], options: TaskOptions) -> None:
    """Raise InputError for a label that the model does not know, or a model whose answer is not one label."""
    if options.scores != "softmax":
        kind = "a number (problem_type is regression)" if options.scores == "none" else "a yes or no per label"
        raise InputError(f"--eval scores one label per text, and this model gives {kind}.")
    strange = sorted(set(labels) - set(options.labels))
    if strange:
        raise InputError(
            f"The evaluation file has labels the model does not know: {', '.join(strange[:5])}.",
            hint=f"The model's labels are {', '.join(options.labels[:10])}.",
        )


def _scores(outputs: Outputs, options: TaskOptions) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    logits = outputs[OUTPUT][0].astype(np.float64)
    if options.scores == "softmax":
        shifted = np.exp(logits - logits.max())
        return np.asarray(shifted / shifted.sum())
    if options.scores == "sigmoid":
        # Split by sign so that exp never overflows.
        small = np.exp(-np.abs(logits))
        return np.where(logits >= 0, 1 / (1 + small), small / (1 + small))
    return logits


def _agree(a: Outputs, b: Outputs, options: TaskOptions) -> float:
    x, y = a[OUTPUT][0], b[OUTPUT][0]
    if not np.isfinite(y).all():
        return 0.0
    if options.scores == "softmax":
        return float(np.argmax(x) == np.argmax(y))
    if options.scores == "sigmoid":
        return float(((x > 0) == (y > 0)).all())
    return max(0.0, 1.0 - float(np.abs(x - y).max()))


def _labels(config: dict[str, object]) -> tuple[str, ...]:
    names = config.get("id2label")
    if isinstance(names, dict) and names:
        if not all(str(key).isdigit() for key in names):
            raise InputError("id2label in the model's config.json has keys that are no numbers.")
        return tuple(str(names[key]) for key in sorted(names, key=int))
    count = config.get("num_labels", 2)
    return tuple(f"LABEL_{i}" for i in range(count if isinstance(count, int) else 2))
