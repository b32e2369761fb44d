"""Tasks around a classifier answer as transformers' own pipeline does, field by field, from the artifact that ships."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgellm.runtime import Session
from tests.integration.conftest import ROOT, edgellm

pytestmark = pytest.mark.integration

TEXTS = (
    "The kettle is on.",
    "",
    "naïve café, 20 °C — well",
    "fish 🐟 and chips 🍟 👩‍👩‍👧",
    "Это не словарь. 日本語のテキスト",
    "[CLS] special [SEP] tokens as text [MASK]",
    "tabs\tand\nlines \u200b and NUL \0",
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
)
LIMIT = 48
"""max_tokens of the bundles, which the oracle is told to cut at as well."""


def oracle(task: str, model: Path, calls: list[dict[str, Any]]) -> list[Any]:
    """Return what the pipeline answers."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.oracle.pipelines", task, str(model)], input=json.dumps(calls),
        capture_output=True, text=True, check=False, cwd=ROOT, env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    answers: list[Any] = json.loads(done.stdout)
    return answers


@pytest.fixture(scope="module")
def session(model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Session]:
    """Return a session of the fp32 ONNX artifact of a small model."""
    made: dict[tuple[str, str], Session] = {}

    def opened(kind: str, task: str) -> Session:
        if (kind, task) not in made:
            out = tmp_path_factory.mktemp("classifiers") / kind
            done = edgellm("build", str(model(kind)), "--task", task, "--target", "linux-x86_64", "--format", "onnx",
                           "--scheme", "fp32", "--seq-len", str(LIMIT), "--out", str(out), "--quiet")  # fmt: skip
            assert done.returncode == 0, done.stderr
            made[kind, task] = Session.open(out)
        return made[kind, task]

    return opened


def same(got: Any, expected: Any) -> None:
    """Assert equal fields, and numbers within 1e-4."""
    if isinstance(expected, float):
        assert got == pytest.approx(expected, abs=1e-4)
    elif isinstance(expected, dict):
        assert got.keys() == expected.keys()
        for name in expected:
            same(got[name], expected[name])
    elif isinstance(expected, list):
        assert len(got) == len(expected)
        for x, y in zip(got, expected, strict=True):
            same(x, y)
    else:
        assert got == expected


@pytest.mark.parametrize("kind", ["classifier", "several", "stars"])
def test_text_classification_of_texts_and_pairs(
    kind: str, model: Callable[[str], Path], session: Callable[[str, str], Session]
) -> None:
    pairs = [{"text": a, "text_pair": b} for a, b in zip(TEXTS, TEXTS[::-1], strict=True)]
    pairs.append({"text": "word " * 60, "text_pair": "another " * 30})
    inputs: list[Any] = [*TEXTS, "long " * 100, *pairs]
    options = {"top_k": None, "truncation": True, "max_length": LIMIT}
    calls = [{"args": [raw if isinstance(raw, dict) else [raw]], "kwargs": options} for raw in inputs]
    expected = oracle("text-classification", model(kind), calls)
    got = session(kind, "text-classification")(inputs)
    for result, answer in zip(got, expected, strict=True):
        same(result.value, answer if isinstance(answer[0], dict) else answer[0])
    assert [result.truncated for result in got[:9]] == [False] * 8 + [True]
    assert got[-1].truncated


def test_zero_shot_classification(model: Callable[[str], Path], session: Callable[[str, str], Session]) -> None:
    rows: list[dict[str, Any]] = [{"candidate_labels": ["weather", "food", "a question"]} for _ in range(3)]
    rows[1]["multi_label"] = True
    rows[2] = {"candidate_labels": "one label", "hypothesis_template": "Dieser Text handelt von {}."}
    # The oracle cuts nothing here, so longer texts are left out.
    inputs = [{"sequences": text, **row} for text in (TEXTS[0], *TEXTS[3:5]) for row in rows]
    expected = oracle("zero-shot-classification", model("entailment"), [{"kwargs": raw} for raw in inputs])
    for result, answer in zip(session("entailment", "zero-shot-classification")(inputs), expected, strict=True):
        same(result.value, answer)


def test_sentence_similarity_is_the_classifier_s_score_of_each_pair(
    model: Callable[[str], Path], session: Callable[[str, str], Session]
) -> None:
    raw = {"source_sentence": TEXTS[0], "sentences": list(TEXTS)}
    options = {"top_k": None, "truncation": True, "max_length": LIMIT}
    calls = [{"args": [{"text": TEXTS[0], "text_pair": text}], "kwargs": options} for text in TEXTS]
    expected = [answer[0]["score"] for answer in oracle("text-classification", model("ranker"), calls)]
    assert session("ranker", "sentence-similarity")(raw).value == pytest.approx(expected, abs=1e-4)
