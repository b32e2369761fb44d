"""text-classification: a text, or a pair, to labels with scores, best first, as the pipeline gives with top_k=None."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from edgellm.core.manifest import TaskOptions
from edgellm.errors import InputError
from edgellm.tasks import Example, _classifier, _metrics, _row

if TYPE_CHECKING:
    from edgellm.core.signature import Outputs
    from edgellm.tasks import Encoding, Facts, Tokenizer

NAME = "text-classification"
METRIC = "equal decisions"
EXACT = None
GOLDEN_CASES = 288
ARCHITECTURES = ("ForSequenceClassification",)
WINDOWS = False
COLUMNS = "text, label, and text_pair for pairs; several labels are a list, or separated by commas"
LIBRARIES = ("sklearn", "scipy")
OUTPUT = _classifier.LOGITS

output_spec = _classifier.logits_spec
wrap = _classifier.wrap_logits


def encode(raw: object, tokenizer: Tokenizer, options: TaskOptions) -> list[Encoding]:
    """Return the one pass of a text, or of {"text": ..., "text_pair": ...}."""
    if isinstance(raw, str):
        return [tokenizer.encode(raw)]
    given = _row.arguments(raw, NAME, required=["text"], optional=["text_pair"])
    text, pair = _row.text_of(given["text"], "text"), given.get("text_pair")
    return [tokenizer.encode(text, None if pair is None else _row.text_of(pair, "text_pair"))]


def decode(
    raw: object, encodings: Sequence[Encoding], outputs: Sequence[Outputs], options: TaskOptions, tokenizer: Tokenizer
) -> object:
    """Return [{"label": str, "score": float}, ...], highest score first."""
    logits = _classifier.logits_of(outputs)[0]
    scores = {"softmax": _classifier.softmax, "sigmoid": _classifier.sigmoid}.get(options.scores, np.asarray)(logits)
    order = np.argsort(-scores, kind="stable")
    return [{"label": options.labels[i], "score": float(scores[i])} for i in order]


def agree(source: object, other: object, options: TaskOptions) -> float:
    """Return 1 where the decision is the same, else 0; for regression 1 minus the distance, at least 0."""
    x, y = _scores(source), _scores(other)
    if not all(math.isfinite(score) for score in y.values()):
        return 0.0
    if options.scores == "none":
        return max(0.0, 1.0 - max(abs(x[label] - y[label]) for label in x))
    return float(_decision(source, options) == _decision(other, options))


def golden(texts: Sequence[str], options: TaskOptions) -> list[object]:
    """Return the texts."""
    return list(texts)


def bench(text: str, options: TaskOptions) -> object:
    """Return the text."""
    return text


def read_options(facts: Facts) -> TaskOptions:
    """Return labels and score function as the transformers pipeline chooses them from the configuration."""
    _classifier.refuse_pooling(facts)
    labels = _classifier.labels_of(facts.config)
    kind = facts.config.get("problem_type")
    if kind == "regression":
        scores = "none"
    elif kind == "multi_label_classification" or len(labels) == 1:
        scores = "sigmoid"
    else:
        scores = "softmax"
    return TaskOptions(labels=labels, scores=scores)


def auto_class() -> str:
    """Return the auto class of a classifier."""
    return _classifier.AUTO_CLASS


def example(row: Mapping[str, object], options: TaskOptions) -> Example:
    """Return a text or pair, and its label, its labels as a sorted tuple, or its number."""
    text = _row.text_of(_row.column(row, "text", COLUMNS), "text")
    pair = row.get("text_pair")
    raw: object = text if pair is None else {"text": text, "text_pair": _row.text_of(pair, "text_pair")}
    label = _row.column(row, "label", COLUMNS)
    if options.scores == "softmax":
        return Example((raw,), _row.known_label(label, options.labels))
    if options.scores == "none":
        if len(options.labels) != 1:
            raise InputError("A regression with several numbers can't be scored.")
        return Example((raw,), _row.number_of(label, "label"))
    if len(options.labels) == 1:
        return Example((raw,), _yes_or_no(label, options.labels[0]))
    names = label if isinstance(label, (list, tuple)) else [part for part in str(label).split(",") if part.strip()]
    return Example((raw,), tuple(sorted(_row.known_label(name, options.labels) for name in names)))


def predict(values: Sequence[object], options: TaskOptions) -> object:
    """Return the label, the sorted labels of a probability above one half, or the number."""
    if options.scores == "none":
        return next(iter(_scores(values[0]).values()))
    decision = _decision(values[0], options)
    return decision[0] if options.scores == "softmax" else decision


def metrics(golds: Sequence[object], predictions: Sequence[object]) -> dict[str, float]:
    """Return accuracy and macro-F1; for several labels macro-F1 and exact accuracy; for numbers the correlations."""
    if isinstance(golds[0], float):
        return _metrics.of_numbers(golds, predictions)
    if isinstance(golds[0], str):
        return _metrics.of_labels(golds, predictions)
    from sklearn.metrics import accuracy_score, f1_score
    from sklearn.preprocessing import MultiLabelBinarizer

    several = MultiLabelBinarizer().fit([*golds, *predictions])
    x, y = several.transform(golds), several.transform(predictions)
    return {
        "macro-F1": float(f1_score(x, y, average="macro", zero_division=0)),
        "exact accuracy": float(accuracy_score(x, y)),
    }


def right(gold: object, prediction: object) -> bool:
    """Tell whether the decision is the people's; a number never is quite."""
    return gold == prediction


def _scores(value: object) -> dict[str, float]:
    return {item["label"]: item["score"] for item in cast("list[dict[str, Any]]", value)}


def _decision(value: object, options: TaskOptions) -> tuple[str, ...]:
    """Return the best label; where several may hold, the sorted ones of a probability above one half."""
    scores = _scores(value)
    if options.scores == "softmax":
        return (next(iter(scores)),)
    return tuple(sorted(label for label, score in scores.items() if score > 0.5))


def _yes_or_no(value: object, label: str) -> tuple[str, ...]:
    """Return (label,) or (): a model of one label says whether it holds."""
    text = str(value).strip().lower()
    if text in (label.lower(), "1", "true", "yes"):
        return (label,)
    if text in ("", "0", "false", "no"):
        return ()
    raise InputError(f"label is '{value}'; for this model it is {label}, 1 or 0.")
