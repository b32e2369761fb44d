"""Vocabulary: a tokenizer.json with fewer pieces, that cuts given texts as the whole one does. Without torch.

Ids are numbered anew, densely, in their old order. Normalizer, pre-tokenizer and decoder stay as they are.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer

from edgellm.errors import EdgellmError, InputError
from edgellm.stages.pieces import NEEDS, merges

_Json = dict[str, Any]

_CASED = r"[\p{Cased}&&[^\p{Case_Ignorable}]]"
_FINAL_SIGMA = rf"(?<={_CASED}\p{{Case_Ignorable}}*)Σ(?!\p{{Case_Ignorable}}*{_CASED})"
_LOWERCASE: tuple[_Json, ...] = (
    {"type": "Replace", "pattern": {"Regex": _FINAL_SIGMA}, "content": "ς"},
    {"type": "Lowercase"},
)
"""Python's str.lower(): Lowercase looks at single characters, and a word's last sigma has a form of its own."""


@dataclass(frozen=True)
class Trimmed:
    """A trimmed tokenizer.

    Attributes:
        tokenizer: its tokenizer.json.
        kept: old id of each new id, ascending.

    """

    tokenizer: str
    kept: tuple[int, ...]

    @property
    def numbers(self) -> dict[int, int]:
        """New id of each old one that was kept."""
        return {old: new for new, old in enumerate(self.kept)}


def used_ids(tokenizer: str, texts: Iterable[str]) -> set[int]:
    """Return every id that a tokenizer.json gives for `texts`, special tokens included."""
    encoder = Tokenizer.from_str(tokenizer)
    return {i for text in texts for i in encoder.encode(text).ids}


def as_shipped(tokenizer: str, *, lowercase: bool) -> str:
    """Return a tokenizer.json without padding and truncation, which the runtime sets itself.

    Args:
        tokenizer: the source's.
        lowercase: whether the source lower-cases text before its tokenizer sees it.

    """
    data = json.loads(tokenizer)
    data["padding"] = data["truncation"] = None
    if lowercase:
        own = data.get("normalizer")
        data["normalizer"] = {"type": "Sequence", "normalizers": [*_LOWERCASE, *([own] if own else [])]}
        data["added_tokens"] = _added_when_lower(data)
    return json.dumps(data, ensure_ascii=False)


def trim(tokenizer: str, used: Collection[int]) -> Trimmed:
    """Return the tokenizer with the pieces `used`, all added tokens, and what unseen text needs.

    Args:
        tokenizer: tokenizer.json.
        used: ids to keep; those that no piece has are left out.

    Raises:
        InputError: no rule here says what a tokenizer of its type needs, or its ids do not belong to its pieces.

    """
    whole = Tokenizer.from_str(tokenizer)
    names = {i: name for name, i in whole.get_vocab(with_added_tokens=True).items()}
    data: _Json = json.loads(whole.to_str())  # as this version writes it, whichever wrote the file
    data["padding"] = data["truncation"] = None  # the runtime's to set
    model: _Json = data["model"]
    needs = NEEDS.get(model["type"])
    if needs is None:
        raise InputError(
            f"A tokenizer of type {model['type']} can't be trimmed; {', '.join(sorted(NEEDS))} can.",
            hint="Leave out --vocab-from.",
        )
    named = _noted(lambda note: _renumber(data, note))
    if not named <= names.keys():
        raise InputError("The tokenizer can't be trimmed: it adds ids to texts that it has no piece for.")
    keep = {i for i in used if i in names} | named
    pieces = needs(model, {names[i] for i in keep})
    keep |= {i for i, name in names.items() if name in pieces}
    kept = tuple(sorted(keep))
    numbers = {old: new for new, old in enumerate(kept)}
    _renumber(data, numbers.__getitem__)
    _filter(model, {names[old]: new for old, new in numbers.items()})
    trimmed = Tokenizer.from_str(json.dumps(data))
    if any(trimmed.token_to_id(names[old]) != new for old, new in numbers.items()):
        raise InputError("The tokenizer can't be trimmed: its ids have an order of their own.")
    return Trimmed(json.dumps(data, ensure_ascii=False), kept)


def ensure_same_pieces(old: str, trimmed: Trimmed, texts: Sequence[str]) -> None:
    """Check that two tokenizers cut `texts` alike, and that their ids map one to one.

    Args:
        old: the whole tokenizer.json.
        trimmed: what was made of it.
        texts: all of them are compared.

    Raises:
        EdgellmError: a text differs; the message shows it.

    """
    before, after = Tokenizer.from_str(old), Tokenizer.from_str(trimmed.tokenizer)
    for text in texts:
        a, b = before.encode(text), after.encode(text)
        same_ids = all(new < len(trimmed.kept) for new in b.ids) and a.ids == [trimmed.kept[new] for new in b.ids]
        if not same_ids or a.tokens != b.tokens or a.type_ids != b.type_ids:
            raise EdgellmError(
                f'The trimmed tokenizer cuts "{text[:60]}" into other pieces than the whole one, and nothing was built.',
                hint="Please report it with the model's tokenizer.json; without --vocab-from the model builds.",
            )


def count_changed(old: str, trimmed: Trimmed, texts: Iterable[str]) -> int:
    """Return how many of `texts` two tokenizers cut into other pieces."""
    before, after = Tokenizer.from_str(old), Tokenizer.from_str(trimmed.tokenizer)
    return sum(before.encode(text).tokens != after.encode(text).tokens for text in texts)


def named_ids(settings: str) -> set[int]:
    """Return every id that a config.json or tokenizer_config.json names."""
    return _noted(lambda note: _walk(json.loads(settings), note))


def follow(settings: str, numbers: Mapping[int, int], rows: int) -> str:
    """Return a config.json or tokenizer_config.json whose ids and size follow a trimmed vocabulary.

    Args:
        settings: the JSON text.
        numbers: new id of each old one.
        rows: of the old embedding table. A number beyond it is no id and stays; one within it whose piece is gone
            becomes null.

    """
    data = _walk(json.loads(settings), lambda i: numbers.get(i) if 0 <= i < rows else i)
    if isinstance(data, dict) and data.get("vocab_size") == rows:
        data["vocab_size"] = len(numbers)
    return json.dumps(data, indent=2, ensure_ascii=False) + "\n"


def _added_when_lower(data: _Json) -> list[_Json]:
    """Return the added tokens that a lower-cased text can hold, found after lower-casing and not before.

    Without this, "[CLS]" as text would stay special, and "<S>" would not become so. Tokens that only the list gives an id
    stay, because the ids of others follow from it.
    """
    vocabulary = data.get("model", {}).get("vocab") or []
    names = vocabulary if isinstance(vocabulary, dict) else {str(entry[0]) for entry in vocabulary}
    return [
        {**token, "normalized": True}
        for token in data.get("added_tokens") or []
        if token["normalized"] or token["content"] == token["content"].lower() or token["content"] not in names
    ]


def _walk(node: object, change: Callable[[int], int | None], key: str = "") -> object:
    """Return a copy of a configuration with every token id changed."""
    if isinstance(node, dict):
        if key == "added_tokens_decoder":
            return {str(change(int(i))): value for i, value in node.items()}
        return {name: _walk(value, change, name) for name, value in node.items()}
    if isinstance(node, list):
        return [_walk(item, change, key) for item in node]
    if key.endswith(("token_id", "token_ids")) and isinstance(node, int) and not isinstance(node, bool):
        return change(node)
    return node


def _noted(visit: Callable[[Callable[[int], int]], object]) -> set[int]:
    """Return the ids that a walk over JSON hands over to be changed."""
    found: set[int] = set()

    def note(i: int) -> int:
        found.add(i)
        return i

    visit(note)
    return found


def _renumber(data: _Json, change: Callable[[int], int]) -> None:
    """Change the ids of added tokens and post-processors in place."""
    for token in data["added_tokens"]:
        token["id"] = change(token["id"])
    waiting = [data.get("post_processor") or {}]
    while waiting:
        processor = waiting.pop()
        waiting += processor.get("processors", [])
        if processor.get("type") == "TemplateProcessing":
            for special in processor["special_tokens"].values():
                special["ids"] = [change(i) for i in special["ids"]]
        elif processor.get("type") in ("BertProcessing", "RobertaProcessing"):
            for name in ("sep", "cls"):
                token, i = processor[name]
                processor[name] = [token, change(i)]


def _filter(model: _Json, numbers: Mapping[str, int]) -> None:
    """Drop the pieces of a model that have no new id, in place; `numbers` holds those that have one."""
    vocabulary = model["vocab"]
    if isinstance(vocabulary, list):
        unknown = vocabulary[model["unk_id"]][0] if model.get("unk_id") is not None else None
        model["vocab"] = [item for item in vocabulary if item[0] in numbers]
        if unknown is not None:
            model["unk_id"] = numbers[unknown]
        return
    model["vocab"] = {
        piece: numbers[piece] for piece in sorted(numbers, key=numbers.__getitem__) if piece in vocabulary
    }
    if "merges" in model:
        merged = merges(model)
        model["merges"] = [
            pair for pair, result in merged.items() if all(part in model["vocab"] for part in (*pair, result))
        ]
