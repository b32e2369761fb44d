"""Text to token ids, on the device: the bundle's tokenizer.json with the runtime's own truncation."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer as _Tokenizer

from edgellm.errors import BundleError, InputError
from edgellm.tasks._encoding import Encoding


class Tokenizer:
    """Encodes to at most `max_tokens` tokens, special tokens included, and never pads."""

    def __init__(self, path: Path, max_tokens: int) -> None:
        """Read tokenizer.json.

        Raises:
            BundleError: the tokenizers library can't read it.

        """
        try:
            self._tokenizer = _Tokenizer.from_file(str(path))
        except Exception as error:  # the Rust side raises bare Exception
            raise BundleError(f"{path} is no tokenizer this version of tokenizers reads: {error}.") from None
        # Padding and truncation may be baked into the file; a length of its own would cut texts short.
        self._tokenizer.no_padding()
        self.max_tokens = max_tokens
        self._limit = 0
        self._room = [self._tokenizer.num_special_tokens_to_add(is_pair) for is_pair in (False, True)]

    def encode(self, text: str, pair: str | None = None, *, max_tokens: int | None = None) -> Encoding:
        """Return the ids of `text` (and `pair`), cut at the end to the limit, which is stated.

        Args:
            text: any text; NUL bytes and emoji are text.
            pair: a second segment.
            max_tokens: a limit below the bundle's own.

        Raises:
            InputError: the text holds half a surrogate pair, or the limit leaves no room for special tokens.

        """
        limit = self.max_tokens if max_tokens is None else min(max_tokens, self.max_tokens)
        self._truncate_to(limit, is_pair=pair is not None)
        try:
            encoding = self._tokenizer.encode(text, pair)
        except (UnicodeEncodeError, TypeError):
            raise InputError(
                "The text is not valid Unicode: it holds half of a surrogate pair.",
                hint='Decode it with errors="replace" first.',
            ) from None
        return Encoding(
            ids=tuple(encoding.ids),
            type_ids=tuple(encoding.type_ids),
            truncated=bool(encoding.overflowing),
        )

    def _truncate_to(self, limit: int, *, is_pair: bool) -> None:
        room = self._room[is_pair]
        if limit <= room:
            raise InputError(f"{limit} tokens leave no room for text beside {room} special tokens.")
        if limit == self._limit:
            return
        self._tokenizer.enable_truncation(limit)
        self._limit = limit
