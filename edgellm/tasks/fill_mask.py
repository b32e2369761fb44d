"""fill-mask: a text with mask tokens to the likeliest tokens in their places, as the transformers pipeline gives them.

A raw input is a text, or {"text": ..., "top_k": ...}; top_k is 5 where nothing is said, as in the pipeline.

The model's head computes only the places of the masks, SLOTS of them, and the graph gives the TOP likeliest tokens of
each: at every place and for the whole vocabulary, the head would cost more than the encoder, and its output megabytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from edgellm.core.manifest import TaskOptions
from edgellm.core.signature import OutputSpec
from edgellm.errors import InputError
from edgellm.tasks import Example, _classifier, _row, find_special

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from edgellm.core.signature import Outputs
    from edgellm.tasks import Encoding, Facts, Tokenizer

NAME = "fill-mask"
METRIC = "equal best tokens"
EXACT = None
GOLDEN_CASES = 288
ARCHITECTURES = ("ForMaskedLM",)
WINDOWS = False
COLUMNS = "text, with the mask once, and label, the token that is missing, as the tokenizer writes it"
LIBRARIES = ("sklearn", "scipy")
OUTPUT = "predictions"
SLOTS = 4
"""Masks at most in a text."""
TOP = 16
"""Tokens at most for each."""

_DEFAULT_TOP = 5

_LARGEST = 2**24
"""Ids up to here are exact in float32."""

_GOLDEN_BYTES = 24
"""A golden text has its mask after this many bytes at most: no tokenizer makes more tokens of them."""

_SPACES = (
    (" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"), (" 'm", "'m"), (" 's", "'s"),
    (" 've", "'ve"), (" 're", "'re"),
)  # fmt: skip
"""What transformers does where tokenizer_config.json says clean_up_tokenization_spaces (to no BPE tokenizer)."""


def encode(raw: object, tokenizer: Tokenizer, options: TaskOptions) -> list[Encoding]:
    """Return the one pass of a text.

    Raises:
        InputError: it has no mask, too many, or loses one where it is cut.

    """
    text, _ = _asked(raw)
    encoding = tokenizer.encode(text)
    masks = encoding.ids.count(options.mask_id)
    if encoding.truncated:
        whole = sum(window.ids.count(options.mask_id) for window in tokenizer.windows(text, overlap=0))
        if whole > masks:
            raise InputError(
                f"A mask stands behind the {tokenizer.max_tokens} tokens of a pass, where the text is cut.",
                hint="Shorten the text before it, or build with a longer --seq-len.",
            )
    if not masks:
        raise InputError(f"The text has no {options.mask}, so nothing is missing in it.")
    if masks > SLOTS:
        raise InputError(f"The text has {masks} masks; {SLOTS} at most are filled in.", hint="Split it.")
    return [encoding]


def decode(
    raw: object, encodings: Sequence[Encoding], outputs: Sequence[Outputs], options: TaskOptions, tokenizer: Tokenizer
) -> object:
    """Return [{"score", "token", "token_str", "sequence"}, ...], likeliest first; a list of such lists for several masks.

    `sequence` is the text with that one mask filled in, without special tokens where there is one mask, with them where
    there are several.
    """
    _, top = _asked(raw)
    ids = encodings[0].ids
    places = [place for place, id in enumerate(ids) if id == options.mask_id]

    def written(tokens: Sequence[int], *, special: bool = True) -> str:
        text = tokenizer.text(tokens, special=special)
        if options.clean_spaces and tokenizer.kind != "BPE":
            for old, new in _SPACES:
                text = text.replace(old, new)
        return text

    def filled(place: int, token: int) -> str:
        sequence = [*ids[:place], token, *ids[place + 1 :]]
        return written([id for id in sequence if id != options.pad_id], special=len(places) > 1)

    def best(place: int, rows: NDArray[np.float32]) -> list[dict[str, object]]:
        return [
            {"score": float(score), "token": int(token), "token_str": written([int(token)]),
             "sequence": filled(place, int(token))}
            for score, token in rows[:top]
        ]  # fmt: skip

    rows = [best(place, slot) for place, slot in zip(places, outputs[0][OUTPUT][0], strict=False)]
    return rows[0] if len(rows) == 1 else rows


def agree(source: object, other: object, options: TaskOptions) -> float:
    """Return the share of masks whose likeliest token is the same; one whose score is no number never is."""
    pairs = list(zip(_firsts(source), _firsts(other), strict=True))
    same = [x["token"] == y["token"] and math.isfinite(y["score"]) for x, y in pairs]
    return sum(same) / len(same)


def golden(texts: Sequence[str], options: TaskOptions) -> list[object]:
    """Return each text with a mask for its middle word, or an earlier one, so that it survives where the text is cut."""
    return [_masked(text.replace(options.mask, " "), options.mask) for text in texts]


def bench(text: str, options: TaskOptions) -> object:
    """Return the text behind a mask, which survives wherever the text is cut."""
    return f"{options.mask} {text.replace(options.mask, ' ')}"


def read_options(facts: Facts) -> TaskOptions:
    """Return the mask, and what the tokenizer's configuration says about writing text.

    Raises:
        InputError: the tokenizer has no mask.

    """
    _classifier.refuse_pooling(facts)
    mask, pad = find_special(facts, "mask_token"), find_special(facts, "pad_token")
    if mask is None:
        raise InputError(
            "The tokenizer has no mask token, so nothing can be marked as missing.",
            hint="tokenizer_config.json names it as mask_token, and the vocabulary holds it.",
        )
    return TaskOptions(
        mask=mask,
        mask_id=facts.vocabulary[mask],
        pad_id=None if pad is None else facts.vocabulary[pad],
        clean_spaces=facts.tokenizer.get("clean_up_tokenization_spaces") is True,
    )


def output_spec(config: Mapping[str, object], options: TaskOptions) -> OutputSpec:
    """Return [1, SLOTS, TOP, 2]: for each mask, in the order of the text, probability and id of the likeliest tokens.

    Raises:
        InputError: the vocabulary has fewer than TOP tokens, or ids that float32 can't hold.

    """
    size = config.get("vocab_size")
    if isinstance(size, int) and not TOP <= size <= _LARGEST:
        raise InputError(f"The model has a vocabulary of {size} tokens; {NAME} takes {TOP} to {_LARGEST}.")
    return OutputSpec(OUTPUT, "float32", (1, SLOTS, TOP, 2))


def auto_class() -> str:
    """Return the auto class of a masked language model."""
    return "AutoModelForMaskedLM"


def wrap(model: nn.Module, options: TaskOptions) -> nn.Module:
    """Return the model with its head at the masks alone, and the likeliest tokens as the graph's one output."""
    from edgellm.tasks._torch import Filled

    return Filled(model, mask_id=options.mask_id, slots=SLOTS, top=TOP)


def example(row: Mapping[str, object], options: TaskOptions) -> Example:
    """Return a text with one mask, and the token that is missing, without spaces around it."""
    text = _row.text_of(_row.column(row, "text", COLUMNS), "text")
    if text.count(options.mask) != 1:
        raise InputError(f"The text has {text.count(options.mask)} times {options.mask}; labelled texts have it once.")
    label = _row.text_of(_row.column(row, "label", COLUMNS), "label").strip()
    if not label:
        raise InputError("label is empty.")
    return Example((text,), label)


def predict(values: Sequence[object], options: TaskOptions) -> object:
    """Return the likeliest token as text, without spaces around it; upper and lower case stay as the tokenizer has them."""
    return str(_firsts(values[0])[0]["token_str"]).strip()


def metrics(golds: Sequence[object], predictions: Sequence[object]) -> dict[str, float]:
    """Return the share of texts whose likeliest token is the missing one."""
    from sklearn.metrics import accuracy_score

    return {"accuracy": float(accuracy_score(golds, predictions))}


def right(gold: object, prediction: object) -> bool:
    """Tell whether the likeliest token is the missing one."""
    return gold == prediction


def _asked(raw: object) -> tuple[str, int]:
    if isinstance(raw, str):
        return raw, _DEFAULT_TOP
    given = _row.arguments(raw, NAME, required=["text"], optional=["top_k"])
    asked = given.get("top_k")
    top = _DEFAULT_TOP if asked is None else _row.whole_of(asked, "top_k", least=1)
    if top > TOP:
        raise InputError(f"top_k is {top}; the graph gives the {TOP} likeliest tokens.")
    return _row.text_of(given["text"], "text"), top


def _firsts(value: object) -> list[dict[str, Any]]:
    """Return the likeliest token of each mask."""
    rows = cast("list[Any]", value)
    return [row[0] for row in rows] if isinstance(rows[0], list) else rows[:1]


def _masked(text: str, mask: str) -> str:
    words = text.split()
    if len(words) < 2:
        return f"{mask} {''.join(words) or '.'}"  # also of scripts without spaces
    place = len(words) // 2
    while place and len(" ".join(words[:place]).encode()) > _GOLDEN_BYTES:
        place -= 1
    return " ".join([*words[:place], mask, *words[place + 1 :]])
