"""zero-shot-classification: which of some labels fits a text, asked of a model that knows what follows from what.

One pass per label: does the text entail "This example is {label}."? Values have the fields of the transformers pipeline.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from edgellm.core.manifest import TaskOptions
from edgellm.errors import InputError
from edgellm.tasks import Example, _classifier, _metrics, _row

if TYPE_CHECKING:
    from edgellm.core.signature import Outputs
    from edgellm.tasks import Encoding, Facts, Tokenizer

NAME = "zero-shot-classification"
METRIC = "equal decisions"
EXACT = None
GOLDEN_CASES = 288
ARCHITECTURES = ()
WINDOWS = False
COLUMNS = "text, candidate_labels (a list, or separated by commas), and label"
LIBRARIES = ("sklearn", "scipy")
OUTPUT = _classifier.LOGITS
TEMPLATE = "This example is {}."
GOLDEN_LABELS = ("weather", "food", "a question")

output_spec = _classifier.logits_spec
wrap = _classifier.wrap_logits


def encode(raw: object, tokenizer: Tokenizer, options: TaskOptions) -> list[Encoding]:
    """Return a pass per label: the text, cut to leave the label whole, and the sentence that it may entail."""
    text, labels, template, _ = _arguments(raw)
    return [tokenizer.encode(text, template.format(label), cut="only_first") for label in labels]


def decode(
    raw: object, encodings: Sequence[Encoding], outputs: Sequence[Outputs], options: TaskOptions, tokenizer: Tokenizer
) -> object:
    """Return {"sequence": str, "labels": [str, ...], "scores": [float, ...]}, best first.

    Scores add up to 1 over the labels; with "multi_label", or one label alone, each is a probability of its own.
    """
    text, labels, _, several = _arguments(raw)
    logits = _classifier.logits_of(outputs)
    entails = _entailment(options.labels)
    if several or len(labels) == 1:
        contradicts = -1 if entails == 0 else 0
        scores = _classifier.softmax(logits[:, [contradicts, entails]])[:, 1]
    else:
        scores = _classifier.softmax(logits[:, entails])
    order = np.argsort(scores, kind="stable")[::-1]
    return {"sequence": text, "labels": [labels[i] for i in order], "scores": [float(scores[i]) for i in order]}


def agree(source: object, other: object, options: TaskOptions) -> float:
    """Return 1 where the best label is the same, else 0."""
    x, y = cast("Mapping[str, Any]", source), cast("Mapping[str, Any]", other)
    return float(bool(np.isfinite(y["scores"]).all()) and x["labels"][0] == y["labels"][0])


def golden(texts: Sequence[str], options: TaskOptions) -> list[object]:
    """Return each text with the same three labels."""
    return [{"sequences": text, "candidate_labels": list(GOLDEN_LABELS)} for text in texts]


def bench(text: str, options: TaskOptions) -> object:
    """Return the text with one label: one pass."""
    return {"sequences": text, "candidate_labels": ["weather"]}


def read_options(facts: Facts) -> TaskOptions:
    """Return the labels, one of which has to be entailment."""
    _classifier.refuse_pooling(facts)
    labels = _classifier.labels_of(facts.config)
    _entailment(labels)
    return TaskOptions(labels=labels)


def auto_class() -> str:
    """Return the auto class of a classifier."""
    return _classifier.AUTO_CLASS


def example(row: Mapping[str, object], options: TaskOptions) -> Example:
    """Return a text with its labels, and the right one of them."""
    text = _row.text_of(_row.column(row, "text", COLUMNS), "text")
    given = _row.column(row, "candidate_labels", COLUMNS)
    labels = _labels(given)
    label = str(_row.column(row, "label", COLUMNS)).strip()
    if label not in labels:
        raise InputError(f"label is '{label}', which is none of the candidates {', '.join(labels)}.")
    return Example(({"sequences": text, "candidate_labels": labels},), label)


def predict(values: Sequence[object], options: TaskOptions) -> object:
    """Return the best label."""
    return cast("Mapping[str, Any]", values[0])["labels"][0]


def metrics(golds: Sequence[object], predictions: Sequence[object]) -> dict[str, float]:
    """Return accuracy and macro-F1."""
    return _metrics.of_labels(golds, predictions)


def right(gold: object, prediction: object) -> bool:
    """Tell whether the label is the people's."""
    return gold == prediction


def _arguments(raw: object) -> tuple[str, list[str], str, bool]:
    """Return text, labels, template and whether several labels may hold."""
    given = _row.arguments(
        raw, NAME, required=["sequences", "candidate_labels"], optional=["hypothesis_template", "multi_label"]
    )
    template = _row.text_of(given.get("hypothesis_template", TEMPLATE), "hypothesis_template")
    try:
        fits = template.format("a") != template.format("b")
    except (IndexError, KeyError, ValueError):
        fits = False
    if not fits:
        raise InputError(f"hypothesis_template is '{template}'; it needs one {{}} for the label.")
    several = _row.flag_of(given.get("multi_label", False), "multi_label")
    return _row.text_of(given["sequences"], "sequences"), _labels(given["candidate_labels"]), template, several


def _labels(given: object) -> list[str]:
    """Return labels from a list, or from a text that separates them by commas."""
    labels = [part.strip() for part in given.split(",")] if isinstance(given, str) else given
    chosen = [label for label in _row.texts_of(labels, "candidate_labels") if label.strip()]
    if not chosen:
        raise InputError("candidate_labels is empty.")
    return chosen


def _entailment(labels: Sequence[str]) -> int:
    """Return which output means that the second text follows from the first."""
    for index, label in enumerate(labels):
        if label.lower().startswith("entail"):
            return index
    raise InputError(
        f"None of the model's labels ({', '.join(labels[:5])}) is entailment, which zero-shot-classification asks for.",
        hint="Build a model that was trained on natural language inference, with its labels in config.json.",
    )
