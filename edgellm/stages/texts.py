"""The texts of a build: golden, calibration and evaluation, which must not overlap."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from edgellm.errors import InputError
from edgellm.runtime.bundle import sha256_file
from edgellm.stages.rows import read_placed, read_text

_ROWS = (".tsv", ".csv", ".jsonl", ".ndjson")
"""Endings of files that hold rows and not lines."""

_TEXTS = ("text", "text_pair", "question", "context", "source_sentence", "sentences", "tokens")
"""Columns that hold what a model reads, in any task's data."""

HELD_BACK = 10
"""One in so many texts chooses a training's best step where no others are given for that."""


@dataclass(frozen=True)
class Corpus:
    """Texts that a vocabulary is trimmed by.

    Attributes:
        name: of their file.
        sha256: of its bytes.
        texts: its lines, in order.

    """

    name: str
    sha256: str
    texts: tuple[str, ...]


def read_corpus(path: Path) -> Corpus:
    """Return the texts of a corpus file, one per line.

    Raises:
        InputError: it can't be read, is not UTF-8, or holds no text.

    """
    texts = tuple(_lines(path, "corpus"))
    return Corpus(path.name, sha256_file(path), texts)


def read_calibration(path: Path) -> list[str]:
    """Return calibration texts: the lines of a file, or the texts in the rows of labelled data or a saved dataset.

    Raises:
        InputError: it can't be read, is not UTF-8, or holds no text.
        MissingDependencyError: it is a dataset, and datasets is not installed.

    """
    if not path.is_dir() and path.suffix.lower() not in _ROWS:
        return _lines(path, "calibration")
    columns: dict[str, list[str]] = {name: [] for name in _TEXTS}
    for place, row in read_placed(path):
        texts = {name: [text for text in _strings(name, row[name]) if text] for name in _TEXTS if name in row}
        if not any(texts.values()):
            raise InputError(
                f"{path} {place} holds no text.", hint=f"Texts are read from the columns {', '.join(_TEXTS)}."
            )
        for name, found in texts.items():
            columns[name] += found
    return [text for column in columns.values() for text in column]  # every n-th of them has some of each column


def read_golden(path: Path) -> list[str]:
    """Return the texts of a file of golden texts, one per line.

    Raises:
        InputError: it can't be read, is not UTF-8, or holds no text.

    """
    return _lines(path, "golden")


def ensure_disjoint(**sets: Iterable[str]) -> None:
    """Check that no text stands in two sets, by hash of its letters without case and spacing.

    Raises:
        InputError: one does; the message shows it.

    """
    seen: dict[str, str] = {}
    for name, texts in sets.items():
        for text in texts:
            digest = hashlib.sha256(" ".join(text.lower().split()).encode("utf-8", "surrogatepass")).hexdigest()
            other = seen.setdefault(digest, name)
            if other != name:
                raise InputError(
                    f'The {name} texts and the {other} texts both hold "{text[:60]}"; what is measured on must not be '
                    "what was chosen with.",
                    hint=f"Remove it from the {name} file.",
                )


def _strings(name: str, value: object) -> list[str]:
    """Return the texts in a cell; a list of words is one."""
    if isinstance(value, str):
        return [value.strip()]
    words = [each.strip() for each in value if isinstance(each, str)] if isinstance(value, (list, tuple)) else []
    return [" ".join(words)] if name == "tokens" else words


def _lines(path: Path, kind: str) -> list[str]:
    texts = [line.strip() for line in read_text(path, kind).split("\n") if line.strip()]
    if not texts:
        raise InputError(f"The {kind} file {path} holds no text.", hint="It takes one text per line.")
    return texts


def is_held_back(text: str) -> bool:
    """Tell whether a text is of the tenth that chooses a training's best step, by a hash: it is always on the same side."""
    digest = hashlib.sha256(" ".join(text.lower().split()).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") % HELD_BACK == 0
