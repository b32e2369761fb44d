"""sentence-similarity by a cross-encoder: a pass per pair, scores in the order of the texts, and ranking metrics."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgellm.core.manifest import TaskOptions
from edgellm.errors import InputError
from edgellm.runtime.tokenizer import Tokenizer
from edgellm.stages.examples import read_examples
from edgellm.tasks import Example, Facts, load_task
from tests.tiny import tiny_tokenizer

TASK = load_task("sentence-similarity")
SIGMOID = TaskOptions(labels=("LABEL_0",), scores="sigmoid")
PLAIN = TaskOptions(labels=("stars",), scores="none")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_text(tiny_tokenizer().to_str(), encoding="utf-8")
    return Tokenizer(path, 16)


def value(options: TaskOptions, *logits: float) -> Any:
    outputs = [{"logits": np.array([[logit]], dtype=np.float32)} for logit in logits]
    return TASK.decode({}, [], outputs, options, None)  # type: ignore[arg-type]


def test_each_text_takes_a_pass(tokenizer: Tokenizer) -> None:
    passes = TASK.encode({"source_sentence": "fish", "sentences": ["red boots", "road " * 60]}, tokenizer, SIGMOID)
    assert [item.truncated for item in passes] == [False, True]
    assert [item.texts.count(1) for item in passes] == [2, 12]


def test_scores_keep_the_order_of_the_texts() -> None:
    assert value(SIGMOID, 2, -1000, 0) == pytest.approx([1 / (1 + math.exp(-2)), 0, 0.5])
    assert value(PLAIN, 2, -7) == [2, -7]


def test_agreement_is_the_largest_difference() -> None:
    assert TASK.agree([0.5, 0.25], [0.5, 0.5], SIGMOID) == 0.75
    assert TASK.agree([4, -8], [4, -4], PLAIN) == 0.5
    assert TASK.agree([0.5], [math.nan], SIGMOID) == 0


@pytest.mark.parametrize(
    "raw",
    ["fish", {"source_sentence": "a"}, {"source_sentence": "a", "sentences": []},
     {"source_sentence": "a", "sentences": "b"}, {"source_sentence": 1, "sentences": ["b"]}],
)  # fmt: skip
def test_other_inputs_are_refused(tokenizer: Tokenizer, raw: object) -> None:
    with pytest.raises(InputError):
        TASK.encode(raw, tokenizer, SIGMOID)


def test_a_model_of_several_outputs_is_refused() -> None:
    with pytest.raises(InputError, match="one output; this model has 2"):
        TASK.read_options(Facts({"id2label": {"0": "a", "1": "b"}}))
    assert TASK.read_options(Facts({"id2label": {"0": "LABEL_0"}})) == SIGMOID
    assert TASK.read_options(Facts({"id2label": {"0": "stars"}, "problem_type": "regression"})) == PLAIN


def test_rankings_are_scored_by_mrr_and_ndcg() -> None:
    row = {"source_sentence": "a", "sentences": ["b", "c", "d"], "relevance": [0, 2, 1]}
    example = TASK.example(row, SIGMOID)
    assert example == Example(({"source_sentence": "a", "sentences": ["b", "c", "d"]},), (0, 2, 1))
    first = TASK.predict([[0.1, 0.9, 0.5]], SIGMOID)
    second = TASK.predict([[0.9, 0.1, 0.5]], SIGMOID)
    assert TASK.metrics([example.gold], [first]) == pytest.approx({"MRR": 1, "nDCG": 1})
    found = TASK.metrics([example.gold, example.gold], [first, second])
    assert found["MRR"] == pytest.approx((1 + 1 / 2) / 2)
    best = 2 + 1 / math.log2(3)
    assert found["nDCG"] == pytest.approx((1 + (1 / math.log2(3) + 2 / math.log2(4)) / best) / 2)


def test_pairs_are_scored_by_correlation() -> None:
    example = TASK.example({"text": "a", "text_pair": "b", "score": "3"}, SIGMOID)
    assert example == Example(({"source_sentence": "a", "sentences": ["b"]},), 3.0)
    assert TASK.predict([[0.25]], SIGMOID) == 0.25
    assert TASK.metrics([1.0, 2.0, 4.0], [0.1, 0.2, 0.25])["spearman"] == pytest.approx(1)


@pytest.mark.parametrize(
    "relevance", [[1], [0, 0, 0], [1, -1, 0], ["a", 0, 1], 3, None]
)  # fmt: skip
def test_other_relevance_is_refused(relevance: object) -> None:
    with pytest.raises(InputError, match="relevance"):
        TASK.example({"source_sentence": "a", "sentences": ["b", "c", "d"], "relevance": relevance}, SIGMOID)


def test_a_file_holds_one_kind_of_row(tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_text("text\tlabel\na\tb\n")
    with pytest.raises(InputError, match=r"pairs\.tsv line 2: The column text_pair misses"):
        read_examples(path, TASK, SIGMOID)
