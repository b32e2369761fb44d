"""ctc-seq2seq: a text to another text in one forward pass, by models that `edgellm distill` makes.

A raw input is a text, or {"text": ..., "alternatives": n} where the bundle was built with `--alternatives`. The value is
{"text", "score"}, as speech recognition by CTC gives its text; with alternatives, likeliest first, each has both. `score` is
the probability of the one path that was read, or of all paths of an alternative.

The graph names the likeliest token of each slot, or several: all that is left to do is to collapse them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

from edgellm.core.manifest import TaskOptions
from edgellm.core.signature import TOKENS, OutputSpec
from edgellm.errors import InputError, UsageError
from edgellm.tasks import _ctc, _row, _seq2seq

if TYPE_CHECKING:
    from torch import nn

    from edgellm.core.signature import Outputs
    from edgellm.tasks import Encoding, Facts, Tokenizer

NAME = "ctc-seq2seq"
METRIC = _seq2seq.METRIC
EXACT: float | None = _seq2seq.EXACT
GOLDEN_CASES = _seq2seq.GOLDEN_CASES
ARCHITECTURES = ("CtcForSeq2Seq",)
WINDOWS = False
COLUMNS = _seq2seq.COLUMNS
LIBRARIES = _seq2seq.LIBRARIES
OUTPUT = _seq2seq.OUTPUT
MOST = 16
"""Tokens of a slot that a graph names at most."""

agree = _seq2seq.agree
golden = _seq2seq.golden
bench = _seq2seq.bench
example = _seq2seq.example
predict = _seq2seq.predict
metrics = _seq2seq.metrics
right = _seq2seq.right


def encode(raw: object, tokenizer: Tokenizer, options: TaskOptions) -> list[Encoding]:
    """Return the one pass of a text; none where the tokenizer makes nothing of it, as of an empty one."""
    encoding = tokenizer.encode(_asked(raw, options)[0])
    return [encoding] if encoding.ids else []


def decode(
    raw: object, encodings: Sequence[Encoding], outputs: Sequence[Outputs], options: TaskOptions, tokenizer: Tokenizer
) -> object:
    """Return {"text", "score"}, or {"text", "score", "alternatives"} where they were asked for."""
    _, wanted = _asked(raw, options)
    if not encodings:
        return {"text": "", "score": 1.0}
    rows = outputs[0][OUTPUT][0][: len(encodings[0].ids)].reshape(-1, options.alternatives, 2)
    blank = cast(int, options.pad_id)

    def said(found: _ctc.Found) -> dict[str, object]:
        return {"text": tokenizer.text(found.ids, special=False), "score": found.score}

    # As lists: taking an array's numbers one by one is slow enough to show in a short word's latency.
    path = _ctc.best_path([(chance, int(id)) for chance, id in rows[:, 0].tolist()], blank)
    if not math.isfinite(path.score):  # one that is not, in any slot, makes the product so
        return {"text": "", "score": math.nan}
    if not wanted:
        return said(path)
    slots = [[(chance, int(id)) for chance, id in slot] for slot in rows.tolist()]
    if not all(math.isfinite(chance) for slot in slots for chance, _ in slot):
        return {"text": "", "score": math.nan, "alternatives": []}
    found = [said(each) for each in _ctc.beam_search(slots, blank, best=wanted)]
    return {**(found[0] if found else said(path)), "alternatives": found}


def read_options(facts: Facts) -> TaskOptions:
    """Return blank and slots.

    Raises:
        InputError: the model is no CtcForSeq2Seq.
        UsageError: too many alternatives.

    """
    blank, slots = _seq2seq.read_shape(facts)
    if not 1 <= facts.alternatives <= MOST:
        raise UsageError(f"--alternatives is {facts.alternatives}; a slot has 1 to {MOST}.")
    return TaskOptions(pad_id=blank, slots=slots, alternatives=facts.alternatives)


def output_spec(config: Mapping[str, object], options: TaskOptions) -> OutputSpec:
    """Return [1, tokens, slots * alternatives * 2]: for each slot of each token, probability and id of its likeliest tokens."""
    _seq2seq.ensure_exact(config, options.alternatives)
    return OutputSpec(OUTPUT, "float32", (1, TOKENS, options.slots * options.alternatives * 2))


def auto_class() -> str:
    """Return the auto class of a model trained by CTC."""
    return "AutoModelForCTC"


def wrap(model: nn.Module, options: TaskOptions) -> nn.Module:
    """Return the model with the likeliest tokens of each slot as the graph's one output."""
    from edgellm.tasks._torch import Slots

    return Slots(model, slots=options.slots, top=options.alternatives)


def _asked(raw: object, options: TaskOptions) -> tuple[str, int]:
    """Return the text, and how many alternatives were asked for; 0 for the one path that the graph names."""
    if isinstance(raw, str):
        return raw, 0
    given = _row.arguments(raw, NAME, required=["text"], optional=["alternatives"])
    text = _row.text_of(given["text"], "text")
    if given.get("alternatives") is None:
        return text, 0
    wanted = _row.whole_of(given["alternatives"], "alternatives", least=1)
    if options.alternatives == 1:
        raise InputError(
            "This bundle names one token for each slot, so there are no alternatives.",
            hint="Build with --alternatives 8, the likeliest tokens of a slot that are kept.",
        )
    return text, wanted
