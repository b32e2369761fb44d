"""mask-predict-seq2seq: a text to another text in one forward pass, by models that predict its length and then its tokens.

A raw input is a text, and the value {"text", "score"}: the product of the probabilities that its tokens had when they were
filled in. Refinement passes, if the model has any, are inside the one graph.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from edgellm.core.manifest import TaskOptions
from edgellm.core.signature import TOKENS, OutputSpec
from edgellm.tasks import _row, _seq2seq

if TYPE_CHECKING:
    from torch import nn

    from edgellm.core.signature import Outputs
    from edgellm.tasks import Encoding, Facts, Tokenizer

NAME = "mask-predict-seq2seq"
METRIC = _seq2seq.METRIC
EXACT: float | None = _seq2seq.EXACT
GOLDEN_CASES = _seq2seq.GOLDEN_CASES
ARCHITECTURES = ("MaskPredictForSeq2Seq",)
WINDOWS = False
COLUMNS = _seq2seq.COLUMNS
LIBRARIES = _seq2seq.LIBRARIES
OUTPUT = _seq2seq.OUTPUT

agree = _seq2seq.agree
golden = _seq2seq.golden
bench = _seq2seq.bench
example = _seq2seq.example
predict = _seq2seq.predict
metrics = _seq2seq.metrics
right = _seq2seq.right


def encode(raw: object, tokenizer: Tokenizer, options: TaskOptions) -> list[Encoding]:
    """Return the one pass of a text; none where the tokenizer makes nothing of it, as of an empty one."""
    text = raw if isinstance(raw, str) else _row.arguments(raw, NAME, required=["text"])["text"]
    encoding = tokenizer.encode(_row.text_of(text, "text"))
    return [encoding] if encoding.ids else []


def decode(
    raw: object, encodings: Sequence[Encoding], outputs: Sequence[Outputs], options: TaskOptions, tokenizer: Tokenizer
) -> object:
    """Return {"text", "score"}: the tokens up to the first place beyond the length."""
    if not encodings:
        return {"text": "", "score": 1.0}
    places = outputs[0][OUTPUT][0][: len(encodings[0].ids)].reshape(-1, 2)
    if not all(map(math.isfinite, places[:, 0])):
        return {"text": "", "score": math.nan}
    ids = [int(id) for id in places[:, 1]]
    end = ids.index(options.pad_id) if options.pad_id in ids else len(ids)
    return {"text": tokenizer.text(ids[:end], special=False), "score": math.prod(map(float, places[:end, 0]))}


def read_options(facts: Facts) -> TaskOptions:
    """Return the id beyond the length, and the places for each token."""
    pad, slots = _seq2seq.read_shape(facts)
    return TaskOptions(pad_id=pad, slots=slots)


def output_spec(config: Mapping[str, object], options: TaskOptions) -> OutputSpec:
    """Return [1, tokens, slots * 2]: for each place of each token, probability and id."""
    _seq2seq.ensure_exact(config, 1)
    return OutputSpec(OUTPUT, "float32", (1, TOKENS, options.slots * 2))


def auto_class() -> str:
    """Return the auto class that the architecture is registered with."""
    return "AutoModelForCTC"


def wrap(model: nn.Module, options: TaskOptions) -> nn.Module:
    """Return the model with the filled places as the graph's one output."""
    from edgellm.tasks._torch import Places

    return Places(model, slots=options.slots, top=1)
