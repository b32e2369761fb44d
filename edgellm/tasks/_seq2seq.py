"""What the sequence-to-sequence tasks share: from a text to another text in one forward pass.

The value is {"text", "score"}: the text, and the probability that the model gives it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from edgellm.core.manifest import TaskOptions
from edgellm.errors import InputError
from edgellm.tasks import Example, _classifier, _ctc, _row

if TYPE_CHECKING:
    from edgellm.tasks import Facts

METRIC = "equal words, by edits"
GOLDEN_CASES = 288
COLUMNS = "text and target; several targets that are all right are a list"
LIBRARIES = ("jiwer", "rouge_score", "sacrebleu", "scipy")
OUTPUT = "slots"
EXACT = 0.95
"""Share of golden cases whose text has to be the source's to the letter, beside the gate's agreement."""


def read_shape(facts: Facts) -> tuple[int, int]:
    """Return the id of a place that says nothing, and the places for each token.

    Raises:
        InputError: the model's configuration does not say them.

    """
    _classifier.refuse_pooling(facts)
    blank, slots = facts.config.get("pad_token_id"), facts.config.get("slots_per_token")
    if not isinstance(blank, int) or not isinstance(slots, int) or slots < 1:
        raise InputError(
            "The model's config.json has no pad_token_id and slots_per_token, which a one-pass model says.",
            hint="'edgellm distill' makes such models for ctc-seq2seq.",
        )
    return blank, slots


def ensure_exact(config: Mapping[str, object], least: int) -> None:
    """Raise where a vocabulary has fewer tokens than a graph names, or ids that float32 can't hold."""
    size = config.get("vocab_size")
    if isinstance(size, int) and not least <= size <= _ctc.LARGEST_ID:
        raise InputError(f"The model has a vocabulary of {size} tokens; {least} to 2^24 can be named.")


def agree(source: object, other: object, options: TaskOptions) -> float:
    """Return 1 minus the edits from the source's words to the other's, by how many there are; at least 0."""
    x, y = (cast("dict[str, Any]", value) for value in (source, other))
    if not math.isfinite(y["score"]):
        return 0.0
    expected, got = x["text"].split(), y["text"].split()
    return max(0.0, 1.0 - _ctc.edits(expected, got) / max(len(expected), 1))


def golden(texts: Sequence[str], options: TaskOptions) -> list[object]:
    """Return the texts."""
    return list(texts)


def bench(text: str, options: TaskOptions) -> object:
    """Return the text."""
    return text


def example(row: Mapping[str, object], options: TaskOptions) -> Example:
    """Return a text, and every text that is right for it."""
    text = _row.text_of(_row.column(row, "text", COLUMNS), "text")
    target = _row.column(row, "target", COLUMNS)
    golds = [target] if isinstance(target, str) else _row.texts_of(target, "target")
    return Example((text,), tuple(" ".join(gold.split()) for gold in golds))


def predict(values: Sequence[object], options: TaskOptions) -> object:
    """Return the text, with single spaces."""
    return " ".join(cast("dict[str, Any]", values[0])["text"].split())


def metrics(golds: Sequence[object], predictions: Sequence[object]) -> dict[str, float]:
    """Return the share of exact texts, 1 minus the error rate of words (of phones, where those are the words), by jiwer,
    BLEU and chrF by sacrebleu, and ROUGE-L by rouge-score.

    Of several right texts the nearest counts.
    """
    import jiwer
    import sacrebleu
    from rouge_score.rouge_scorer import RougeScorer

    nearest = [
        min(cast("tuple[str, ...]", gold), key=lambda each: _ctc.edits(each.split(), said.split()))
        for gold, said in zip(golds, cast("Sequence[str]", predictions), strict=True)
    ]
    said = list(cast("Sequence[str]", predictions))
    pairs = list(zip(nearest, said, strict=True))
    rouge = RougeScorer(["rougeL"], tokenizer=_Words())  # its own knows a to z alone
    return {
        "exact match": sum(a == b for a, b in pairs) / len(pairs),
        "token accuracy": 1.0 - float(jiwer.wer(nearest, said)),
        "BLEU": sacrebleu.corpus_bleu(said, [nearest], tokenize="none").score / 100,
        "chrF": sacrebleu.corpus_chrf(said, [nearest]).score / 100,
        "ROUGE-L": sum(rouge.score(a, b)["rougeL"].fmeasure for a, b in pairs) / len(pairs),
    }


class _Words:
    """Splits at spaces, for ROUGE."""

    def tokenize(self, text: str) -> list[str]:
        return text.split()


def right(gold: object, prediction: object) -> bool:
    """Tell whether the prediction is one of the right texts."""
    return prediction in cast("tuple[str, ...]", gold)
