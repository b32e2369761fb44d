"""Spans of tokens that a model points at with logits of start and end: their probabilities, and where they lie."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgellm.tasks._classifier import softmax

if TYPE_CHECKING:
    from edgellm.tasks import Encoding


def probabilities(encoding: Encoding, logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return how likely the answer starts and ends at each token [2, tokens], over the context and the first token.

    The first stands for "no answer" where it is one that the tokenizer adds, such as [CLS].
    """
    allowed = np.array([text == 1 for text in encoding.texts])
    allowed[0] |= encoding.texts[0] is None
    with np.errstate(invalid="ignore"):  # a ruined artifact may give infinities or NaN; no span is found in those
        return softmax(np.where(allowed, logits.T.astype(np.float64), -np.inf))


def likeliest(
    start: NDArray[np.float64], end: NDArray[np.float64], longest: int, wanted: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
    """Return first token, last token and probability of the `wanted` likeliest spans of up to `longest` tokens."""
    longest = min(longest, len(start))
    # Row i holds the ends i, i + 1, ... that a span from i may have.
    ends = np.lib.stride_tricks.sliding_window_view(np.pad(end, (0, longest - 1)), longest)
    with np.errstate(under="ignore"):
        scores = (start[:, None] * ends).ravel()
    chosen = np.arange(scores.size) if wanted >= scores.size else np.sort(np.argpartition(-scores, wanted)[:wanted])
    chosen = chosen[scores[chosen] > 0]
    chosen = chosen[np.argsort(-scores[chosen], kind="stable")]
    first, more = np.divmod(chosen, longest)
    return first, first + more, scores[chosen]


def characters(encoding: Encoding, align_to_words: bool) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return for each token where in its text it starts and ends, or where the word does that it is part of.

    Of a word that a window cuts, only the part inside counts.
    """
    left, right = np.array(encoding.offsets, dtype=np.int64).T
    if not align_to_words:
        return left, right
    places = list(zip(encoding.texts, encoding.words, strict=True))
    begins = np.array(
        [i == 0 or word is None or places[i - 1] != (text, word) for i, (text, word) in enumerate(places)]
    )
    run = np.cumsum(begins) - 1
    first = np.flatnonzero(begins)
    last = np.append(first[1:], len(places)) - 1
    return left[first][run], right[last][run]
