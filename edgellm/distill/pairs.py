"""Pairs: texts and what they become, read from a file, and as ids."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgellm.errors import InputError, first_line
from edgellm.tasks._ctc import slots_needed

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SOURCE, TARGET = "tokenizer.json", "target_tokenizer.json"
"""Files of a model's folder: what reads inputs, and what reads outputs where those are read otherwise."""


@dataclass(frozen=True)
class Pair:
    """A text, and one that is right for it."""

    text: str
    target: str


@dataclass(frozen=True)
class Encoded:
    """Pairs as ids, and what could not be used.

    Attributes:
        examples: {"input_ids", "labels"} of each pair that is left.
        too_long: pairs whose target needs more slots than the text has.
        cut: pairs whose text or target is longer than the model takes, or its teacher where it is asked about each.
        unknown: pairs with a character that the vocabulary lacks.
        shown: the first of each kind, for people.

    """

    examples: tuple[Mapping[str, list[int]], ...]
    too_long: int
    cut: int
    unknown: int
    shown: tuple[str, ...]

    def left_out(self) -> str:
        """Return what was left out in a sentence, or nothing."""
        kinds = [
            f"{count} {what}"
            for count, what in (
                (self.too_long, "whose output needs more slots than its input has"),
                (self.cut, "longer than the model takes"),
                (self.unknown, "with characters outside the vocabulary"),
            )
            if count
        ]
        return f"Left out: {', '.join(kinds)}; such as {', '.join(self.shown)}." if kinds else ""


def read_pairs(path: Path) -> list[Pair]:
    """Return the pairs of a file: a text and its target on a line, with a tab between.

    Raises:
        InputError: it can't be read, holds no pair, or a line has no tab, several, or an empty side.

    """
    pairs = []
    for number, line in enumerate(read_lines(path), 1):
        sides = line.split("\t")
        if len(sides) != 2:
            raise InputError(
                f"{path}:{number} has {len(sides) - 1} tabs: {line[:60]!r}.",
                hint="A line is a text, a tab, and what the text becomes.",
            )
        text, target = (side.strip() for side in sides)
        if not text or not target:
            raise InputError(f"{path}:{number} has an empty {'target' if text else 'text'}.")
        pairs.append(Pair(text, target))
    if not pairs:
        raise InputError(f"{path} holds no pairs.")
    return pairs


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text file that are not empty, without spaces around them.

    Raises:
        InputError: it can't be read, or is not UTF-8.

    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror or error}.") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8: byte {error.start}.") from None
    return [line.strip(" \r") for line in text.split("\n") if line.strip()]


def read_texts(path: Path) -> list[str]:
    """Return the texts of a file, one per line.

    Raises:
        InputError: it can't be read, or a line has a tab, as pairs have.

    """
    lines = read_lines(path)
    for number, line in enumerate(lines, 1):
        if "\t" in line:
            raise InputError(f"{path} has a tab in its text {number}: {line[:60]!r}.", hint="Pairs belong into --data.")
    return lines


def open_tokenizers(folder: Path) -> tuple[Tokenizer, Tokenizer]:
    """Return what reads inputs, and what reads outputs, without padding and truncation.

    Raises:
        InputError: a file misses, can't be read, or the two have different vocabularies.

    """
    from tokenizers import Tokenizer

    opened = []
    for name in (SOURCE, TARGET):
        path = folder / name
        if name == TARGET and not path.is_file():
            path = folder / SOURCE
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the Rust side raises bare Exception
            raise InputError(f"{path} is no tokenizer: {first_line(error)}.") from None
        tokenizer.no_padding()
        tokenizer.no_truncation()
        opened.append(tokenizer)
    if opened[0].get_vocab() != opened[1].get_vocab():
        raise InputError(
            f"{SOURCE} and {TARGET} of {folder} have different vocabularies.", hint="They share their ids."
        )
    return opened[0], opened[1]


def encode(
    pairs: Sequence[Pair], tokenizers: tuple[Tokenizer, Tokenizer], *, slots: int, longest: int, unknown: int | None,
    places: Callable[[Sequence[int]], int] = slots_needed, most: int | None = None,
) -> Encoded:  # fmt: skip
    """Return pairs as ids, without those that can't be learned, which are counted.

    Args:
        pairs: texts and targets.
        tokenizers: of inputs and outputs.
        slots: output places for each input token.
        longest: tokens of an input at most.
        unknown: id of what the vocabulary lacks.
        places: how many an output takes.
        most: tokens of an output at most, where something bounds them besides its places.

    """
    read, write = tokenizers
    texts = read.encode_batch([pair.text for pair in pairs])
    targets = write.encode_batch([pair.target for pair in pairs], add_special_tokens=False)
    examples: list[Mapping[str, list[int]]] = []
    counts = {"too_long": 0, "cut": 0, "unknown": 0}
    shown: dict[str, str] = {}
    for pair, text, target in zip(pairs, texts, targets, strict=True):
        if unknown is not None and unknown in (*text.ids, *target.ids):
            kind = "unknown"
        elif len(text.ids) > longest or (most is not None and len(target.ids) > most):
            kind = "cut"
        elif places(target.ids) > slots * len(text.ids):
            kind = "too_long"
        else:
            examples.append({"input_ids": text.ids, "labels": target.ids})
            continue
        counts[kind] += 1
        shown.setdefault(kind, f"{pair.text[:30]!r} -> {pair.target[:40]!r}")
    return Encoded(tuple(examples), counts["too_long"], counts["cut"], counts["unknown"], tuple(shown.values()))
