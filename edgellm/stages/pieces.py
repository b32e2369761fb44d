"""Pieces: which of a vocabulary must stay beside those that texts use, for each type of tokenizer model.

Why the pieces of the texts stay the same:

- WordPiece takes the longest match; with fewer pieces, the longest is still there where it was taken.
- BPE applies the merge of the lowest rank. Every merge on the way to a used piece is kept, so each step finds the same.
- Unigram takes the best path; with fewer pieces, the best is still there and has fewer rivals. What an unknown costs is
  counted from the lowest score, so that piece is kept.

Single characters stay as well, and bytes: text that was never seen is cut into smaller pieces, not into unknowns.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping
from typing import Any

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
"""A piece that stands for one byte of a character without a piece (byte fallback)."""

Model = dict[str, Any]
"""The `model` of a tokenizer.json."""


def _whole_words(model: Model, used: set[str]) -> set[str]:
    """WordLevel: what a word without a piece becomes."""
    return {model["unk_token"]}


def _wordpiece(model: Model, used: set[str]) -> set[str]:
    """WordPiece: each single character, at the start of a word and within."""
    prefix = model["continuing_subword_prefix"]
    return {model["unk_token"]} | {piece for piece in model["vocab"] if len(piece.removeprefix(prefix)) == 1}


def _bpe(model: Model, used: set[str]) -> set[str]:
    """BPE: each symbol that merging starts from, and each step on the way to a used piece."""
    prefix, suffix = model.get("continuing_subword_prefix") or "", model.get("end_of_word_suffix") or ""
    ranks = {pair: (rank, result) for rank, (pair, result) in enumerate(merges(model).items())}
    keep = {model["unk_token"]} if model.get("unk_token") else set()
    keep |= {p for p in model["vocab"] if len(p.removeprefix(prefix).removesuffix(suffix)) == 1 or _BYTE.fullmatch(p)}
    for piece in used:
        keep |= _steps(_symbols(piece, prefix, suffix), ranks)
    return keep


def _symbols(piece: str, prefix: str, suffix: str) -> list[str]:
    """Return what a piece is merged from, as `continuing_subword_prefix` and `end_of_word_suffix` write it."""
    body = piece.removeprefix(prefix).removesuffix(suffix)
    symbols = [prefix + character for character in body]
    if symbols and not piece.startswith(prefix):
        symbols[0] = body[0]
    if symbols and piece.endswith(suffix):
        symbols[-1] += suffix
    return symbols


def _steps(symbols: list[str], ranks: Mapping[tuple[str, str], tuple[int, str]]) -> set[str]:
    """Return every symbol that stands at some time while merging, the lowest rank first, the leftmost of equals."""
    seen = set(symbols)
    while True:
        pairs = [(ranks[pair], i) for i, pair in enumerate(itertools.pairwise(symbols)) if pair in ranks]
        if not pairs:
            return seen
        (_, result), i = min(pairs)
        symbols[i : i + 2] = [result]
        seen.add(result)


def merges(model: Model) -> dict[tuple[str, str], str]:
    """Return what each pair merges to, in the order of rank; the second part loses the prefix of continuing pieces."""
    prefix = model.get("continuing_subword_prefix") or ""
    return {(left, right): left + right.removeprefix(prefix) for left, right in model["merges"]}


def _unigram(model: Model, used: set[str]) -> set[str]:
    """Unigram: each single character and byte, the unknown, and the piece that an unknown's cost is counted from."""
    pieces = model["vocab"]
    keep = {piece for piece, _ in pieces if len(piece) == 1 or _BYTE.fullmatch(piece)}
    keep.add(min(pieces, key=lambda item: item[1])[0])
    if model.get("unk_id") is not None:
        keep.add(pieces[model["unk_id"]][0])
    return keep


NEEDS: dict[str, Callable[[Model, set[str]], set[str]]] = {
    "BPE": _bpe,
    "Unigram": _unigram,
    "WordLevel": _whole_words,
    "WordPiece": _wordpiece,
}
"""Type of a model to the function that returns the pieces that it needs beside the used ones, which may be among them."""
