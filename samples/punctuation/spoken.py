"""Written text as it is spoken: what is kept of a text, where it is cut, and what is left of it without marks and case.

A word of a clean text is what stands between spaces, and each has one spoken word: the two can be laid side by side.
"""

from __future__ import annotations

import html
import random
import re
import unicodedata
from collections.abc import Iterator, Sequence

MARKS = ".,?!;:"
"""What is restored, besides capital letters."""

WORDS = 24
"""Of a piece at most."""

LEAST = 8
"""Words of a piece at least."""

_NOTE = re.compile(r"\s*(?:\[[^\]]*\]|\((?:applause|laughter)[^)]*\))(?=([.,?!;:])?)", re.IGNORECASE)
"""A page of the print, a footnote, or what the audience did; with the space before, where a mark follows."""
_APART = re.compile(r"(?<=[a-z])([.,?!;:])(?=[A-Z])|(?<=[a-z])([,?!;:])(?=[a-z])")
"""A mark that lacks the space behind it."""
_DASH = re.compile(r"(?:^|\s)-+|-+(?=\s|$)|-{2,}|[\u2012-\u2015]")
# Fellow-Citizens, $1,000.50, U.S.-Soviet, R&D, 5%
_WORD = re.compile(
    r"['$]?[A-Za-z0-9]+(?:(?:[.,:/&]|(?:(?<=[A-Z])\.)?[-']\$?)[A-Za-z0-9]+)*['%]?"
    r"(?:[,;:?!]|\.[,;:?!]?)?"  # and behind an abbreviation's stop another mark
)
_HEADING = re.compile(r"[A-Z][A-Z'&-]+[.,:]*")


def clean(text: str) -> list[str]:
    """Return the stretches of a text that hold nothing but words, with single spaces.

    Quotation marks, brackets, accents and notes are taken out. A dash, a heading in capitals, a row of dots and whatever
    else is no word ends a stretch: nobody can say what would stand there.
    """
    text = unicodedata.normalize("NFKD", html.unescape(text))
    text = "".join(character for character in text if not unicodedata.combining(character))
    text = re.sub("[\u2018\u2019`]", "'", text.replace("\u2010", "-").replace("\u2011", "-"))
    text = _DASH.sub(" \u2014 ", _NOTE.sub(lambda note: "" if note[1] else " ", text))
    text = _APART.sub(lambda mark: f"{mark[0]} ", re.sub('["\u201c\u201d()]', "", text))
    stretches: list[list[str]] = [[]]
    words = text.split()
    for place, word in enumerate(words):
        if _WORD.fullmatch(word) and not _in_heading(words, place):
            stretches[-1].append(word)
        elif stretches[-1]:
            stretches.append([])
    return [" ".join(stretch) for stretch in stretches if stretch]


def spoken(text: str) -> str:
    """Return a clean text without case and marks; those within numbers stay."""
    return " ".join(spoken_word(word) for word in text.split())


def spoken_word(word: str) -> str:
    """Return "us" for "U.S.", and "1,000.50" for "1,000.50."."""
    bare = word.rstrip(MARKS)
    return bare.lower() if re.search(r"\d", bare) else re.sub(f"[{MARKS}]", "", bare).lower()


def pieces(stretch: str, drawn: random.Random) -> Iterator[str]:
    """Yield a stretch in pieces of LEAST to WORDS words, half of them as long as can be; the last words may be left over.

    Most begin and end somewhere in a sentence. Half of those that hold the end of one end there, so that the next begins
    as a sentence does.
    """
    words = stretch.split()
    while len(words) >= LEAST:
        piece = words[: WORDS if drawn.random() < 0.5 else drawn.randint(LEAST, WORDS)]
        ends = [count for count, word in enumerate(piece, 1) if count >= LEAST and word[-1] in ".?!"]
        if drawn.random() < 0.5 and ends:
            piece = piece[: ends[-1]]
        words = words[len(piece) :]
        if 3 * sum(bool(re.search(r"\d", word)) for word in piece) <= len(piece):  # else it is of a table
            yield " ".join(piece)


def _in_heading(words: Sequence[str], place: int) -> bool:
    """Tell whether a word in capitals has another one beside it."""
    around = words[max(place - 1, 0) : place + 2]
    return bool(_HEADING.fullmatch(words[place])) and sum(bool(_HEADING.fullmatch(word)) for word in around) > 1
