"""What a task sees of the tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Encoding:
    """One pass: token ids with special tokens, without padding, and where each token comes from.

    Attributes:
        ids: token ids.
        type_ids: segment of each token, as the model takes it.
        truncated: whether text was cut to fit.
        offsets: characters [start, end) of each token in its own text; (0, 0) for special tokens that were added.
        words: number of the word in its own text that a token is part of; None for special tokens that were added.
        texts: 0 for a token of the first text, 1 of the second, None for special tokens that were added.

    """

    ids: tuple[int, ...]
    type_ids: tuple[int, ...]
    truncated: bool
    offsets: tuple[tuple[int, int], ...] = ()
    words: tuple[int | None, ...] = ()
    texts: tuple[int | None, ...] = ()


class Tokenizer(Protocol):
    """The bundle's tokenizer, limited to the tokens that one pass takes.

    Attributes:
        max_tokens: of one pass, special tokens included.
        kind: of model, as the tokenizers library calls it: "WordPiece", "BPE", "Unigram" or "WordLevel".
        prefix: what tokens that go on inside a word begin with ("##"); empty where nothing marks them.

    """

    max_tokens: int
    kind: str
    prefix: str

    def encode(self, text: str, pair: str | None = None, *, cut: str = "longest_first") -> Encoding:
        """Return the one pass of a text, and of a second one, cut at the end to fit.

        Args:
            text: any text.
            pair: a second one.
            cut: what gives way: "longest_first", "only_first" or "only_second".

        Raises:
            InputError: the text is not valid Unicode, or what may not be cut fills the pass.

        """
        ...

    def windows(self, text: str, pair: str | None = None, *, overlap: int) -> list[Encoding]:
        """Return as many passes as the text takes, or the second where there is one; neighbours share `overlap` tokens.

        More than half of what is left for the text is never shared.

        Raises:
            InputError: the text is not valid Unicode, or there is no room for a window.

        """
        ...

    def token(self, id: int) -> str:
        """Return the piece of vocabulary with that id."""
        ...

    def join(self, tokens: Sequence[str]) -> str:
        """Return pieces of vocabulary as text."""
        ...

    def text(self, ids: Sequence[int], *, special: bool) -> str:
        """Return ids as text, with or without special tokens."""
        ...
