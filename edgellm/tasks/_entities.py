"""From the logits of tokens to words and entities, by the rules of the transformers pipeline."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from edgellm.core.manifest import TaskOptions
    from edgellm.tasks import Encoding, Tokenizer

STRATEGIES = ("none", "simple", "first", "average", "max")

_SEQEVAL = {"U": "S", "L": "E"}
"""Letters of BILOU to those that seqeval knows."""


@dataclass(frozen=True)
class Piece:
    """One token of the text.

    Attributes:
        word: as the vocabulary writes it; the text itself for an unknown one.
        scores: probability of each label [labels], float32.
        start, end: characters of the whole text.
        index: in the whole text, special tokens before it included.
        inside: whether it goes on with the word of the token before.

    """

    word: str
    scores: NDArray[np.float32]
    start: int
    end: int
    index: int
    inside: bool


@dataclass(frozen=True)
class Tagged:
    """A token, or a word, with its label."""

    label: str
    score: float
    word: str
    start: int
    end: int
    index: int


def pieces(
    text: str, encodings: Sequence[Encoding], logits: Sequence[NDArray[np.float32]], options: TaskOptions,
    tokenizer: Tokenizer,
) -> list[Piece]:  # fmt: skip
    """Return the tokens of a text from the windows that it was read in, and their logits [tokens, labels]."""
    found = []
    for index, (window, position) in enumerate(_best(encodings, options.overlap or 0), _before(encodings[0])):
        id, (start, end) = encodings[window].ids[position], encodings[window].offsets[position]
        word = tokenizer.token(id)
        # Without marks in the vocabulary, a word goes on wherever no space is: not quite true, and what the pipeline does.
        spaced = start == 0 or " " in text[start - 1 : start + 1]
        inside = len(word) != end - start if tokenizer.prefix else not spaced
        if id == options.unknown_id:
            word, inside = text[start:end], False
        found.append(Piece(word, _softmax(logits[window][position]), start, end, index, inside))
    return found


def words(found: Sequence[Piece]) -> list[list[Piece]]:
    """Return tokens grouped by the word they are part of."""
    grouped: list[list[Piece]] = []
    for piece in found:
        if piece.inside and grouped:
            grouped[-1].append(piece)
        else:
            grouped.append([piece])
    return grouped


def tag(word: Sequence[Piece], strategy: str, labels: Sequence[str], written: str) -> Tagged:
    """Return the label of a word: of its first token, of its surest one, or of the average over all."""
    if strategy == "average":
        scores = np.stack([piece.scores for piece in word]).mean(0)
    else:
        scores = (max(word, key=lambda piece: piece.scores.max()) if strategy == "max" else word[0]).scores
    best = int(scores.argmax())
    return Tagged(labels[best], float(scores[best]), written, word[0].start, word[-1].end, word[0].index)


def groups(tagged: Sequence[Tagged]) -> list[list[Tagged]]:
    """Return neighbours of one label together, unless the label says that another entity begins."""
    grouped: list[list[Tagged]] = []
    last = None
    for item in tagged:
        begins, name = item.label.startswith("B-"), re.sub("^[BI]-", "", item.label)
        if name == last and not begins:
            grouped[-1].append(item)
        else:
            grouped.append([item])
        last = name
    return grouped


def entity(group: Sequence[Tagged], tokenizer: Tokenizer) -> dict[str, object]:
    """Return one entity; its name is what follows the first hyphen of its first label, its score the mean."""
    return {
        "entity_group": group[0].label.split("-", 1)[-1],
        "score": float(np.mean([item.score for item in group])),
        "word": tokenizer.join([item.word for item in group]),
        "start": group[0].start,
        "end": group[-1].end,
    }


def chunk(label: str) -> str:
    """Return a label as seqeval takes it: with a prefix, or "O"."""
    if label == "O":
        return label
    prefix, hyphen, name = label.partition("-")
    if hyphen and name and prefix in ("B", "I", "E", "S", "L", "U"):
        return f"{_SEQEVAL.get(prefix, prefix)}-{name}"
    return f"I-{label}"


def counts(gold: Sequence[str], prediction: Sequence[str]) -> tuple[int, int, int]:
    """Return of one text the entities that both have, those of gold, and those of the prediction, as seqeval finds them."""
    from seqeval.metrics.sequence_labeling import get_entities

    x, y = (set(get_entities(list(map(chunk, tags)))) for tags in (gold, prediction))
    return len(x & y), len(x), len(y)


def _best(encodings: Sequence[Encoding], overlap: int) -> Iterator[tuple[int, int]]:
    """Yield window and position of each token of the text, once: where it is farthest from an end that is not the text's.

    Of the tokens that two windows share, that is the first half from the one, the rest from the other; no token is in
    three, since no more than half a window is shared.
    """
    owned = [[at for at, text in enumerate(encoding.texts) if text is not None] for encoding in encodings]
    shared = min(overlap, len(owned[0]) // 2)
    for window, own in enumerate(owned):
        low = 0 if window == 0 else (shared + 1) // 2
        high = len(own) - (0 if window == len(owned) - 1 else shared // 2)
        for position in own[low:high]:
            yield window, position


def _before(encoding: Encoding) -> int:
    """Return how many special tokens stand before the text."""
    return next((position for position, text in enumerate(encoding.texts) if text is not None), 0)


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    # In float32, as the pipeline: which of two sure tokens is surer must not depend on digits that it does not have.
    shifted = np.exp(logits - logits.max())
    return np.asarray(shifted / shifted.sum(), dtype=np.float32)
