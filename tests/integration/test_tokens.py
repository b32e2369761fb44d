"""Tags and missing tokens are those of transformers' own pipelines, for every kind of tokenizer; and in every format."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from edgellm.core import strict
from edgellm.core.manifest import TaskOptions
from edgellm.core.signature import Signature
from edgellm.runtime import Bundle, Session
from edgellm.runtime.session import pad, to_feeds
from edgellm.runtime.tokenizer import Tokenizer
from edgellm.tasks import load_task

from .conftest import ROOT, edgellm

pytestmark = pytest.mark.integration

BASES = ("minilm", "bpe", "unigram")
TEXTS = (
    "My name is Wolfgang and I live in Berlin.",
    "",
    "   ",
    "naïve café, 20 °C — well…",
    "fish 🐟 and chips 🍟 👩‍👩‍👧",
    "Это не словарь. 日本語のテキスト",
    "don't, can't; it 's Anna's U.S.A.-made no-go (2x)",
    "[CLS] special [SEP] tokens </s> as text <unk> [UNK]",
    "tabs\tand\nlines \u200b and NUL \0",
    "Zażółć gęślą jaźń at https://example.com/a?b=1,2",
)
STRATEGIES = ("none", "simple", "first", "average", "max")
MASKED = (
    ("Paris is the {} of France.", {}),
    ("{}", {"top_k": 16}),
    ("the road was {} by noon , do n't you think ?", {"top_k": 8}),
    ("Это {} словарь 🐟!", {"top_k": 1}),
    ("{} and{} are friends.", {}),
    ("a {} b {} c {} d {}.", {"top_k": 2}),
    ("[SEP] {} </s> <pad> [PAD]", {}),
    ("[SEP] {} </s> <pad> [PAD] {}", {}),
)


def calls(kind: str) -> list[tuple[str, dict[str, Any]]]:
    if kind.startswith("tagger"):
        long = "Wolfgang and Anna live in Berlin, New York or Paris. " * 3
        asked: list[dict[str, Any]] = [{"aggregation_strategy": name} for name in STRATEGIES]
        asked += [{}, {"ignore_labels": []}, {"aggregation_strategy": "simple", "ignore_labels": ["PER", "misc"]}]
        return [(text, arguments) for text in (*TEXTS, long) for arguments in asked]
    mask = "[MASK]" if kind.endswith("minilm") else "<mask>"
    return [(text.format(*[mask] * 4), arguments) for text, arguments in MASKED]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with models, fp32 ONNX artifacts and the pipelines' answers."""
    folder = tmp_path_factory.mktemp("heads")
    wanted = {f"{head}-{base}": calls(f"{head}-{base}") for head in ("tagger", "filler") for base in BASES}
    wanted |= {"tagger-wordpiece": [], "filler-wordpiece": []}
    done = subprocess.run(
        [sys.executable, "-m", "tests.heads", str(folder)], input=json.dumps(wanted), capture_output=True, text=True,
        check=False, cwd=ROOT, env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


def answers(folder: Path, raws: list[Any]) -> Iterator[object]:
    """Yield what an fp32 ONNX artifact answers, from the raw input."""
    facts = json.loads((folder / "source.json").read_text())
    task, options = load_task(facts["task"]), strict.read(TaskOptions, facts["options"], "options")
    signature = strict.read(Signature, facts["signature"], "signature")
    tokenizer = Tokenizer(folder / "tokenizer.json", 512)
    session = onnxruntime.InferenceSession(folder / "model-fp32.onnx", providers=["CPUExecutionProvider"])
    for raw in raws:
        encodings = task.encode(raw, tokenizer, options)
        outputs = []
        for encoding in encodings:
            feeds = to_feeds(encoding, signature)
            tokens = signature.tokens_for(len(encoding.ids))
            (output,) = session.run(None, dict(pad(feeds, signature, tokens)))
            outputs.append({task.OUTPUT: np.asarray(output)})
        yield task.decode(raw, encodings, outputs, options, tokenizer)


def same(got: Any, expected: Any, where: str) -> None:
    """Assert equal fields in equal order, and numbers within 1e-4."""
    if isinstance(expected, float):
        assert got == pytest.approx(expected, abs=1e-4), where
    elif isinstance(expected, dict):
        assert list(got) == list(expected), where
        for name in expected:
            same(got[name], expected[name], f"{where} {name}")
    elif isinstance(expected, list):
        assert len(got) == len(expected), where
        for number, (x, y) in enumerate(zip(got, expected, strict=True)):
            same(x, y, f"{where} {number}")
    else:
        assert got == expected, where


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("head", ["tagger", "filler"])
def test_answers_are_the_pipelines_field_by_field(made: Path, head: str, base: str) -> None:
    kind = f"{head}-{base}"
    raws = [{"text": text, **arguments} for text, arguments in calls(kind)]
    expected = json.loads((made / kind / "answers.json").read_text())
    for raw, got, answer in zip(raws, answers(made / kind, raws), expected, strict=True):
        same(got, answer, repr(raw))


@pytest.fixture(scope="module")
def built(made: Path) -> Callable[[str], Bundle]:
    """Return the bundle of a small model in three int8 formats; few random weights survive int8 as they are."""

    @cache
    def bundle(head: str) -> Bundle:
        out = made / f"{head}-bundle"
        agreement = {"tagger": "0.8", "filler": "0.7"}[head]
        done = edgellm("build", str(made / f"{head}-wordpiece"), "--target", "linux-x86_64", "--seq-len", "16,32",
                       "--min-agreement", agreement, "--out", str(out), "--quiet")  # fmt: skip
        assert done.returncode == 0, done.stderr
        return Bundle.open(out)

    return bundle


@pytest.mark.full
@pytest.mark.parametrize("fmt", ["onnx", "tflite", "executorch"])
def test_a_text_of_several_windows_is_tagged_to_its_end(built: Callable[[str], Bundle], fmt: str) -> None:
    bundle = built("tagger")
    assert bundle.manifest.task_options.overlap == 16
    session = Session.open(bundle, format=fmt)
    text = " ".join(f"The lighthouse keeper of {place} likes red boots." for place in ("Oslo", "Rome", "Kiel") * 3)
    encodings, _ = session.encode(text)
    assert len(encodings) > 4
    result = session({"text": text, "ignore_labels": []})
    assert not result.truncated
    tokens: Any = result.value
    assert [item["index"] for item in tokens] == list(range(1, len(tokens) + 1))
    assert tokens[-1]["end"] == len(text)
    assert "".join(text[item["start"] : item["end"]] for item in tokens) == text.replace(" ", "")
    whole: Any = session({"text": text, "aggregation_strategy": "first", "ignore_labels": []}).value
    assert (whole[0]["start"], whole[-1]["end"]) == (0, len(text))


@pytest.mark.parametrize("fmt", ["onnx", "tflite", "executorch"])
def test_missing_tokens_are_found_in_every_format(built: Callable[[str], Bundle], fmt: str) -> None:
    session = Session.open(built("filler"), format=fmt)
    one: Any = session("The [MASK] is on.").value
    assert len(one) == 5
    assert [item["score"] for item in one] == sorted((item["score"] for item in one), reverse=True)
    assert all(0 <= item["score"] <= 1 and "[MASK]" not in item["sequence"] for item in one)
    alone: Any = session({"text": "[MASK] and [MASK]", "top_k": 16}).value
    assert [len(row) for row in alone] == [16, 16]
    session("[MASK] " + "boots " * 20)
    assert session({"text": "[MASK] and [MASK]", "top_k": 16}).value == alone  # padding and lengths leave no trace


@pytest.mark.parametrize("head", [pytest.param("tagger", marks=pytest.mark.full), "filler"])
def test_formats_agree_where_random_weights_allow(built: Callable[[str], Bundle], head: str) -> None:
    bundle = built(head)
    assert {artifact.format for artifact in bundle.manifest.artifacts} == {"onnx", "tflite", "executorch"}
    for artifact in bundle.manifest.artifacts:
        assert artifact.agreement.n == 288
        assert artifact.agreement.mean > bundle.manifest.min_agreement
