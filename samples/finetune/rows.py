"""Rows of labelled data: a text with its label, or the words of a text with a tag each; JSON Lines on disk."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from edgellm.errors import InputError
from edgellm.stages.rows import read_placed


@dataclass(frozen=True)
class Labelled:
    """A text and the label that people gave it."""

    text: str
    label: str

    @property
    def labels(self) -> tuple[str, ...]:
        """Every label of the row: the one."""
        return (self.label,)


@dataclass(frozen=True)
class Tagged:
    """The words of a text, and the tag that people gave each."""

    tokens: tuple[str, ...]
    tags: tuple[str, ...]

    @property
    def text(self) -> str:
        """The words with single spaces between, as a model is given them."""
        return " ".join(self.tokens)

    @property
    def labels(self) -> tuple[str, ...]:
        """Every label of the row: the tags."""
        return self.tags


Row = Labelled | Tagged


def read(path: Path) -> list[Row]:
    """Return the rows of a JSON Lines file, at least one: the columns `text` and `label`, or `tokens` and `tags`.

    Raises:
        InputError: it can't be read, or a row has other columns, an empty value, or is of another kind than the first.

    """
    rows: list[Row] = []
    for place, values in read_placed(path):
        try:
            rows.append(_row(values))
        except ValueError as error:
            hint = 'A line is like {"text": "a b", "label": "x"}, or like {"tokens": ["a", "b"], "tags": ["x", "y"]}.'
            raise InputError(f"{path} {place} {error}.", hint=hint) from None
        if type(rows[-1]) is not type(rows[0]):
            raise InputError(f"{path} {place} is of another kind than the first.")
    return rows


def write(path: Path, rows: Iterable[Row]) -> None:
    """Write a file that `read` reads, the same bytes for the same rows."""
    write_lines(path, (json.dumps(asdict(row), ensure_ascii=False) for row in rows))


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write UTF-8 text with the same line ends everywhere."""
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")


def describe(rows: Sequence[Row]) -> str:
    """Return how often each label stands in rows of texts; how many words and different tags, in tagged ones."""
    counts = Counter(label for row in rows for label in row.labels)
    if rows and isinstance(rows[0], Tagged):
        return f"{counts.total()} words, {len(counts)} tags"
    return ", ".join(f"{count} {label}" for label, count in sorted(counts.items()))


def tag_tokens(row: Tagged, offsets: Sequence[tuple[int, int]]) -> list[str | None]:
    """Return the tag of each token of a row's text: of the word that it is the first token of, or None.

    Args:
        row: with the text.
        offsets: where each token starts and ends, in characters of the text; (0, 0) for those that are not of the text.

    """
    tags: list[str | None] = [None] * len(offsets)
    start = 0
    for word, tag in zip(row.tokens, row.tags, strict=True):
        end = start + len(word)
        first = next((at for at, (_, until) in enumerate(offsets) if until > start), None)
        # A word may have no token: its letters are none to the tokenizer, or the text was cut before it.
        if first is not None and offsets[first][0] < end and tags[first] is None:
            tags[first] = tag
        start = end + 1
    return tags


def _row(values: Mapping[str, object]) -> Row:
    """Return a row; raise ValueError with what is wrong with it, after "line 3 "."""
    if "tokens" not in values and "tags" not in values:
        return Labelled(_text(values.get("text"), "text"), _text(values.get("label"), "label"))
    tokens, tags = (_texts(values.get(name), name) for name in ("tokens", "tags"))
    if len(tokens) != len(tags):
        raise ValueError(f"has {len(tokens)} tokens and {len(tags)} tags")
    return Tagged(tokens, tags)


def _text(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"has no {name}, or one that is no text")
    if not value.strip():
        raise ValueError(f"has an empty {name}")
    return value


def _texts(value: object, name: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise ValueError(f"has no {name}, or they are no list of texts")
    return tuple(_text(item, f"item of {name}") for item in value)
