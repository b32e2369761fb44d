"""Parity: the bundle's tokenizer, through the runtime, gives the ids that transformers gives for the source's.

What AutoTokenizer loads decides everything: ids, segments, where texts and pairs are cut, what is padding. transformers
5 has one more tokenizer for models that come with a tokenizer.json: BERT's in Python. Where its vocab.txt is there it is
asked as well, because AutoTokenizer's shares its Rust code with the runtime.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from tokenizers import Tokenizer as _Tokenizer

from edgellm.core.signature import Signature
from edgellm.errors import GateError, InputError
from edgellm.runtime.session import pad, to_feeds
from edgellm.runtime.tokenizer import Tokenizer
from edgellm.stages.fuzz import fuzz_texts
from edgellm.stages.references import Expected, Reference, load_references
from edgellm.stages.source import SourceModel
from edgellm.tasks import Encoding

TEXTS = 1500
"""Texts that a build compares."""

_CHUNK = 500
_MIDDLE = 16
_SHORT, _TINY = 200, 20
_SHORT_EVERY = 3
_PAIRS_EVERY = 5
_PADDED_EVERY = 5
_PYTHON_EVERY = 5
_PIECES = 2000


@dataclass(frozen=True)
class Mismatch:
    """One difference between the bundle's tokenizer and the source's.

    Attributes:
        reference: which of transformers' tokenizers.
        text, pair: what was encoded.
        limit: tokens at most.
        what: "ids", "token types", "truncation", "padded mask", "padded ids" or "vocabulary".
        position: of the first difference.
        ours, theirs: what is there.

    """

    reference: str
    text: str
    pair: str | None
    limit: int
    what: str
    position: int
    ours: str
    theirs: str

    def __str__(self) -> str:
        text = _short(self.text) + (f" with {_short(self.pair)}" if self.pair is not None else "")
        return (
            f"{text}, cut to {self.limit} tokens: {self.what} at position {self.position}: {self.ours} in the bundle, "
            f"{self.theirs} in transformers' {self.reference}"
        )


@dataclass(frozen=True)
class Parity:
    """What was compared.

    Attributes:
        texts: how many.
        compared: transformers' tokenizers by class, and how many of the texts each was asked for.
        mismatches: in which encodings the first difference is where.
        notes: what could not be compared, for the user.

    """

    texts: int
    compared: dict[str, int]
    mismatches: tuple[Mismatch, ...]
    notes: tuple[str, ...]


def ensure_parity(source: SourceModel, path: Path, max_tokens: int) -> Parity:
    """Return what `compare` finds over the build's texts.

    Raises:
        GateError: the tokenizers differ.

    """
    parity = compare(source, path, max_tokens, corpus(source, TEXTS), python_every=_PYTHON_EVERY)
    if parity.mismatches:
        least = min(parity.mismatches, key=lambda found: len(found.text) + len(found.pair or ""))
        raise GateError(
            f"The bundle's tokenizer differs from the source's in {len(parity.mismatches)} encodings of {parity.texts} "
            f"texts. The shortest: {least}.",
            hint="The source's tokenizer.json and the files beside it may contradict each other. Where transformers is right, "
            "save what it loads: AutoTokenizer.from_pretrained('DIR').save_pretrained('DIR'). Where tokenizer.json is, set "
            "tokenizer_class to PreTrainedTokenizerFast in tokenizer_config.json. Texts are always cut at the end.",
        )
    return parity


def corpus(source: SourceModel, count: int, *, seed: int = 0) -> Iterator[str]:
    """Yield texts that the source's tokenizer may stumble over: its special tokens and vocabulary are among them."""
    path = Path(source.tokenizer)
    numbered = _Tokenizer.from_file(str(path)).get_vocab().items()
    tokens = [token for token, _ in sorted(numbered, key=lambda item: item[1])]
    added = [str(token["content"]) for token in json.loads(path.read_text("utf-8")).get("added_tokens") or []]
    return fuzz_texts(count, added, tokens[:: -(-len(tokens) // _PIECES)], seed=seed)


def compare(source: SourceModel, path: Path, max_tokens: int, texts: Iterable[str], *, python_every: int = 1) -> Parity:
    """Compare the tokenizer at `path`, through the runtime, with what transformers loads for the source.

    Args:
        source: whose tokenizer it should be.
        path: the bundle's tokenizer.json.
        max_tokens: of the bundle.
        texts: to encode, valid Unicode.
        python_every: which of them a tokenizer in Python is asked for, as it takes several times as long.

    """
    comparison = Comparison(source, path, max_tokens, python_every=python_every)
    found = list(comparison.vocabulary())
    rest, count = iter(texts), 0
    while chunk := list(islice(rest, _CHUNK)):
        found += comparison.texts(chunk)
        count += len(chunk)
    return Parity(count, comparison.compared, tuple(found), comparison.notes)


class Comparison:
    """A bundle's tokenizer beside those that transformers loads for its source.

    Attributes:
        compared: by class of the latter, how many texts were compared.
        notes: what could not be loaded.

    """

    def __init__(self, source: SourceModel, path: Path, max_tokens: int, *, python_every: int = 1) -> None:
        self._references, self.notes = load_references(source)
        self.compared = {reference.name: 0 for reference in self._references}
        self._python_every = python_every
        self._runtime = Tokenizer(path, max_tokens)
        self._plain = _Tokenizer.from_file(str(path))
        self._signature = Signature(source.inputs, (source.output,))
        self._max_tokens = max_tokens
        self._rows = source.inputs[0].bound
        self._typed = any(spec.name == "token_type_ids" for spec in source.inputs)

    def vocabulary(self) -> Iterator[Mismatch]:
        """Yield tokens that have another id, or none, in transformers: no corpus holds every token."""
        for reference in self._references:
            theirs = reference.vocabulary
            for token, number in self._plain.get_vocab().items():
                if theirs.get(token) != number:
                    yield Mismatch(
                        reference.name,
                        token,
                        None,
                        self._max_tokens,
                        "vocabulary",
                        0,
                        str(number),
                        str(theirs.get(token)),
                    )

    def texts(self, texts: Sequence[str]) -> Iterator[Mismatch]:
        """Yield the differences over texts, and over some of them in pairs, cut short and padded."""
        for reference in self._references:
            known = self._known(reference, texts)
            self.compared[reference.name] += len(known)
            yield from self._texts(reference, known)

    def _known(self, reference: Reference, texts: Sequence[str]) -> list[str]:
        """Return the texts that can be compared: without tokens that transformers adds and the model has no row for."""
        asked = texts[:: self._python_every] if reference.python else texts
        known = [text for text in asked if reference.comparable(text)]
        if max(reference.vocabulary.values()) < self._rows:
            return known
        encoded = reference.encode(known, None, None) if known else []
        return [text for text, whole in zip(known, encoded, strict=True) if max(whole.ids, default=0) < self._rows]

    def _texts(self, reference: Reference, known: list[str]) -> Iterator[Mismatch]:
        most = self._max_tokens
        if reference.python:
            yield from self._at((most,), reference, known)
            return
        # The library makes an encoding of each part that it cuts away, and of each two parts in a pair.
        short, tiny = ([text for text in known if len(text) <= size] for size in (_SHORT, _TINY))
        one, two = reference.room(pair=False), reference.room(pair=True)
        yield from self._at((most,), reference, known)
        yield from self._at((one + 1, one + 2, _MIDDLE), reference, short[::_SHORT_EVERY])
        yield from self._at((most,), reference, known[::_PAIRS_EVERY], known[1::_PAIRS_EVERY])
        yield from self._at((_MIDDLE,), reference, short[::_PAIRS_EVERY], short[1::_PAIRS_EVERY])
        yield from self._at((two + 1, two + 2), reference, tiny[::2], tiny[1::2])
        yield from self._padded(reference, known[::_PADDED_EVERY])

    def _at(
        self, limits: Sequence[int], reference: Reference, texts: list[str], pairs: list[str] | None = None
    ) -> Iterator[Mismatch]:
        """Yield the differences at those limits that the bundle has and that leave room for text."""
        firsts = texts if pairs is None else texts[: len(pairs)]
        room = reference.room(pair=pairs is not None)
        limits = [limit for limit in limits if room < limit <= self._max_tokens]
        if not firsts or not limits:
            return
        whole = reference.encode(firsts, pairs, None)
        for limit in limits:
            for i, theirs in enumerate(reference.encode(firsts, pairs, limit)):
                pair = pairs[i] if pairs else None
                difference = self._difference(firsts[i], pair, limit, theirs, cut=len(whole[i].ids) > limit)
                if difference:
                    yield Mismatch(reference.name, firsts[i], pair, limit, *difference)

    def _difference(
        self, text: str, pair: str | None, limit: int, theirs: Expected, *, cut: bool
    ) -> tuple[str, int, str, str] | None:
        ours = self._encode(text, pair, limit)
        if ours.ids != theirs.ids:
            at = _first_difference(ours.ids, theirs.ids)
            return "ids", at, self._token(ours.ids, at), self._token(theirs.ids, at)
        if self._typed and theirs.type_ids and ours.type_ids != theirs.type_ids:
            at = _first_difference(ours.type_ids, theirs.type_ids)
            return "token types", at, str(ours.type_ids[at]), str(theirs.type_ids[at])
        if ours.truncated != cut:
            return "truncation", limit, "cut" if ours.truncated else "not cut", "cut" if cut else "not cut"
        return None

    def _padded(self, reference: Reference, texts: list[str]) -> Iterator[Mismatch]:
        """Yield differences in what a model of a fixed length is fed; what the mask hides is not compared."""
        if not texts or not reference.pads():
            return
        tokens = self._max_tokens
        for text, theirs in zip(texts, reference.encode(texts, None, tokens, padded=True), strict=True):
            feeds = pad(to_feeds(self._encode(text, None, tokens), self._signature), self._signature, tokens)
            mask = tuple(map(int, feeds["attention_mask"][0]))
            for what, row, expected in (("mask", mask, theirs.mask), ("ids", feeds["input_ids"][0], theirs.ids)):
                shown = [int(value) * seen for value, seen in zip(row, mask, strict=True)]
                hidden = [value * seen for value, seen in zip(expected, theirs.mask, strict=True)]
                if shown != hidden:
                    at = _first_difference(shown, hidden)
                    yield Mismatch(
                        reference.name, text, None, tokens, f"padded {what}", at, str(shown[at]), str(hidden[at])
                    )
                    break

    def _encode(self, text: str, pair: str | None, limit: int) -> Encoding:
        try:
            return self._runtime.encode(text, pair, max_tokens=limit)
        except InputError:  # no room for text, where transformers has some
            return Encoding((), (), False)

    def _token(self, ids: tuple[int, ...], at: int) -> str:
        return f"{self._plain.id_to_token(ids[at])!r} ({ids[at]})" if at < len(ids) else "nothing"


def _first_difference(ours: Sequence[int], theirs: Sequence[int]) -> int:
    pairs = zip(ours, theirs, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(ours), len(theirs)))


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
