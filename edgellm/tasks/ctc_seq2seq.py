"""ctc-seq2seq: a text to another text in one forward pass, by models that `edgellm distill` makes.

A raw input is a text, or {"text": ..., "alternatives": n} where the bundle was built with `--alternatives`. The value is
{"text", "score"}, as speech recognition by CTC gives its text; with alternatives, likeliest first, each has both. `score` is
the probability of the one path that was read, or of all paths of an alternative.

The graph names the likeliest token of each slot, or several: all that is left to do is to collapse them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from edgellm.core.manifest import TaskOptions
from edgellm.core.signature import TOKENS, OutputSpec
from edgellm.errors import InputError, UsageError
from edgellm.tasks import Example, _classifier, _ctc, _row

if TYPE_CHECKING:
    from torch import nn

    from edgellm.core.signature import Outputs
    from edgellm.tasks import Encoding, Facts, Tokenizer

NAME = "ctc-seq2seq"
METRIC = "equal words, by edits"
GOLDEN_CASES = 288
ARCHITECTURES = ("CtcForSeq2Seq",)
WINDOWS = False
COLUMNS = "text and target; several targets that are all right are a list"
LIBRARIES = ("jiwer", "rouge_score", "sacrebleu", "scipy")
OUTPUT = "slots"
EXACT: float | None = 0.95
"""Share of golden cases whose text has to be the source's to the letter, beside the gate's agreement."""

MOST = 16
"""Tokens of a slot that a graph names at most."""


def encode(raw: object, tokenizer: Tokenizer, options: TaskOptions) -> list[Encoding]:
    """Return the one pass of a text."""
    return [tokenizer.encode(_asked(raw, options)[0])]


def decode(
    raw: object, encodings: Sequence[Encoding], outputs: Sequence[Outputs], options: TaskOptions, tokenizer: Tokenizer
) -> object:
    """Return {"text", "score"}, or {"text", "score", "alternatives"} where they were asked for."""
    _, wanted = _asked(raw, options)
    rows = outputs[0][OUTPUT][0][: len(encodings[0].ids)].reshape(-1, options.alternatives, 2)
    slots = [[(float(probability), int(id)) for probability, id in slot] for slot in rows]
    blank = cast(int, options.pad_id)

    def said(found: _ctc.Found) -> dict[str, object]:
        return {"text": tokenizer.text(found.ids, special=False), "score": found.score}

    if not all(math.isfinite(probability) for slot in slots for probability, _ in slot):
        return {"text": "", "score": math.nan}
    if not wanted:
        return said(_ctc.best_path(slots, blank))
    found = [said(each) for each in _ctc.beam_search(slots, blank, best=wanted)]
    return {**found[0], "alternatives": found}


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


def read_options(facts: Facts) -> TaskOptions:
    """Return blank and slots.

    Raises:
        InputError: the model is no CtcForSeq2Seq.
        UsageError: too many alternatives.

    """
    _classifier.refuse_pooling(facts)
    blank, slots = facts.config.get("pad_token_id"), facts.config.get("slots_per_token")
    if not isinstance(blank, int) or not isinstance(slots, int) or slots < 1:
        raise InputError(
            "The model's config.json has no pad_token_id and slots_per_token, which a ctc-seq2seq model says.",
            hint="'edgellm distill' makes such models.",
        )
    if not 1 <= facts.alternatives <= MOST:
        raise UsageError(f"--alternatives is {facts.alternatives}; a slot has 1 to {MOST}.")
    return TaskOptions(pad_id=blank, slots=slots, alternatives=facts.alternatives)


def output_spec(config: Mapping[str, object], options: TaskOptions) -> OutputSpec:
    """Return [1, tokens, slots * alternatives * 2]: for each slot of each token, probability and id of its likeliest tokens."""
    size = config.get("vocab_size")
    if isinstance(size, int) and not options.alternatives <= size <= _ctc.LARGEST_ID:
        raise InputError(f"The model has a vocabulary of {size} tokens; {NAME} takes {options.alternatives} to 2^24.")
    return OutputSpec(OUTPUT, "float32", (1, TOKENS, options.slots * options.alternatives * 2))


def auto_class() -> str:
    """Return the auto class of a model trained by CTC."""
    return "AutoModelForCTC"


def wrap(model: nn.Module, options: TaskOptions) -> nn.Module:
    """Return the model with the likeliest tokens of each slot as the graph's one output."""
    from edgellm.tasks._torch import Slots

    return Slots(model, slots=options.slots, top=options.alternatives)


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
    rouge = RougeScorer(["rougeL"])
    return {
        "exact match": sum(a == b for a, b in pairs) / len(pairs),
        "token accuracy": 1.0 - float(jiwer.wer(nearest, said)),
        "BLEU": sacrebleu.corpus_bleu(said, [nearest], tokenize="none").score / 100,
        "chrF": sacrebleu.corpus_chrf(said, [nearest]).score / 100,
        "ROUGE-L": sum(rouge.score(a, b)["rougeL"].fmeasure for a, b in pairs) / len(pairs),
    }


def right(gold: object, prediction: object) -> bool:
    """Tell whether the prediction is one of the right texts."""
    return prediction in cast("tuple[str, ...]", gold)


def _asked(raw: object, options: TaskOptions) -> tuple[str, int]:
    """Return the text, and how many alternatives were asked for; 0 for the one path that the graph names."""
    if isinstance(raw, str):
        return raw, 0
    given = _row.arguments(raw, NAME, required=["text"], optional=["alternatives"])
    text = _row.text_of(given["text"], "text")
    if given.get("alternatives") is None:
        return text, 0
    wanted = _row.whole_of(given["alternatives"], "alternatives", least=1)
    if options.alternatives == 1:
        raise InputError(
            "This bundle names one token for each slot, so there are no alternatives.",
            hint="Build with --alternatives 8, the likeliest tokens of a slot that are kept.",
        )
    return text, wanted
