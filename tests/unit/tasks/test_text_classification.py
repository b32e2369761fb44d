"""text-classification: scores as the transformers pipeline gives them, decisions, and the metric on labelled texts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgellm.core.manifest import TaskOptions
from edgellm.errors import InputError, UsageError
from edgellm.tasks import load_task

TASK = load_task("text-classification")
LABELS = ("bad", "fair", "good")
NAN = float("nan")


def outputs(*logits: float) -> Any:
    return {"logits": np.array([logits], dtype=np.float32)}


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
    value: Any = TASK.decode([outputs(*logits)], options(how))
    assert [row["label"] for row in value] == [label for label, _ in expected]
    assert [row["score"] for row in value] == pytest.approx([score for _, score in expected], abs=1e-5)
    assert all(type(row["score"]) is float for row in value)


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
def test_scores_are_equal_decisions(how: str, source: Any, other: Any, score: float) -> None:
    assert TASK.scores([outputs(*source)], [outputs(*other)], options(how)) == [score]


def test_evaluate_counts_right_labels() -> None:
    cases = [outputs(0, 2, 1), outputs(3, 2, 1), outputs(0, 0, 1), outputs(0, 0, 1)]
    assert TASK.evaluate(cases, ["fair", "bad", "good", "bad"], options("softmax")) == ("accuracy", 0.75)


def test_evaluate_refuses_a_label_that_the_model_does_not_know() -> None:
    with pytest.raises(InputError) as caught:
        TASK.evaluate([outputs(0, 1, 2)] * 2, ["good", "Good"], options("softmax"))
    assert "labels the model does not know: Good." in str(caught.value)
    assert "The model's labels are bad, fair, good." in str(caught.value)


def test_evaluate_refuses_a_regression() -> None:
    with pytest.raises(InputError, match="this model gives a number"):
        TASK.evaluate([outputs(0.5)], ["good"], options("none", ("score",)))


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
    chosen = TASK.read_options(None, config, None)
    assert chosen == options(how, labels)
    assert TASK.output_spec(config, chosen).shape == (1, len(labels))


def test_labels_without_numbers_are_an_input_error() -> None:
    with pytest.raises(InputError, match="id2label"):
        TASK.read_options(None, {"id2label": {"a": "b"}}, None)


def test_pooling_has_no_place_here() -> None:
    with pytest.raises(UsageError, match="--pooling belongs to feature-extraction"):
        TASK.read_options(None, {}, "mean")
