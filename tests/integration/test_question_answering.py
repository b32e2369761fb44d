"""Questions over contexts of any length: the pipeline's answers from the artifact that ships, and every format's own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgellm.runtime import Bundle, Session
from tests.integration.conftest import ROOT, edgellm

pytestmark = pytest.mark.integration
RECORDED: dict[str, Any] = json.loads((ROOT / "tests/oracle/question_answering.json").read_text(encoding="utf-8"))
SAME = 1e-5
"""Scores closer than this, relative to the larger, are a tie, whose order says nothing; fp32 sums differ by 1e-6."""


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    folder = tmp_path_factory.mktemp("spans")
    command = [sys.executable, "-m", "tests.oracle.spans_model", str(folder / "model")]
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    done = edgellm("build", str(folder / "model"), "--target", "linux-x86_64", "--format", "onnx", "--scheme", "fp32",
                   "--seq-len", str(RECORDED["max_seq_len"]), "--out", str(folder / "b"), "--quiet")  # fmt: skip
    assert done.returncode == 0, done.stderr
    return Session.open(folder / "b")


def test_answers_are_the_recorded_pipelines_field_by_field(session: Session) -> None:
    manifest = session.bundle.manifest
    assert (manifest.task, manifest.max_tokens) == ("question-answering", RECORDED["max_seq_len"])
    assert manifest.task_options.overlap == RECORDED["doc_stride"]
    assert len(RECORDED["cases"]) >= 60
    several = 0
    for case in RECORDED["cases"]:
        raw, expected = case["input"], case["output"]
        result = session(raw)
        assert not result.truncated
        several += len(session.encode(raw)[0]) > 1
        same_answers(result.value, expected, raw)
    assert several >= 15


def same_answers(value: Any, expected: Any, raw: dict[str, Any]) -> None:
    """Assert equal kinds, answers and order, ties apart, and scores within 1e-4."""
    told = f"{raw}: {value}, not {expected}"
    assert isinstance(value, list) == isinstance(expected, list), told
    if not isinstance(expected, list):
        value, expected = [value], [expected]
    # Where a list can't be filled, the pipeline adds spans of no probability, which end before they start.
    expected = [item for item in expected if item["score"] > 0]
    assert len(value) == len(expected), told
    for got, wanted in zip(value, expected, strict=True):
        assert list(got) == list(wanted) == ["score", "start", "end", "answer"], told
        assert got["score"] == pytest.approx(wanted["score"], abs=1e-4, rel=0), told
        tied = [item for item in expected if item["score"] == pytest.approx(wanted["score"], rel=SAME)]
        last = wanted["score"] <= expected[-1]["score"] * (1 + SAME) and len(expected) == raw.get("top_k", 1)
        fields = [(item["start"], item["end"], item["answer"]) for item in tied]
        assert (got["start"], got["end"], got["answer"]) in fields or (last and len(tied) > 1), told


@pytest.mark.parametrize("wrong", ["start", "answer", "score", "order", "missing", "kind"])
def test_a_wrong_answer_would_be_noticed(wrong: str) -> None:
    case = next(case for case in RECORDED["cases"] if case["input"].get("top_k") == 3)
    value = [dict(item) for item in case["output"]]
    same_answers(value, case["output"], case["input"])
    if wrong == "order":
        value[0], value[1] = value[1], value[0]
    elif wrong == "missing":
        value.pop()
    elif wrong == "score":
        value[1]["score"] += 2e-4
    elif wrong != "kind":
        value[0][wrong] = value[1][wrong]
    with pytest.raises(AssertionError):
        same_answers(value[0] if wrong == "kind" else value, case["output"], case["input"])


@pytest.mark.parametrize("formats", [("onnx",), pytest.param(("executorch", "tflite"), marks=pytest.mark.full)])
def test_every_format_answers_over_several_windows(
    model: Callable[[str], Path], tmp_path: Path, formats: tuple[str, ...]
) -> None:
    rows = [
        {
            "question": "What is on?",
            "context": "The kettle is on.",
            "answers": {"text": ["The kettle"], "answer_start": [0]},
        },
        {"question": "Who?", "context": "Nobody has seen the red boots.", "answers": ["Nobody", "nobody at all"]},
        {"question": "When?", "context": "It rained. " * 20, "answers": []},
    ]
    (tmp_path / "dev.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    done = edgellm("build", str(model("questions")), "--target", "linux-x86_64", "--seq-len", "32",
                   "--eval", str(tmp_path / "dev.jsonl"), "--min-agreement", "0.5", "--out", str(tmp_path / "b"),
                   "--quiet", *(part for fmt in formats for part in ("--format", fmt)))  # fmt: skip
    assert done.returncode == 0, done.stderr
    bundle = Bundle.open(tmp_path / "b")
    assert {artifact.format for artifact in bundle.manifest.artifacts} == set(formats)
    context = "The kettle is on, the parcel is late, and nobody has seen the red boots. " * 3
    raw = {"question": "What is late?", "context": context, "top_k": 3, "handle_impossible_answer": True}
    for artifact in bundle.manifest.artifacts:
        assert artifact.scheme == "int8-dynamic"
        assert artifact.agreement.metric == "overlap of answers"
        assert artifact.evaluation is not None
        assert (artifact.evaluation.metric, artifact.evaluation.n) == ("SQuAD F1", 3)
        session = Session.open(bundle, format=artifact.format)
        assert len(session.encode(raw)[0]) > 3
        value: Any = session(raw).value
        assert len(value) == 3
        for item in value:
            assert item["answer"] == context[item["start"] : item["end"]]
            assert 0 < item["score"] < 20
        cut = session({**raw, "question": "why " * 9, "max_question_len": 4})
        assert cut.truncated
