"""sentence-similarity: how well each of some texts fits another, by a cross-encoder that reads both at once.

One pass per pair, as for reranking what a search found. The value is a list of scores in the order of the texts; they lie
between 0 and 1 by the logistic function, unless the model's configuration says that it was trained for regression.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

import numpy as np

from edgellm.core.manifest import TaskOptions
from edgellm.errors import InputError
from edgellm.tasks import Example, _classifier, _metrics, _row

if TYPE_CHECKING:
    from edgellm.core.signature import Outputs
    from edgellm.tasks import Encoding, Facts, Tokenizer

NAME = "sentence-similarity"
METRIC = "1 - largest difference of a score"
EXACT = None
GOLDEN_CASES = 288
ARCHITECTURES = ()
WINDOWS = False
COLUMNS = "source_sentence, sentences (a list) and relevance (a list of numbers); or text, text_pair and score"
LIBRARIES = ("sklearn", "scipy")
OUTPUT = _classifier.LOGITS

output_spec = _classifier.logits_spec
wrap = _classifier.wrap_logits
right = None


def encode(raw: object, tokenizer: Tokenizer, options: TaskOptions) -> list[Encoding]:
    """Return a pass per pair, cut at the end of the longer text."""
    given = _row.arguments(raw, NAME, required=["source_sentence", "sentences"])
    source = _row.text_of(given["source_sentence"], "source_sentence")
    return [tokenizer.encode(source, text) for text in _row.texts_of(given["sentences"], "sentences")]


def decode(
    raw: object, encodings: Sequence[Encoding], outputs: Sequence[Outputs], options: TaskOptions, tokenizer: Tokenizer
) -> object:
    """Return [float, ...], a score per text in their order."""
    logits = _classifier.logits_of(outputs)[:, 0]
    scores = _classifier.sigmoid(logits) if options.scores == "sigmoid" else logits
    return [float(score) for score in scores]


def agree(source: object, other: object, options: TaskOptions) -> float:
    """Return 1 minus the largest difference, at least 0; where scores are not probabilities, relative to their spread."""
    x, y = np.asarray(source, dtype=np.float64), np.asarray(other, dtype=np.float64)
    if not np.isfinite(y).all():
        return 0.0
    scale = 1.0 if options.scores == "sigmoid" else max(1.0, float(np.abs(x).max()))
    return max(0.0, 1.0 - float(np.abs(x - y).max()) / scale)


def golden(texts: Sequence[str], options: TaskOptions) -> list[object]:
    """Return each text with its two neighbours."""
    return [
        {"source_sentence": text, "sentences": [texts[i - 1], texts[(i + 1) % len(texts)]]}
        for i, text in enumerate(texts)
    ]


def bench(text: str, options: TaskOptions) -> object:
    """Return the text against a short one: one pass."""
    return {"source_sentence": "What is it?", "sentences": [text]}


def read_options(facts: Facts) -> TaskOptions:
    """Return the one label, and how its logit becomes a score."""
    _classifier.refuse_pooling(facts)
    labels = _classifier.labels_of(facts.config)
    if len(labels) != 1:
        raise InputError(
            f"sentence-similarity takes a cross-encoder with one output; this model has {len(labels)}: {', '.join(labels[:5])}.",
            hint="--task text-classification takes pairs as well.",
        )
    return TaskOptions(labels=labels, scores="none" if facts.config.get("problem_type") == "regression" else "sigmoid")


def auto_class() -> str:
    """Return the auto class of a classifier."""
    return _classifier.AUTO_CLASS


def example(row: Mapping[str, object], options: TaskOptions) -> Example:
    """Return a text with those it is compared with and how relevant people found them, or a pair and its score."""
    if "sentences" not in row:
        first, second = (_row.text_of(_row.column(row, name, COLUMNS), name) for name in ("text", "text_pair"))
        score = _row.number_of(_row.column(row, "score", COLUMNS), "score")
        return Example(({"source_sentence": first, "sentences": [second]},), score)
    source = _row.text_of(_row.column(row, "source_sentence", COLUMNS), "source_sentence")
    texts = _row.texts_of(row["sentences"], "sentences")
    given = _row.column(row, "relevance", COLUMNS)
    if not isinstance(given, (list, tuple)) or len(given) != len(texts):
        raise InputError(f"relevance is no list of {len(texts)} numbers, one per sentence.")
    relevance = tuple(_row.number_of(item, "an item of relevance") for item in given)
    if min(relevance) < 0 or max(relevance) == 0 or len(texts) < 2:
        raise InputError("relevance needs two sentences or more, none below 0 and one above it.")
    return Example(({"source_sentence": source, "sentences": texts},), relevance)


def predict(values: Sequence[object], options: TaskOptions) -> object:
    """Return the scores of a ranking, or the one of a pair."""
    scores = tuple(cast("Sequence[float]", values[0]))
    return scores[0] if len(scores) == 1 else scores


def metrics(golds: Sequence[object], predictions: Sequence[object]) -> dict[str, float]:
    """Return MRR and nDCG of rankings, or the correlations of pairs.

    MRR is the mean over rankings of 1 / the place of the first relevant text. scikit-learn has it as label ranking average
    precision, once only the best placed of the relevant texts counts as one.
    """
    if isinstance(golds[0], float):
        return _metrics.of_numbers(golds, predictions)
    from sklearn.metrics import label_ranking_average_precision_score, ndcg_score

    relevance, scores = ([np.array([item], dtype=np.float64) for item in column] for column in (golds, predictions))
    first = [
        (np.arange(y.shape[1]) == np.where(x > 0, y, -np.inf).argmax())[None]
        for x, y in zip(relevance, scores, strict=True)
    ]
    return {
        "MRR": float(
            np.mean([label_ranking_average_precision_score(x, y) for x, y in zip(first, scores, strict=True)])
        ),
        "nDCG": float(np.mean([ndcg_score(x, y) for x, y in zip(relevance, scores, strict=True)])),
    }
