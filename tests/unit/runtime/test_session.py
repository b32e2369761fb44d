"""Sessions over a real ONNX model: answers, what they say about themselves, and what they refuse."""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgellm.errors import BundleError, EdgellmError, InputError, MissingDependencyError, UsageError
from edgellm.runtime import Bundle, Result, Session
from tests.tiny import LABELS, TEXTS, TinyModel, edit_manifest, reseal, tiny_bundle, tiny_tokenizer


@pytest.fixture(scope="module")
def session(embedder: Bundle) -> Session:
    return Session.open(embedder.path)


def test_the_answer_is_the_golden_one(embedder: Bundle, session: Session) -> None:
    for case in embedder.golden():
        result = session(str(case.input))
        assert isinstance(result.value, np.ndarray)
        assert (result.value.dtype, result.value.shape) == (np.float32, (8,))
        np.testing.assert_allclose(result.value, np.float32(case.value), rtol=1e-5, atol=1e-6)
        assert result.format == session.format == "onnx"
        assert result.timing.inference_ms > 0
        assert result.timing.tokenize_ms > 0


def test_a_classifier_answers_with_labels_best_first(classifier: Bundle) -> None:
    session = Session.open(classifier, format="onnx")
    for case in classifier.golden():
        value: Any = session(str(case.input)).value
        assert [row["label"] for row in value] == [row["label"] for row in case.value]  # type: ignore[attr-defined]
        assert {row["label"] for row in value} == set(LABELS)
        assert sum(row["score"] for row in value) == pytest.approx(1)


@pytest.mark.parametrize("kind", [list, tuple])
def test_a_list_in_gives_a_list_out(session: Session, kind: type) -> None:
    results = session(kind(["red boots", "the river"]))
    assert isinstance(results, list)
    for text, result in zip(["red boots", "the river"], results, strict=True):
        np.testing.assert_array_equal(result.value, session(text).value)
    assert session(kind([])) == []


def test_a_text_in_gives_one_result_out(session: Session) -> None:
    assert isinstance(session("red boots"), Result)


@pytest.mark.parametrize("bad", [None, 3, b"bytes", {"text": "x"}, np.array(["x"]), ["x", None], [["x"]]])
def test_what_is_no_text_is_an_input_error(session: Session, bad: Any) -> None:
    with pytest.raises(InputError, match="takes a text, not"):
        session(bad)


@pytest.mark.parametrize("bad", ["\ud800", "a \udfff b", ["fine", "\udc80"]])
def test_half_a_surrogate_pair_is_an_input_error(session: Session, bad: Any) -> None:
    with pytest.raises(InputError, match="half of a surrogate pair"):
        session(bad)
    session("still answers")


@pytest.mark.parametrize(
    "text", ["", " ", "\0", "\n\t", "🐟" * 50, "boots " * 10_000, "x" * 100_000, "日本語 العربية हिन्दी", "\u202eabc"]
)
def test_text_of_any_kind_is_answered(session: Session, text: str) -> None:
    value = session(text).value
    assert isinstance(value, np.ndarray)
    assert np.isfinite(value).all()


def test_truncated_says_whether_text_was_cut(session: Session) -> None:
    room = session.bundle.manifest.max_tokens - 2
    assert not session(" ".join(["boots"] * room)).truncated
    cut = session(" ".join(["boots"] * (room + 1)))
    assert cut.truncated
    np.testing.assert_array_equal(cut.value, session(" ".join(["boots"] * (room + 9))).value)


def test_padding_to_the_shortest_length_changes_nothing(tmp_path: Path, session: Session) -> None:
    padded = Session.open(tiny_bundle(tmp_path / "bundle", min_tokens=20))
    for text in TEXTS:
        np.testing.assert_allclose(padded(text).value, session(text).value, rtol=1e-5, atol=1e-6)


def test_without_pooling_there_is_one_vector_per_token_and_none_for_padding(tmp_path: Path) -> None:
    session = Session.open(tiny_bundle(tmp_path / "bundle", pooling="none", min_tokens=20))
    value = session("red boots").value
    assert isinstance(value, np.ndarray)
    table = TinyModel.random(tiny_tokenizer().get_vocab_size(), 8, 0, False).table
    np.testing.assert_array_equal(value, table[tiny_tokenizer().encode("red boots").ids])


@pytest.mark.parametrize("ids", [[[1, 2, 10_000]], [[-1, 2, 3]], [[1] * 33]])
def test_infer_checks_feeds_before_the_engine_sees_them(session: Session, ids: list[list[int]]) -> None:
    array = np.array(ids, dtype=np.int64)
    with pytest.raises(InputError):
        session.infer({"input_ids": array, "attention_mask": np.ones_like(array)})


def test_the_tokenizer_can_not_feed_ids_beyond_the_table(tmp_path: Path) -> None:
    bundle = tiny_bundle(
        tmp_path / "bundle", change=lambda m: m["artifacts"][0]["signature"]["inputs"][0].update(bound=6)
    )
    with pytest.raises(InputError, match="0 to 5 is valid"):
        Session.open(bundle)("red boots")


def test_without_a_format_the_first_of_the_target_s_order_that_is_installed_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tiny_bundle(tmp_path / "bundle", others=("tflite", "executorch"))
    _hide(monkeypatch, "ai_edge_litert", "tflite_runtime", "executorch")
    session = Session.open(bundle)
    assert (session.format, session.artifact.id) == ("onnx", "onnx-fp32")
    assert session("red boots").format == "onnx"


@pytest.mark.parametrize(
    ("fmt", "modules", "command"),
    [
        ("onnx", ("onnxruntime",), "pip install 'edgellm[onnx]'"),
        ("tflite", ("ai_edge_litert", "tflite_runtime"), "pip install 'edgellm[tflite]'"),
        ("executorch", ("executorch",), "pip install 'edgellm[executorch]'"),
    ],
)
def test_a_missing_engine_is_named_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fmt: str, modules: tuple[str, ...], command: str
) -> None:
    bundle = tiny_bundle(tmp_path / "bundle", others=("tflite", "executorch"))
    _hide(monkeypatch, *modules)
    with pytest.raises(MissingDependencyError, match=f"Running {fmt} needs") as caught:
        Session.open(bundle, format=fmt)
    assert command in str(caught.value)


def test_without_any_engine_the_first_format_s_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = tiny_bundle(tmp_path / "bundle", others=("tflite",))
    _hide(monkeypatch, "onnxruntime", "ai_edge_litert", "tflite_runtime")
    with pytest.raises(MissingDependencyError, match=r"None of the bundle's formats \(tflite, onnx\)") as caught:
        Session.open(bundle)
    assert "pip install 'edgellm[tflite]'" in str(caught.value)


def test_a_format_that_the_bundle_lacks_is_a_usage_error(embedder: Bundle) -> None:
    with pytest.raises(UsageError, match=r"No format 'tflite'\..* Choices: onnx\."):
        Session.open(embedder, format="tflite")


@pytest.mark.parametrize("threads", [0, -1])
def test_no_threads_is_a_usage_error(embedder: Bundle, threads: int) -> None:
    with pytest.raises(UsageError, match=f"{threads} threads can't compute"):
        Session.open(embedder, threads=threads)


def _garbage(data: bytes) -> bytes:
    return random.Random(1).randbytes(len(data))


@pytest.mark.parametrize(
    "damage",
    [_garbage, lambda data: data[: len(data) // 2], lambda data: b"", lambda data: data.replace(b"Gather", b"Gethar")],
    ids=["garbage", "half", "empty", "unknown operator"],
)
def test_an_artifact_that_the_engine_can_not_load_is_a_bundle_error(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    path = tiny_bundle(tmp_path / "bundle").path
    model = path / "model-fp32.onnx"
    model.write_bytes(damage(model.read_bytes()))
    reseal(path)
    with pytest.raises(BundleError, match=r"can't load model-fp32\.onnx"):
        Session.open(path)


def test_an_onnx_file_newer_than_the_engine_says_what_to_do(tmp_path: Path) -> None:
    path = tiny_bundle(tmp_path / "bundle").path
    model = TinyModel.random(tiny_tokenizer().get_vocab_size(), 8, 0, True).onnx("embedding", ir_version=9)
    assert model[:2] == b"\x08\x09"
    (path / "model-fp32.onnx").write_bytes(b"\x08\x7f" + model[2:])  # IR version 127
    reseal(path)
    with pytest.raises(BundleError, match=r"onnxruntime [\d.]+ can't load (?s:.*) If it is too old for the IR version"):
        Session.open(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.update(task="summarization"),
        lambda m: m.update(max_tokens=2**70),
        lambda m: m.update(max_tokens=0),
        lambda m: m["artifacts"][0].update(format="coreml"),
        lambda m: m["artifacts"][0].update(session_options={"": ""}),
        lambda m: m["artifacts"][0]["signature"]["outputs"][0].update(name="other"),
        lambda m: m["artifacts"][0]["signature"]["inputs"][0].update(name="other"),
        lambda m: m["artifacts"][0]["signature"]["inputs"][0].update(dtype="float99"),
        lambda m: m["artifacts"][0]["signature"].update(buckets=[4]),
        lambda m: m["artifacts"][0]["signature"].update(inputs=[]),
    ],
    ids=["task", "huge length", "no length", "format", "option", "output", "input", "dtype", "bucket", "no inputs"],
)
def test_a_manifest_that_does_not_fit_its_files_is_one_of_our_errors(tmp_path: Path, change: Any) -> None:
    path = tiny_bundle(tmp_path / "bundle").path
    edit_manifest(path, change)
    with pytest.raises(EdgellmError):
        Session.open(path)("where did you put the red boots")


def _hide(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    """Make packages look as if they were not installed."""
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name in modules else real(name, *a))
