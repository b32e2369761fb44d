"""text-classification: scores as the transformers pipeline gives them, decisions, and the metric on labelled texts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgellm.core.manifest import TaskOptions
from edgellm.errors import InputError, UsageError
from edgellm.tasks import Example, Facts, load_task

TASK = load_task("text-classification")
LABELS = ("bad", "fair", "good")
NAN = float("nan")


def outputs(*logits: float) -> Any:
    return {"logits": np.array([logits], dtype=np.float32)}


def value(how: str, *logits: float) -> Any:
    return TASK.decode("x", [], [outputs(*logits)], options(how), None)  # type: ignore[arg-type]


def options(scores: str, labels: tuple[str, ...] = LABELS) -> TaskOptions:
    return TaskOptions(labels=labels, scores=scores)


@pytest.mark.parametrize(
    ("how", "logits", "expected"),
    [
        ("softmax", (0.0, 2.0, 1.0), [("fair", 0.66524), ("good", 0.24473), ("bad", 0.09003)]),
        ("softmax", (0.0, 1000.0, -1000.0), [("fair", 1.0), ("bad", 0.0), ("good", 0.0)]),
        ("softmax", (1.0, 1.0, 1.0), [("bad", 1 / 3), ("fair", 1 / 3), ("good", 1 / 3)]),  # ties keep the model's order
        ("sigmoid", (0.0, 2.0, -2.0), [("fair", 0.88080), ("bad", 0.5), ("good", 0.11920)]),
        ("sigmoid", (1000.0, -1000.0, 0.0), [("bad", 1.0), ("good", 0.5), ("fair", 0.0)]),
        ("none", (0.5, -3.0, 7.0), [("good", 7.0), ("bad", 0.5), ("fair", -3.0)]),
    ],
)
def test_decode_scores_every_label_best_first(how: str, logits: Any, expected: list[tuple[str, float]]) -> None:
    rows = value(how, *logits)
    assert [row["label"] for row in rows] == [label for label, _ in expected]
    assert [row["score"] for row in rows] == pytest.approx([score for _, score in expected], abs=1e-5)
    assert all(type(row["score"]) is float for row in rows)


@pytest.mark.parametrize(
    ("how", "source", "other", "score"),
    [
        ("softmax", (0, 2, 1), (0, 9, 8), 1),
        ("softmax", (0, 2, 1), (0, 1, 2), 0),
        ("softmax", (0, 2, 1), (0, NAN, 1), 0),
        ("softmax", (0, 2, 1), (NAN, 2, NAN), 0),
        ("sigmoid", (-1, 2, 1), (-9, 1, 2), 1),
        ("sigmoid", (-1, 2, 1), (-1, 2, -0.1), 0),  # one decision of three flipped
        ("sigmoid", (-1, 2, 1), (float("inf"), 2, 1), 0),
        ("none", (0, 2, 1), (0, 2, 1), 1),
        ("none", (0, 2, 1), (0.25, 2, 1), 0.75),
        ("none", (0, 2, 1), (0, 9, 1), 0),
        ("none", (0, 2, 1), (0, NAN, 1), 0),
    ],
)
def test_agreement_is_equal_decisions(how: str, source: Any, other: Any, score: float) -> None:
    assert TASK.agree(value(how, *source), value(how, *other), options(how)) == score


def predicted(how: str, *logits: float) -> object:
    return TASK.predict([value(how, *logits)], options(how))


def test_metrics_of_one_label_are_accuracy_and_macro_f1() -> None:
    predictions = [predicted("softmax", *logits) for logits in ((0, 2, 1), (3, 2, 1), (0, 0, 1), (0, 0, 1))]
    assert predictions == ["fair", "bad", "good", "good"]
    found = TASK.metrics(["fair", "bad", "good", "bad"], predictions)
    assert found == pytest.approx({"accuracy": 0.75, "macro-F1": (1 + 2 / 3 + 2 / 3) / 3})


def test_metrics_of_several_labels_are_macro_f1_and_exact_accuracy() -> None:
    predictions = [predicted("sigmoid", *logits) for logits in ((1, -1, 1), (-1, -1, -1))]
    assert predictions == [("bad", "good"), ()]
    assert TASK.metrics([("bad",), ()], predictions) == pytest.approx({"macro-F1": 0.5, "exact accuracy": 0.5})


def test_metrics_of_numbers_are_correlations() -> None:
    assert TASK.predict([[{"label": "stars", "score": 3.5}]], options("none", ("stars",))) == 3.5
    assert TASK.metrics([1.0, 2.0, 3.0], [1.5, 2.5, 9.0])["spearman"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("how", "labels", "label", "gold"),
    [
        ("softmax", LABELS, " good ", "good"),
        ("sigmoid", LABELS, "good, bad", ("bad", "good")),
        ("sigmoid", LABELS, ["good", "bad"], ("bad", "good")),
        ("sigmoid", LABELS, "", ()),
        ("sigmoid", ("toxic",), "1", ("toxic",)),
        ("sigmoid", ("toxic",), "no", ()),
        ("none", ("stars",), "4.5", 4.5),
    ],
)
def test_a_row_becomes_an_example(how: str, labels: tuple[str, ...], label: object, gold: object) -> None:
    pair = {"text": "a", "text_pair": "b"}
    assert TASK.example({"text": "a", "label": label}, options(how, labels)) == Example(("a",), gold)
    assert TASK.example({**pair, "label": label}, options(how, labels)) == Example((pair,), gold)


@pytest.mark.parametrize(
    ("how", "labels", "row", "said"),
    [
        ("softmax", LABELS, {"text": "a", "label": "Good"}, "no label 'Good'. Its labels are bad, fair, good"),
        ("sigmoid", LABELS, {"text": "a", "label": ["good", "odd"]}, "no label 'odd'"),
        (
            "sigmoid",
            ("toxic",),
            {"text": "a", "label": "maybe"},
            "label is 'maybe'; for this model it is toxic, 1 or 0",
        ),
        ("none", ("stars",), {"text": "a", "label": "good"}, "label is 'good'; it has to be a number"),
        ("none", LABELS, {"text": "a", "label": "1"}, "several numbers"),
        ("softmax", LABELS, {"label": "good"}, "The column text misses"),
        ("softmax", LABELS, {"text": ["a"], "label": "good"}, "text is a list"),
        ("softmax", LABELS, {"text": "a", "text_pair": 3, "label": "good"}, "text_pair is a number"),
    ],
)
def test_other_rows_are_refused(how: str, labels: tuple[str, ...], row: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        TASK.example(row, options(how, labels))


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (5, "takes an object"),
        ({"text": "a", "pair": "b"}, "No argument 'pair'"),
        ({"text_pair": "b"}, "lacks text"),
        ({"text": None}, "text is nothing"),
    ],
)
def test_other_inputs_are_refused(raw: object, said: str) -> None:
    with pytest.raises(InputError, match=said):
        TASK.encode(raw, None, options("softmax"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("config", "labels", "how"),
    [
        ({"id2label": {"0": "no", "1": "yes"}}, ("no", "yes"), "softmax"),
        ({"id2label": {str(i): f"l{i}" for i in (10, 9, *range(9))}}, tuple(f"l{i}" for i in range(11)), "softmax"),
        ({"id2label": {"0": "a", "1": "b"}, "problem_type": "multi_label_classification"}, ("a", "b"), "sigmoid"),
        ({"id2label": {"0": "toxic"}}, ("toxic",), "sigmoid"),
        ({"id2label": {"0": "stars"}, "problem_type": "regression"}, ("stars",), "none"),
        ({"num_labels": 3}, ("LABEL_0", "LABEL_1", "LABEL_2"), "softmax"),
        ({}, ("LABEL_0", "LABEL_1"), "softmax"),
    ],
)  # fmt: skip
def test_labels_and_score_function_follow_the_configuration(config: Any, labels: tuple[str, ...], how: str) -> None:
    chosen = TASK.read_options(Facts(config))
    assert chosen == options(how, labels)
    assert TASK.output_spec(config, chosen).shape == (1, len(labels))


def test_labels_without_numbers_are_an_input_error() -> None:
    with pytest.raises(InputError, match="id2label"):
        TASK.read_options(Facts({"id2label": {"a": "b"}}))


def test_pooling_has_no_place_here() -> None:
    with pytest.raises(UsageError, match="--pooling belongs to feature-extraction"):
        TASK.read_options(Facts({}, pooling="mean"))
