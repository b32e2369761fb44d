"""What a task sees of the tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Encoding:
    """One pass: token ids with special tokens, without padding.

    Attributes:
        ids: token ids.
        type_ids: segment of each token.
        truncated: whether text was cut to fit.

    """

    ids: tuple[int, ...]
    type_ids: tuple[int, ...]
    truncated: bool


Encode = Callable[[str, "str | None"], Encoding]
"""Text and optional second text to one encoding of at most max_tokens."""
