"""Text to token ids, on the device: the bundle's tokenizer.json with the runtime's own truncation."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tokenizers import Tokenizer as _Tokenizer

from edgellm.errors import BundleError, InputError
from edgellm.tasks._encoding import Encoding

if TYPE_CHECKING:
    from tokenizers import Encoding as _Encoding


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
        self.kind = type(self._tokenizer.model).__name__
        self.prefix = str(getattr(self._tokenizer.model, "continuing_subword_prefix", None) or "")
        self._room = [self._tokenizer.num_special_tokens_to_add(is_pair) for is_pair in (False, True)]

    def limited(self, max_tokens: int | None) -> Tokenizer:
        """Return the same tokenizer with a smaller limit; None keeps it."""
        if max_tokens is None or max_tokens >= self.max_tokens:
            return self
        smaller = copy.copy(self)
        smaller.max_tokens = max_tokens
        return smaller

    def encode(
        self, text: str, pair: str | None = None, *, max_tokens: int | None = None, cut: str = "longest_first"
    ) -> Encoding:
        """Return the ids of `text` (and `pair`), cut at the end to the limit, which is stated.

        Args:
            text: any text; NUL bytes and emoji are text.
            pair: a second segment; an empty one is none, as for transformers.
            max_tokens: a limit below the tokenizer's own.
            cut: what gives way: "longest_first", "only_first" or "only_second".

        Raises:
            InputError: the text holds half a surrogate pair, or the limit leaves no room.

        """
        limit = self.max_tokens if max_tokens is None else min(max_tokens, self.max_tokens)
        encoding = self._encode(text, pair or None, limit, cut, 0)
        return _plain(encoding, truncated=bool(encoding.overflowing))

    def windows(self, text: str, pair: str | None = None, *, overlap: int) -> list[Encoding]:
        """Return as many encodings as `text` takes, or `pair` where there is one, neighbours sharing `overlap` tokens.

        More than half of what is left for the text is never shared.

        Raises:
            InputError: the text holds half a surrogate pair, or there is no room for a window.

        """
        cut = "only_first" if pair is None else "only_second"
        if pair is None:
            overlap = min(overlap, (self.max_tokens - self._room[0]) // 2)
        else:
            fixed = len(self._encode(text, None, 2**31 - 1, "only_first", 0).ids) - self._room[0] + self._room[1]
            room = self.max_tokens - fixed
            # As in the transformers pipeline, which fails where the overlap leaves nothing new to a window.
            overlap = overlap if overlap < room else room // 2
            if room < 2:
                raise InputError(
                    f"The first text fills {fixed} of {self.max_tokens} tokens and leaves no room for the second.",
                    hint="Shorten it, or build with a longer --seq-len.",
                )
        first = self._encode(text, pair, self.max_tokens, cut, overlap)
        return [_plain(item, truncated=False) for item in (first, *first.overflowing)]

    def token(self, id: int) -> str:
        """Return the piece of vocabulary with that id, or an empty string."""
        return self._tokenizer.id_to_token(id) or ""

    def join(self, tokens: Sequence[str]) -> str:
        """Return pieces of vocabulary as text."""
        decoder = self._tokenizer.decoder
        return str(decoder.decode(list(tokens))) if decoder is not None else " ".join(tokens)

    def text(self, ids: Sequence[int], *, special: bool) -> str:
        """Return ids as text, with or without special tokens."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=not special))

    def _encode(self, text: str, pair: str | None, limit: int, cut: str, overlap: int) -> _Encoding:
        room = self._room[pair is not None]
        if limit <= room:
            raise InputError(f"{limit} tokens leave no room for text beside {room} special tokens.")
        self._tokenizer.enable_truncation(limit, stride=overlap, strategy=cut)
        try:
            return self._tokenizer.encode(text, pair)
        except (UnicodeEncodeError, TypeError):
            raise InputError(
                "The text is not valid Unicode: it holds half of a surrogate pair.",
                hint='Decode it with errors="replace" first.',
            ) from None
        except Exception as error:  # the Rust side raises bare Exception
            raise InputError(
                f"The text that may not be cut fills the {limit} tokens of a pass ({error}).",
                hint="Shorten it, or build with a longer --seq-len.",
            ) from None


def _plain(encoding: _Encoding, *, truncated: bool) -> Encoding:
    return Encoding(
        ids=tuple(encoding.ids),
        type_ids=tuple(encoding.type_ids),
        truncated=truncated,
        offsets=tuple(encoding.offsets),
        words=tuple(encoding.word_ids),
        texts=tuple(encoding.sequence_ids),
    )
