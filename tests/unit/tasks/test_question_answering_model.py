"""question-answering: agreement, golden cases, labelled rows and their metric, and what models are taken."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import nn

from edgellm.core.manifest import TaskOptions
from edgellm.errors import InputError, UsageError
from edgellm.runtime.tokenizer import Tokenizer
from edgellm.stages.compare import compare
from edgellm.stages.resample import MEANS
from edgellm.stages.source import default_model
from edgellm.tasks import Facts, load_task
from edgellm.texts import default_texts

TASK = load_task("question-answering")
OPTIONS = TaskOptions(overlap=8)
RAW = {"question": "Where?", "context": "the red boots by the river, the chips by the road"}
NAN = float("nan")


@pytest.mark.parametrize(
    ("source", "other", "expected"),
    [
        ((4, 10, "kettle"), (4, 10, "kettle"), 1),
        ((4, 10, "Kettle"), (40, 46, "kettle"), 1),  # said twice
        ((0, 10, "the kettle"), (4, 10, "kettle"), 0.75),
        ((4, 10, "kettle"), (12, 15, "and"), 0),
        ((4, 10, "kettle"), (0, 0, ""), 0),
        ((0, 0, ""), (0, 0, ""), 1),
    ],
)
def test_agreement_is_the_overlap_of_the_best_answers(source: Any, other: Any, expected: float) -> None:
    x, y = ({"score": 0.5, "start": start, "end": end, "answer": text} for start, end, text in (source, other))
    assert TASK.agree(x, y, OPTIONS) == expected
    assert TASK.agree(json.loads(json.dumps(x)), [y, x], OPTIONS) == expected, "the first of several counts"


@pytest.mark.parametrize(("max_tokens", "overlap"), [(128, 64), (384, 128), (32, 16)])
def test_golden_cases_ask_about_the_texts_some_in_several_windows(max_tokens: int, overlap: int) -> None:
    texts, options = default_texts("golden"), TaskOptions(overlap=overlap)
    tokenizer = Tokenizer(default_model() / "tokenizer.json", max_tokens)
    inputs: Any = TASK.golden(texts, options)
    assert len(inputs) == TASK.GOLDEN_CASES == len(texts)
    assert inputs == TASK.golden(texts, options)
    assert all(raw["context"].startswith(text[:40]) for text, raw in zip(texts, inputs, strict=True))
    windows = [len(TASK.encode(raw, tokenizer, options)) for raw in inputs]
    assert sum(n > 1 for n in windows) >= len(texts) // 20
    assert sum(n == 1 for n in windows) >= len(texts) // 20
    assert not any(item.truncated for raw in inputs for item in TASK.encode(raw, tokenizer, options))


def test_few_golden_texts_are_enough() -> None:
    assert TASK.golden(["a"], OPTIONS) == [{"question": "What is it?", "context": "a"}]
    assert [raw["context"] for raw in TASK.golden(["a", "b"], OPTIONS)] == ["a b", "b a"]  # type: ignore[index]
    assert TASK.bench("b", OPTIONS) == {"question": "What is it?", "context": "b"}


@pytest.mark.parametrize(
    ("answers", "gold"),
    [
        ("Porto", ("Porto",)),
        (["Porto", "in Porto"], ("Porto", "in Porto")),
        ({"text": ["Porto"], "answer_start": [3]}, ("Porto",)),
        ({"text": [], "answer_start": []}, ()),
        ([], ()),
        ("", ()),
        ([""], ()),
    ],
)
def test_rows_hold_answers_in_any_of_their_usual_forms(answers: object, gold: tuple[str, ...]) -> None:
    example = TASK.example({"question": "Where?", "context": "In Porto.", "answers": answers}, OPTIONS)
    assert example.gold == gold
    assert example.inputs == ({"question": "Where?", "context": "In Porto.", "handle_impossible_answer": True},)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"context": "a", "answers": "a"}, "column question misses"),
        ({"question": "a", "context": "a"}, "column answers misses"),
        ({"question": "a", "context": "a", "answers": 3}, "answers is a number"),
        ({"question": "a", "context": "a", "answers": [3]}, "an item of answers is a number"),
        ({"question": "a", "context": "a", "answers": {"answer_start": [1]}}, "column text misses"),
        ({"question": "", "context": "a", "answers": "a"}, "question is empty"),
        ({"question": "a", "context": 5, "answers": "a"}, "context is a number"),
    ],
)
def test_rows_that_do_not_fit_are_named(row: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TASK.example(row, OPTIONS)


def test_predictions_are_scored_as_squad_scores_them() -> None:
    value = {"score": 0.5, "start": 3, "end": 8, "answer": "Porto"}
    assert TASK.predict([value], OPTIONS) == TASK.predict([[value, value]], OPTIONS) == "Porto"
    assert TASK.predict([[]], OPTIONS) == ""
    golds = [("Porto", "Lisbon"), ("the red kettle",), (), ()]
    scores = TASK.metrics(golds, ["porto!", "a kettle", "", "Porto"])
    assert scores == {"SQuAD F1": pytest.approx((1 + 2 / 3 + 1 + 0) / 4), "exact match": pytest.approx(2 / 4)}
    assert next(iter(scores)) == "SQuAD F1"
    assert TASK.right is not None
    assert [TASK.right(golds[0], "The Porto."), TASK.right((), ""), TASK.right((), "x")] == [True, True, False]


def test_the_metric_is_resampled_as_the_mean_that_it_is() -> None:
    golds = [("Porto",), ("the red kettle", "a kettle"), ("in the shed by the river",)] * 7
    source, got = ["Porto", "kettle on it", "in the shed"] * 7, ["Porto", "red", "shed by"] * 6 + ["", "red", "x"]
    compared = compare(
        golds, source, got, metrics=TASK.metrics, shown=["?"] * 21, right=TASK.right, resamples=50,
    )  # fmt: skip
    assert compared.metric == "SQuAD F1" in MEANS
    assert compared.drop is not None
    assert compared.drop.low <= compared.drop.points <= compared.drop.high
    assert compared.flipped == 15


def test_a_model_that_reads_the_context_first_is_refused() -> None:
    assert TASK.read_options(Facts({})) == TaskOptions()
    with pytest.raises(InputError, match="pads at the left"):
        TASK.read_options(Facts({}, tokenizer={"padding_side": "left"}))
    with pytest.raises(UsageError, match="--pooling"):
        TASK.read_options(Facts({}, pooling="mean"))


class Heads(nn.Module):
    """Gives start and end logits as transformers does, as a tuple, or not at all."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> object:
        from transformers.modeling_outputs import BaseModelOutput, QuestionAnsweringModelOutput

        start, end = input_ids.float(), -input_ids.float()
        if self.how == "fields":
            return QuestionAnsweringModelOutput(start_logits=start, end_logits=end)
        return (start, end) if self.how == "tuple" else BaseModelOutput(last_hidden_state=start)


@pytest.mark.parametrize("how", ["fields", "tuple"])
def test_the_graph_gives_start_and_end_side_by_side(how: str) -> None:
    ids = torch.tensor([[1, 2, 3]])
    output = TASK.wrap(Heads(how), OPTIONS)(input_ids=ids, attention_mask=torch.ones_like(ids))
    assert output.tolist() == [[[1, -1], [2, -2], [3, -3]]]
    assert TASK.output_spec({}, OPTIONS).shape == (1, "tokens", 2)


def test_a_model_without_start_and_end_logits_is_refused() -> None:
    ids = torch.tensor([[1, 2, 3]])
    with pytest.raises(InputError, match="Heads gives no logits of start and end"):
        TASK.wrap(Heads("neither"), OPTIONS)(input_ids=ids, attention_mask=torch.ones_like(ids))
