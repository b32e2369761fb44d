"""token-classification: the tags of a text's tokens, or the entities they make, as the transformers pipeline gives them.

A raw input is a text, or {"text": ..., "aggregation_strategy": ..., "ignore_labels": [...]} with the pipeline's defaults:
"none", and ["O"]. Beyond the pipeline, {"text": ..., "words": [[start, end], ...]} says where the words are, and has one
answer for each: the tag of its first token, whichever it is.

Texts longer than a pass are read in overlapping windows. Each token is taken from the window in which it has most text on
both sides, and everything is put together once, over the whole text: nothing is cut, and no entity ends where a window
does. The pipeline with `stride` puts each window together by itself and then drops what overlaps; that gives the same for
texts of one window, and may not for longer ones.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any, cast

from edgellm.core.manifest import TaskOptions
from edgellm.core.signature import TOKENS, OutputSpec
from edgellm.errors import InputError, unknown
from edgellm.tasks import Example, _classifier, _entities, _row, find_special

if TYPE_CHECKING:
    from edgellm.core.signature import Outputs
    from edgellm.tasks import Encoding, Facts, Tokenizer

NAME = "token-classification"
METRIC = "equal tags (F1)"
EXACT = None
GOLDEN_CASES = 288
ARCHITECTURES = ("ForTokenClassification",)
WINDOWS = True
COLUMNS = "tokens, a list of words, and tags, a list with the label of each; or both as texts, with spaces between"
LIBRARIES = ("seqeval", "sklearn", "scipy")
OUTPUT = _classifier.LOGITS

wrap = _classifier.wrap_logits


@dataclass(frozen=True)
class _Asked:
    text: str
    strategy: str = "none"
    ignored: tuple[str, ...] = ("O",)
    words: tuple[tuple[int, int], ...] | None = None


def encode(raw: object, tokenizer: Tokenizer, options: TaskOptions) -> list[Encoding]:
    """Return the windows of a text."""
    text = _asked(raw).text
    return [tokenizer.encode(text)] if options.overlap is None else tokenizer.windows(text, overlap=options.overlap)


def decode(
    raw: object, encodings: Sequence[Encoding], outputs: Sequence[Outputs], options: TaskOptions, tokenizer: Tokenizer
) -> object:
    """Return a list of objects in the order of the text.

    Without aggregation {"entity", "score", "index", "word", "start", "end"}, one per token whose label is not ignored;
    with it {"entity_group", "score", "word", "start", "end"}. `index` counts tokens of the whole text, special tokens
    before it included; `start` and `end` count its characters. A score that is no number is never ignored.

    Where words are given, {"entity", "score", "word", "start", "end"} for each; one without a token is "O" by 0.
    """
    asked = _asked(raw)
    pieces = _entities.pieces(asked.text, encodings, [item[OUTPUT][0] for item in outputs], options, tokenizer)
    if asked.words is not None:
        return [_tagged(span, pieces, asked.text, options) for span in asked.words]
    tagged = (
        [_entities.tag([piece], "first", options.labels, piece.word) for piece in pieces]
        if asked.strategy in ("none", "simple")
        else [
            _entities.tag(word, asked.strategy, options.labels, tokenizer.join([piece.word for piece in word]))
            for word in _entities.words(pieces)
        ]
    )
    if asked.strategy == "none":
        return [
            {"entity": item.label, "score": item.score, "index": item.index, "word": item.word, "start": item.start,
             "end": item.end}
            for item in tagged if item.label not in asked.ignored or math.isnan(item.score)
        ]  # fmt: skip
    entities = [_entities.entity(group, tokenizer) for group in _entities.groups(tagged)]
    return [
        item for item in entities if item["entity_group"] not in asked.ignored or math.isnan(cast(float, item["score"]))
    ]


def agree(source: object, other: object, options: TaskOptions) -> float:
    """Return the F1 of the tagged tokens, or of the entities: 1 where both have none, 0 where a score is no number."""
    x, y = (cast("list[dict[str, Any]]", value) for value in (source, other))
    if not all(math.isfinite(item["score"]) for item in y):
        return 0.0
    found, got = ({_identity(item) for item in items} for items in (x, y))
    return 2 * len(found & got) / (len(found) + len(got)) if found or got else 1.0


def golden(texts: Sequence[str], options: TaskOptions) -> list[object]:
    """Return the texts."""
    return list(texts)


def bench(text: str, options: TaskOptions) -> object:
    """Return the text."""
    return text


def read_options(facts: Facts) -> TaskOptions:
    """Return the labels, and the token for what the vocabulary lacks."""
    _classifier.refuse_pooling(facts)
    token = find_special(facts, "unk_token")
    return TaskOptions(
        labels=_classifier.labels_of(facts.config), unknown_id=None if token is None else facts.vocabulary[token]
    )


def output_spec(config: Mapping[str, object], options: TaskOptions) -> OutputSpec:
    """Return [1, tokens, labels]."""
    return OutputSpec(OUTPUT, "float32", (1, TOKENS, len(options.labels)))


def auto_class() -> str:
    """Return the auto class of a tagger."""
    return "AutoModelForTokenClassification"


def example(row: Mapping[str, object], options: TaskOptions) -> Example:
    """Return the words joined by single spaces, and their tags in order."""
    words, tags = (_list(_row.column(row, name, COLUMNS), name) for name in ("tokens", "tags"))
    if len(words) != len(tags):
        raise InputError(f"There are {len(words)} tokens and {len(tags)} tags.")
    ends = list(accumulate(len(word) + 1 for word in words))
    spans = [[end - 1 - len(word), end - 1] for word, end in zip(words, ends, strict=True)]
    raw = {"text": " ".join(words), "words": spans}
    return Example((raw,), tuple(_row.known_label(label, options.labels) for label in tags))


def predict(values: Sequence[object], options: TaskOptions) -> object:
    """Return the tags of the words in order."""
    return tuple(item["entity"] for item in cast("list[dict[str, Any]]", values[0]))


def metrics(golds: Sequence[object], predictions: Sequence[object]) -> dict[str, float]:
    """Return F1, precision and recall of the entities, by seqeval, and the share of words whose tag is right.

    Neighbouring words of one label are one entity where labels do not say where one begins: seqeval takes the first
    letter of a label for B, I, E, S or O, so a label without such a prefix, "AddressNumber", is handed over as
    "I-AddressNumber". Where there are no entities, the three are 0.
    """
    from seqeval.metrics import f1_score, precision_score, recall_score
    from sklearn.metrics import accuracy_score

    expected, found = (
        [list(map(_entities.chunk, cast("Sequence[str]", tags))) for tags in part] for part in (golds, predictions)
    )
    scores = {"entity F1": f1_score, "precision": precision_score, "recall": recall_score}
    words = [[tag for tags in part for tag in cast("Sequence[str]", tags)] for part in (golds, predictions)]
    return {
        **{name: float(score(expected, found, zero_division=0)) for name, score in scores.items()},
        "word accuracy": float(accuracy_score(*words)),
    }


def right(gold: object, prediction: object) -> bool:
    """Tell whether every word has the right tag."""
    return gold == prediction


def _asked(raw: object) -> _Asked:
    if isinstance(raw, str):
        return _Asked(raw)
    given = _row.arguments(raw, NAME, required=["text"], optional=["aggregation_strategy", "ignore_labels", "words"])
    text = _row.text_of(given["text"], "text")
    if given.get("words") is not None:
        if len(given) > 2:
            raise InputError("Where words are given, each has its tag: nothing is aggregated or ignored.")
        return _Asked(text, words=_spans(given["words"], len(text)))
    strategy = given.get("aggregation_strategy")
    named = "none" if strategy is None else _row.text_of(strategy, "aggregation_strategy").lower()
    if named not in _entities.STRATEGIES:
        raise InputError(str(unknown("aggregation_strategy", named, _entities.STRATEGIES)))
    ignored = given.get("ignore_labels")
    names = ["O"] if ignored is None else [] if ignored == [] else _row.texts_of(ignored, "ignore_labels")
    return _Asked(text, named, tuple(names))


def _identity(item: Mapping[str, object]) -> tuple[object, ...]:
    return tuple(item.get(name) for name in ("index", "start", "end", "entity", "entity_group"))


def _spans(value: object, length: int) -> tuple[tuple[int, int], ...]:
    """Return where words are, in the order of the text.

    Raises:
        InputError: it is no list of pairs, or one is empty, outside the text or before the one in front of it.

    """
    spans, last = [], 0
    for item in value if isinstance(value, (list, tuple)) else [value]:
        pair = item if isinstance(item, (list, tuple)) and len(item) == 2 else (None, None)
        start, end = (_row.whole_of(each, "an item of words", least=0) for each in pair)
        if not last <= start < end <= length:
            raise InputError(f"words holds [{start}, {end}], which is no word behind the one before and in the text.")
        spans.append((start, end))
        last = end
    return tuple(spans)


def _tagged(
    span: tuple[int, int], pieces: Sequence[_entities.Piece], text: str, options: TaskOptions
) -> dict[str, object]:
    """Return the tag of the first token that a word shares a character with."""
    start, end = span
    first = bisect_right(pieces, start, key=lambda piece: piece.end)
    found = first < len(pieces) and pieces[first].start < end
    item = _entities.tag([pieces[first]], "first", options.labels, "") if found else None
    return {
        "entity": item.label if item else "O",
        "score": item.score if item else 0.0,
        "word": text[start:end],
        "start": start,
        "end": end,
    }


def _list(value: object, name: str) -> list[str]:
    items = value.split() if isinstance(value, str) else _row.texts_of(value, name)
    if not items or not all(items):
        raise InputError(f"{name} holds an empty text.")
    return items
