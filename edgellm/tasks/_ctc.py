"""Connectionist temporal classification: from a token for each slot to a sequence (Graves et al. 2006).

Equal neighbours are one token, and blanks are dropped.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

Slot = Sequence[tuple[float, int]]
"""Tokens, (probability, id): the likeliest of a slot, best first."""

LARGEST_ID = 2**24
"""Ids up to here are exact in float32."""

WIDTH = 16
"""Beginnings that a beam search keeps."""


@dataclass(frozen=True)
class Found:
    """A sequence, and the probability that the slots give it."""

    ids: tuple[int, ...]
    score: float


def collapse(ids: Iterable[int], blank: int) -> tuple[int, ...]:
    """Return the sequence that a path of one id per slot stands for."""
    return tuple(id for id, _ in groupby(ids) if id != blank)


def slots_needed(ids: Sequence[int]) -> int:
    """Return the least slots in which a sequence can be said: equal neighbours need a blank between them."""
    return len(ids) + sum(a == b for a, b in pairwise(ids))


def best_path(likeliest: Slot, blank: int) -> Found:
    """Return what the likeliest token of each slot says, given as (probability, id), and the probability of that one path."""
    return Found(collapse([id for _, id in likeliest], blank), math.prod([probability for probability, _ in likeliest]))


def beam_search(slots: Sequence[Slot], blank: int, *, best: int, width: int = WIDTH) -> list[Found]:
    """Return the likeliest sequences, each by the sum of its paths over the tokens that the slots name.

    Prefix search of Hannun et al. 2014, https://arxiv.org/abs/1408.2873, without a language model.

    Args:
        slots: in order.
        blank: id.
        best: sequences to return at most.
        width: beginnings that are kept from slot to slot.

    """
    # For each beginning the probability of its paths that end in a blank, and of those that end in its last token.
    beams: dict[tuple[int, ...], tuple[float, float]] = {(): (1.0, 0.0)}
    scale = 0.0  # log of what all beams were divided by: products of hundreds of slots would vanish
    for slot in slots:
        after: dict[tuple[int, ...], list[float]] = {}
        for ids, (in_blank, in_token) in beams.items():
            for probability, id in slot:
                if id == blank:
                    after.setdefault(ids, [0.0, 0.0])[0] += probability * (in_blank + in_token)
                    continue
                longer = after.setdefault((*ids, id), [0.0, 0.0])
                if ids and ids[-1] == id:
                    longer[1] += probability * in_blank
                    after.setdefault(ids, [0.0, 0.0])[1] += probability * in_token
                else:
                    longer[1] += probability * (in_blank + in_token)
        kept = sorted(after.items(), key=lambda item: (-sum(item[1]), item[0]))[: max(width, best)]
        total = sum(sum(chances) for _, chances in kept)
        if not total:
            return []
        scale += math.log(total)
        beams = {ids: (chances[0] / total, chances[1] / total) for ids, chances in kept}
    likeliest = [(ids, sum(chances)) for ids, chances in list(beams.items())[:best]]
    found = [Found(ids, math.exp(scale + math.log(chance))) for ids, chance in likeliest if chance > 0]
    return sorted(found, key=lambda each: -each.score)  # once more, as scaling rounds


def edits(first: Sequence[object], second: Sequence[object]) -> int:
    """Return the least insertions, deletions and substitutions between two sequences (Levenshtein 1966).

    Written here because agreement is measured on devices, whose install holds no library for it.
    """
    row = list(range(len(second) + 1))
    for i, x in enumerate(first, 1):
        before, row[0] = row[0], i
        for j, y in enumerate(second, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return row[-1]
