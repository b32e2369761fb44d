"""zero-shot-classification: a pass per label, and scores as the transformers pipeline gives them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgellm.core.manifest import TaskOptions
from edgellm.errors import InputError
from edgellm.runtime.tokenizer import Tokenizer
from edgellm.tasks import Example, Facts, load_task
from tests.tiny import tiny_tokenizer

TASK = load_task("zero-shot-classification")
OPTIONS = TaskOptions(labels=("contradiction", "neutral", "entailment"))
RAW = {"sequences": "the road is gone", "candidate_labels": ["road", "fish"]}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_text(tiny_tokenizer().to_str(), encoding="utf-8")
    return Tokenizer(path, 40)


def value(raw: dict[str, Any], *logits: tuple[float, float, float], options: TaskOptions = OPTIONS) -> Any:
    outputs = [{"logits": np.array([row], dtype=np.float32)} for row in logits]
    return TASK.decode(raw, [], outputs, options, None)  # type: ignore[arg-type]


def test_each_label_takes_a_pass_and_only_the_text_is_cut(tokenizer: Tokenizer) -> None:
    raw = {"sequences": "boots " * 60, "candidate_labels": "road, fish", "hypothesis_template": "a {} and a {}"}
    with pytest.raises(InputError, match="needs one"):
        TASK.encode(raw, tokenizer, OPTIONS)
    raw["hypothesis_template"] = "a {}"
    passes = TASK.encode(raw, tokenizer, OPTIONS)
    assert [item.truncated for item in passes] == [True, True]
    for item, label in zip(passes, ("road", "fish"), strict=True):
        assert len(item.ids) == 40
        assert tokenizer.text(
            [i for i, text in zip(item.ids, item.texts, strict=True) if text == 1], special=False
        ) == (f"a {label}")


def test_a_label_that_fills_the_pass_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(InputError, match="may not be cut fills the 40 tokens"):
        TASK.encode({"sequences": "boots", "candidate_labels": ["road " * 50]}, tokenizer, OPTIONS)


def test_scores_are_a_softmax_over_the_labels() -> None:
    found = value(RAW, (5, 0, 1), (0, 0, 3))
    assert (found["sequence"], found["labels"]) == ("the road is gone", ["fish", "road"])
    assert found["scores"] == pytest.approx([1 / (1 + math.exp(-2)), 1 / (1 + math.exp(2))])


@pytest.mark.parametrize("raw", [{**RAW, "multi_label": True}, {**RAW, "candidate_labels": ["road"]}])
def test_labels_on_their_own_are_entailment_against_contradiction(raw: dict[str, Any]) -> None:
    logits = [(1, 9, 3), (0, 0, -1)][: len(raw["candidate_labels"])]
    found = value(raw, *logits)
    assert found["labels"][0] == "road"
    assert found["scores"][0] == pytest.approx(1 / (1 + math.exp(-2)))
    first = TaskOptions(labels=("entailment", "neutral", "contradiction"))
    assert value(raw, *[row[::-1] for row in logits], options=first) == found


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ("a text", "takes an object"),
        ({"sequences": "a"}, "lacks candidate_labels"),
        ({**RAW, "candidate_labels": []}, "has to be a list of texts"),
        ({**RAW, "candidate_labels": " , "}, "candidate_labels is empty"),
        ({**RAW, "candidate_labels": [3]}, "an item of candidate_labels is a number"),
        ({**RAW, "hypothesis_template": "no place"}, "needs one {}"),
        ({**RAW, "hypothesis_template": "{0.__class__}"}, "needs one {}"),
        ({**RAW, "hypothesis_template": "{!"}, "needs one {}"),
        ({**RAW, "multi_label": 1}, "has to be true or false"),
        ({**RAW, "multi_labels": True}, "Did you mean 'multi_label'"),
    ],
)
def test_other_inputs_are_refused(tokenizer: Tokenizer, raw: object, said: str) -> None:
    with pytest.raises(InputError) as caught:
        TASK.encode(raw, tokenizer, OPTIONS)
    assert said in str(caught.value)


def test_a_model_without_entailment_is_refused() -> None:
    with pytest.raises(InputError, match="is entailment"):
        TASK.read_options(Facts({"id2label": {"0": "good", "1": "bad"}}))
    assert TASK.read_options(Facts({"id2label": {"0": "Entailment", "1": "no"}})).labels == ("Entailment", "no")


def test_agreement_is_the_best_label() -> None:
    a, b = value(RAW, (0, 0, 1), (0, 0, 3)), value(RAW, (0, 0, 4), (0, 0, 3))
    assert (TASK.agree(a, a, OPTIONS), TASK.agree(a, b, OPTIONS)) == (1, 0)
    assert TASK.agree(a, value(RAW, (0, 0, math.nan), (0, 0, 3)), OPTIONS) == 0


def test_rows(tmp_path: Path) -> None:
    row = {"text": "a", "candidate_labels": "road,fish", "label": "fish"}
    assert TASK.example(row, OPTIONS) == Example(({"sequences": "a", "candidate_labels": ["road", "fish"]},), "fish")
    assert TASK.predict([value(RAW, (0, 0, 1), (0, 0, 3))], OPTIONS) == "fish"
    with pytest.raises(InputError, match="none of the candidates road, fish"):
        TASK.example({**row, "label": "river"}, OPTIONS)
    assert TASK.metrics(["fish", "road"], ["fish", "fish"])["accuracy"] == 0.5
