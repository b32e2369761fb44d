"""The source's tokenizer as transformers loads it: from local files, without running code of the model's own."""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from edgellm.errors import first_line
from edgellm.runtime.bundle import sha256_file
from edgellm.stages.source import SourceModel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_FILES = ("added_tokens.json", "config.json", "special_tokens_map.json", "tokenizer_config.json", "vocab.txt")
"""What transformers reads beside tokenizer.json; other vocabularies are not read where that exists."""


@dataclass(frozen=True)
class Expected:
    """What transformers gives for a text or a pair.

    Attributes:
        ids: one per token.
        type_ids: one per token; none where the tokenizer gives no segments.
        mask: 1 for a token, 0 for padding.

    """

    ids: tuple[int, ...]
    type_ids: tuple[int, ...]
    mask: tuple[int, ...]


@dataclass(frozen=True)
class Reference:
    """One of transformers' tokenizers.

    Attributes:
        name: of its class.
        python: whether it is written in Python, so that its results confirm those of the tokenizers library.
        lowercase: whether text is lower-cased for it, as sentence-transformers does.
        uncased: whether it lower-cases by itself.

    """

    name: str
    python: bool
    lowercase: bool
    uncased: bool
    _tokenizer: PreTrainedTokenizerBase = field(repr=False)

    def encode(
        self, texts: Sequence[str], pairs: Sequence[str] | None, limit: int | None, *, padded: bool = False
    ) -> list[Expected]:
        """Return the encodings, cut to `limit` tokens (None: not cut), padded at the end to that if `padded`."""
        if pairs is not None and not all(pairs):
            # An empty second text is none where transformers is asked for one pair at a time, as the runtime is.
            rows = zip(texts, pairs, strict=True)
            return [self.encode([a], [b] if b else None, limit, padded=padded)[0] for a, b in rows]
        firsts, seconds = self._cased(texts), None if pairs is None else self._cased(pairs)
        found = self._tokenizer(
            firsts, seconds, truncation="longest_first" if limit else False, max_length=limit,
            padding="max_length" if padded else False, padding_side="right", verbose=False,
        )  # fmt: skip
        types = found.get("token_type_ids") or [()] * len(texts)
        masks = found.get("attention_mask") or [[1] * len(ids) for ids in found["input_ids"]]
        encodings = zip(found["input_ids"], types, masks, strict=True)
        return [Expected(tuple(ids), tuple(segments), tuple(mask)) for ids, segments, mask in encodings]

    def comparable(self, text: str) -> bool:
        """Return whether Python and the tokenizers library have the same rules for `text`.

        Each knows the Unicode of its own version. Python's BERT ends words in ς where the library writes σ, and composes
        what it does not lower-case (NFC). Whether special tokens with invisible characters inside are found depends on
        what comes first.
        """
        if not (self.python or self.lowercase):
            return True
        if any(unicodedata.category(c) == "Cn" or (self.python and _unsettled(c)) for c in text):
            return False
        text = text.lower() if self.lowercase else text
        visible = "".join(c for c in text if c.isspace() or not unicodedata.category(c).startswith("C"))
        seen = unicodedata.normalize("NFKC", visible)
        if any(seen.count(token) != text.count(token) for token in self._tokenizer.all_special_tokens):
            return False
        # Both drop control characters first, which may bring a letter and its accent together.
        composed = self.uncased or unicodedata.is_normalized("NFC", visible)
        return not self.python or (composed and not (self.uncased and "Σ" in text))

    @functools.cached_property
    def vocabulary(self) -> Mapping[str, int]:
        """Token to id."""
        return self._tokenizer.get_vocab()

    def room(self, *, pair: bool) -> int:
        """Return the number of special tokens around a text or a pair."""
        return int(self._tokenizer.num_special_tokens_to_add(pair=pair))

    def pads(self) -> bool:
        """Return whether it has a token to pad with."""
        return self._tokenizer.pad_token is not None

    def _cased(self, texts: Sequence[str]) -> list[str]:
        return [text.lower() for text in texts] if self.lowercase else list(texts)


def _unsettled(c: str) -> bool:
    """Return whether a character splits words or changes in normalization by young tables only, or did by old ones."""
    before, now = unicodedata.ucd_3_2_0.category(c), unicodedata.category(c)
    if before == "Cn":
        return now[0] in "PM" or bool(unicodedata.decomposition(c))
    return (before[0] == "P") != (now[0] == "P")  # U+166D was punctuation until Unicode 12


def load_references(source: SourceModel) -> tuple[list[Reference], tuple[str, ...]]:
    """Return the tokenizers that transformers has for the source's files, and notes about those that do not load."""
    path = Path(source.tokenizer)
    beside = any(path.with_name(name).is_file() for name in ("config.json", "tokenizer_config.json"))
    notes: list[str] = []
    tokenizer = None
    if beside and path.name == "tokenizer.json":
        try:
            tokenizer = _auto(path.parent)
        except Exception as error:  # transformers raises anything
            notes.append(
                "transformers does not load the source's tokenizer, so that the bundle's was compared with tokenizer.json "
                f"alone: {first_line(error)}."
            )
    if tokenizer is None:  # nothing but tokenizer.json says what the tokenizer is
        from transformers import PreTrainedTokenizerFast

        tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(path))
    references = [Reference(type(tokenizer).__name__, not tokenizer.is_fast, source.lowercase, False, tokenizer)]
    references += _legacy(tokenizer, path.parent, source.lowercase)
    return references, tuple(notes)


def _auto(folder: Path) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)


def _legacy(tokenizer: PreTrainedTokenizerBase, folder: Path, lowercase: bool) -> Iterator[Reference]:
    """Yield BERT's tokenizer in Python, where the folder has the vocabulary it reads."""
    from transformers import BertTokenizer
    from transformers.models.bert.tokenization_bert_legacy import BertTokenizerLegacy

    if isinstance(tokenizer, BertTokenizer) and (folder / "vocab.txt").is_file():
        found = BertTokenizerLegacy.from_pretrained(str(folder), local_files_only=True)
        yield Reference(type(found).__name__, True, lowercase, bool(found.do_lower_case), found)


def files_beside(tokenizer: Path) -> dict[str, str]:
    """Return the SHA-256 of each file that says what transformers makes of a tokenizer.json."""
    paths = (tokenizer.with_name(name) for name in _FILES)
    return {path.name: sha256_file(path) for path in paths if path.is_file()}
