"""question-answering: a question and a context to the spans of the context that answer it, as the pipeline gives them.

A raw input is {"question": ..., "context": ...} with the arguments `top_k`, `max_answer_len`,
`handle_impossible_answer`, `align_to_words` and `max_question_len` of the pipeline of transformers 4.57, and their
defaults. A value is {"score", "start", "end", "answer"}, best first in a list where there are several; start and end
are characters of the context. Scores of answers that read the same add up, so they can exceed 1.

Three things differ on purpose. A question longer than `max_question_len` is cut to it, as documented, and the result
says so; the pipeline does it for Python tokenizers alone. Spans of probability 0 are left out, where the pipeline fills
a list up with some that end before they start. And the answer never lies in the question, even if that spells [CLS].
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from edgellm.core.manifest import TaskOptions
from edgellm.core.signature import TOKENS, OutputSpec
from edgellm.errors import InputError, MissingDependencyError
from edgellm.tasks import Example, _classifier, _row, _spans

if TYPE_CHECKING:
    from torch import nn

    from edgellm.core.signature import Outputs
    from edgellm.tasks import Encoding, Facts, Tokenizer

NAME = "question-answering"
METRIC = "overlap of answers"
EXACT = None
GOLDEN_CASES = 288
ARCHITECTURES = ("ForQuestionAnswering",)
WINDOWS = True
COLUMNS = "question, context, answers; answers is a text, a list of texts or SQuAD's object, and empty for no answer"
LIBRARIES = ("torchmetrics", "scipy")
OUTPUT = "logits"

_QUESTIONS = (
    "What is it?",
    "Who is it about?",
    "Where?",
    "When?",
    "Why?",
    "How many?",
    "What happened?",
    "Who says so?",
)
"""Of golden cases: so short that they leave room for a context in the shortest pass that is of use."""

_METRICS = {"SQuAD F1": "f1", "exact match": "exact_match"}
_NUMBERS = ("top_k", "max_answer_len", "max_question_len")
_FLAGS = ("handle_impossible_answer", "align_to_words")

_SHORTEST = 40
"""Characters of a golden context that are left, however short windows are."""

_LONG_EVERY = 16
"""Every so many golden cases the context takes several windows."""


@dataclass(frozen=True)
class _Call:
    """A raw input with its defaults; see the pipeline's `__call__`."""

    question: str
    context: str
    top_k: int = 1
    max_answer_len: int = 15
    handle_impossible_answer: bool = False
    align_to_words: bool = True
    max_question_len: int = 64


def encode(raw: object, tokenizer: Tokenizer, options: TaskOptions) -> list[Encoding]:
    """Return one pass per window of the context, each with the whole question.

    Raises:
        InputError: the input is none, holds nothing, or the question leaves no room for the context.

    """
    call = _call(raw)
    question = _cut(call.question, call.max_question_len, tokenizer)
    windows = tokenizer.windows(question, call.context, overlap=options.overlap or 0)
    if 1 not in windows[0].texts:
        raise InputError("context holds nothing that the tokenizer reads as text.")
    return [replace(window, truncated=question != call.question) for window in windows]


def decode(
    raw: object, encodings: Sequence[Encoding], outputs: Sequence[Outputs], options: TaskOptions, tokenizer: Tokenizer
) -> object:
    """Return {"score": float, "start": int, "end": int, "answer": str}, or a list of none or several, best first."""
    call = _call(raw)
    # Several spans of tokens may come to the same words, so more are looked at than asked for.
    wanted = call.top_k * 2 + 10 if call.align_to_words else call.top_k
    answers: dict[str, dict[str, object]] = {}
    impossible = math.inf
    for encoding, output in zip(encodings, outputs, strict=True):
        start, end = _spans.probabilities(encoding, output[OUTPUT][0])
        impossible = min(impossible, float(start[0] * end[0]))
        start[0] = end[0] = 0.0
        left, right = _spans.characters(encoding, call.align_to_words)
        for first, last, score in zip(*_spans.likeliest(start, end, call.max_answer_len, wanted), strict=True):
            text = call.context[left[first] : right[last]]
            new = {"score": 0.0, "start": int(left[first]), "end": int(right[last]), "answer": text}
            answer = answers.setdefault(text.lower(), new)
            answer["score"] = cast(float, answer["score"]) + float(score)
    found = list(answers.values())
    if call.handle_impossible_answer and math.isfinite(impossible):
        found.append({"score": impossible, "start": 0, "end": 0, "answer": ""})
    best = sorted(found, key=lambda answer: -cast(float, answer["score"]))[: call.top_k]
    return best[0] if len(best) == 1 else best


def agree(source: object, other: object, options: TaskOptions) -> float:
    """Return 1 where the best answers read the same, else how far their spans overlap: twice what both hold by the sum.

    Not 1 or 0: a span that gains an article is still the answer, and counting it like a wrong one would let the gate
    hang on near ties, of which a choice among hundreds of spans has more than one among a few labels.
    """
    x, y = _best(source), _best(other)
    if x is None or y is None:
        return float(x is None and y is None)
    if str(x["answer"]).lower() == str(y["answer"]).lower():
        return 1.0
    (a, b), (c, d) = ((cast(int, answer["start"]), cast(int, answer["end"])) for answer in (x, y))
    return 2 * max(0, min(b, d) - max(a, c)) / max(1, (b - a) + (d - c))


def golden(texts: Sequence[str], options: TaskOptions) -> list[object]:
    """Return short questions, each about a text and those after it: about a window's worth, in some cases several."""
    # A window is two overlaps long or more, and a token has 4 characters in English and down to 1 elsewhere.
    overlap = options.overlap or 0
    return [
        {
            "question": _QUESTIONS[i % len(_QUESTIONS)],
            "context": _from(texts, i, 16 * overlap if i % _LONG_EVERY == 0 else 3 * overlap),
        }
        for i in range(len(texts))
    ]


def bench(text: str, options: TaskOptions) -> object:
    """Return a short question about the text."""
    return {"question": _QUESTIONS[0], "context": text}


def read_options(facts: Facts) -> TaskOptions:
    """Return no options: the head has two outputs, whatever the configuration says.

    Raises:
        InputError: the model reads the context before the question.

    """
    _classifier.refuse_pooling(facts)
    if facts.tokenizer.get("padding_side") == "left":
        raise InputError(
            "The tokenizer pads at the left, with which the pipeline puts the context before the question; edgellm puts it "
            "after.",
            hint="If the model was trained with the question first, set padding_side to right in tokenizer_config.json.",
        )
    return TaskOptions()


def output_spec(config: Mapping[str, object], options: TaskOptions) -> OutputSpec:
    """Return [1, tokens, 2]: where the answer starts, and where it ends."""
    return OutputSpec(OUTPUT, "float32", (1, TOKENS, 2))


def auto_class() -> str:
    """Return the auto class of a model with a head for spans."""
    return "AutoModelForQuestionAnswering"


def wrap(model: nn.Module, options: TaskOptions) -> nn.Module:
    """Return the start and end logits as the graph's one output."""
    from edgellm.tasks._torch import Spans

    return Spans(model)


def example(row: Mapping[str, object], options: TaskOptions) -> Example:
    """Return a question about a context, and every answer that is right: a tuple of texts, empty if there is none.

    Whether an answer is possible is the model's to say, in every row alike: a row alone does not tell whether others of
    its file have none.
    """
    question, context = (_row.text_of(_row.column(row, name, COLUMNS), name) for name in ("question", "context"))
    raw = {"question": question, "context": context, "handle_impossible_answer": True}
    _call(raw)
    answers = _row.column(row, "answers", COLUMNS)
    if isinstance(answers, Mapping):
        answers = _row.column(answers, "text", "text and answer_start")
    if isinstance(answers, str):
        answers = [answers]
    texts = _row.texts_of(answers, "answers") if answers != [] and answers != () else []
    return Example((raw,), tuple(text for text in texts if text.strip()))


def predict(values: Sequence[object], options: TaskOptions) -> object:
    """Return the text of the best answer, empty if there is none; a gold is a tuple of such texts."""
    best = _best(values[0])
    return "" if best is None else best["answer"]


def metrics(golds: Sequence[object], predictions: Sequence[object]) -> dict[str, float]:
    """Return SQuAD's F1 over words and its exact match, the means over examples against the nearest right answer each.

    Raises:
        MissingDependencyError: torchmetrics is not installed.

    """
    each = [_squad(gold, prediction) for gold, prediction in zip(golds, predictions, strict=True)]
    return {name: sum(scores[key] for scores in each) / len(each) for name, key in _METRICS.items()}


def right(gold: object, prediction: object) -> bool:
    """Tell whether the prediction matches one of the answers exactly, as SQuAD compares them."""
    return _squad(gold, prediction)["exact_match"] == 1.0


def _squad(gold: object, prediction: object) -> dict[str, float]:
    """Return torchmetrics' scores of one answer. One by one: it sums in single precision."""
    try:
        from torchmetrics.functional.text import squad
    except ImportError:
        raise MissingDependencyError(
            f"The metric of {NAME} needs torchmetrics.", hint="Install it with: pip install 'edgellm[eval]'"
        ) from None
    texts = list(cast("tuple[str, ...]", gold)) or [""]  # an empty text is SQuAD's way to say "no answer"
    answers = {"text": texts, "answer_start": [0] * len(texts)}
    scores = squad({"id": "0", "prediction_text": str(prediction)}, {"id": "0", "answers": answers})
    return {key: float(score) / 100 for key, score in scores.items()}


def _call(raw: object) -> _Call:
    """Return the checked input."""
    given = _row.arguments(raw, NAME, required=["question", "context"], optional=[*_NUMBERS, *_FLAGS])
    for name in ("question", "context"):
        if not _row.text_of(given[name], name).strip():
            raise InputError(f"{name} is empty.")
    for name in given.keys() & {*_NUMBERS}:
        _row.whole_of(given[name], name, least=1)
    for name in given.keys() & {*_FLAGS}:
        _row.flag_of(given[name], name)
    return _Call(**cast("dict[str, Any]", given))


def _cut(question: str, longest: int, tokenizer: Tokenizer) -> str:
    """Return the question, or what of it comes to at most `longest` tokens."""
    text, keep = question, longest
    while len(tokens := _own(tokenizer.encode(text))) > longest:
        if not keep:
            raise InputError(f"max_question_len is {longest}, which leaves nothing of the question.")
        # A piece of text can take more tokens than it did inside the whole, and one character several.
        text = question[: tokens[keep - 1][1]]
        keep -= 1
    return text


def _own(encoding: Encoding) -> list[tuple[int, int]]:
    """Return the characters of each token but the special ones."""
    return [place for place, text in zip(encoding.offsets, encoding.texts, strict=True) if text is not None]


def _best(value: object) -> Mapping[str, object] | None:
    """Return the first of a value's answers, or None if it has none."""
    if isinstance(value, list):
        return cast("Mapping[str, object]", value[0]) if value else None
    return cast("Mapping[str, object]", value)


def _from(texts: Sequence[str], start: int, characters: int) -> str:
    """Return the texts from `start` on, going round at the end, up to about so many characters and at least some."""
    joined = texts[start]
    for i in range(1, len(texts)):
        if len(joined) >= characters:
            break
        joined += " " + texts[(start + i) % len(texts)]
    return joined[: max(characters, _SHORTEST)]
