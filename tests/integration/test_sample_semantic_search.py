"""The semantic search sample, run as its README says, finds by meaning and never answers from a stale index."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgellm.runtime import Bundle, Session
from tests.tiny import tiny_bundle

pytestmark = pytest.mark.integration

SAMPLE = Path(__file__).parents[2] / "samples" / "semantic_search"
FORMATS = ("executorch", "tflite", "onnx")
FOUND = {
    "the battery went flat on a cold night": "Lithium pack sagged",
    "rodents eating the wiring": "Rats gnawed",
    "gear wrecked by an electrical storm": "Lightning took out",
}
"""Query to the beginning of its best passage. The model's margin to the next passage is 0.14 or more in each format."""


def search(bundle: Path | str, text: Path, query: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SAMPLE / "search.py"), str(bundle), str(text), query, *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, encoding="utf-8")


def report(bundle: Bundle, text: Path, query: str, *options: str) -> dict[str, Any]:
    done = search(bundle.path, text, query, "--json", *options)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)  # fails on anything beside one object
    assert isinstance(found, dict)
    return found


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    return Path(shutil.copy(SAMPLE / "notes.txt", tmp_path / "notes.txt"))


@pytest.fixture
def short(tmp_path: Path) -> Path:
    path = tmp_path / "short.txt"
    path.write_text("The kettle boils.\n\nA dog sleeps by the door.\n", encoding="utf-8")
    return path


def refused(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """Check the exit code, and that the last thing said is one line for people."""
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    complaint = done.stderr.splitlines()[-1]
    assert all(word in complaint for word in words), complaint


@pytest.mark.parametrize("fmt", FORMATS)
def test_each_format_finds_passages_by_meaning(demo_bundle: Bundle, notes: Path, fmt: str) -> None:
    passages = notes.read_text(encoding="utf-8").splitlines()
    for number, (query, beginning) in enumerate(FOUND.items()):
        found = report(demo_bundle, notes, query, "--format", fmt)
        best = found["results"][0]
        assert best["text"].startswith(beginning), found["results"]
        assert passages[best["line"] - 1] == best["text"]
        shared = set(re.findall(r"\w{4,}", query.lower())) & set(re.findall(r"\w{4,}", best["text"].lower()))
        assert not shared, "a keyword search would have found it"
        scores = [hit["score"] for hit in found["results"]]
        assert scores == sorted(scores, reverse=True)
        assert (len(scores), found["format"], found["index"]["passages"]) == (3, fmt, len(passages))
        assert found["index"]["reused"] is (number > 0)
        assert all(found["query"][key] > 0 for key in ("tokenize_ms", "inference_ms", "search_ms"))
        assert found["machine"]


def test_text_output_states_times_and_whether_the_index_was_reused(demo_bundle: Bundle, notes: Path) -> None:
    query = next(iter(FOUND))
    first = search(demo_bundle.path, notes, query, "--format", "onnx", "--top", "2")
    assert first.returncode == 0, first.stderr
    assert re.match(r"0\.\d{3}  line 1: Lithium", first.stdout)
    assert len(re.findall(r"^0\.\d{3}  line ", first.stdout, re.M)) == 2
    assert re.search(r"^query: tokenize \S+ ms, inference \S+ ms, search \S+ ms$", first.stdout, re.M)
    assert "60 passages, made in" in first.stdout
    assert "there was none" in first.stdout
    assert re.search(r"^measured on .*cores", first.stdout, re.M)
    again = search(demo_bundle.path, notes, query, "--format", "onnx", "--top", "2")
    assert "60 passages, reused" in again.stdout
    assert again.stdout.splitlines()[:2] == first.stdout.splitlines()[:2]


def test_an_index_answers_only_for_what_it_was_made_of(demo_bundle: Bundle, short: Path) -> None:
    def ask(*options: str) -> dict[str, Any]:
        found = report(demo_bundle, short, "a hound dozing", "--index", str(vectors), *options)
        assert found["results"][0]["text"] == "A dog sleeps by the door."
        index: dict[str, Any] = found["index"]
        return index

    vectors = short.with_name("elsewhere.npy")
    assert ask("--format", "onnx")["reason"] == "there was none"
    assert ask("--format", "onnx")["reused"]
    assert ask("--format", "tflite")["reason"] == "another artifact"
    facts = json.loads(short.with_name("elsewhere.npy.json").read_text(encoding="utf-8"))
    artifact = demo_bundle.artifact("tflite")
    assert facts["artifact"] == {"id": artifact.id, "sha256": artifact.sha256}

    short.write_text("It rains.\nA dog sleeps by the door.\nThe kettle boils.\n", encoding="utf-8")
    assert ask("--format", "tflite") | {"ms": 0} == {
        "file": str(vectors), "passages": 3, "reused": False, "reason": "another text", "ms": 0,
    }  # fmt: skip
    data = vectors.read_bytes()
    vectors.write_bytes(data[:-4] + b"\0\0\0\0")
    assert ask("--format", "tflite")["reason"] == "the old one was damaged"
    assert vectors.read_bytes() == data
    assert sorted(path.name for path in short.parent.iterdir()) == ["elsewhere.npy", "elsewhere.npy.json", "short.txt"]


def test_says_what_was_too_long(demo_bundle: Bundle, short: Path) -> None:
    short.write_text("sand and gravel " * 100 + "\nA dog sleeps.\n", encoding="utf-8")
    for _ in range(2):  # a reused index still knows
        found = report(demo_bundle, short, "gravel", "--format", "onnx")
        assert [(hit["line"], hit["truncated"]) for hit in found["results"]] == [(1, True), (2, False)]
        assert found["query"]["truncated"] is False
    done = search(demo_bundle.path, short, "pebbles " * 300, "--format", "onnx")
    assert done.stdout.count("too long") == 2


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"\n \n\r\n", "is empty"),
        (b"fine\n\xff\xfe\n", "is not UTF-8: byte 5"),
        (None, "can't be read: No such file"),
    ],
)
def test_a_bad_text_file_is_refused(demo_bundle: Bundle, tmp_path: Path, content: bytes | None, words: str) -> None:
    text = tmp_path / "text.txt"
    if content is not None:
        text.write_bytes(content)
    refused(search(demo_bundle.path, text, "anything"), 3, str(text), words)


def test_bad_arguments_get_the_exit_code_of_their_kind(demo_bundle: Bundle, short: Path) -> None:
    refused(search(demo_bundle.path, short, " "), 3, "query is empty")
    refused(search(short.parent, short, "a"), 6, "no bundle")
    refused(search(demo_bundle.path, short, "a", "--format", "onxx"), 2, "Did you mean 'onnx'?")
    refused(search(demo_bundle.path, short, "a", "--threads", "0"), 2, "0 threads")
    refused(search(demo_bundle.path, short, "a", "--top", "0"), 2, "--top")
    mine = short.with_name("mine.npy")
    mine.write_bytes(b"somebody's data")
    for index, code, words in (
        (short, 2, "must end in .npy"),
        (mine, 2, "overwrites no other file"),
        (short.parent / "none" / "a.npy", 7, "can't be written"),
    ):
        refused(search(demo_bundle.path, short, "a", "--format", "onnx", "--index", str(index)), code, words)
    assert mine.read_bytes() == b"somebody's data"


@pytest.mark.parametrize(("task", "pooling"), [("text-classification", "mean"), ("feature-extraction", "none")])
def test_a_bundle_without_one_vector_per_text_is_refused(short: Path, task: str, pooling: str) -> None:
    other = tiny_bundle(short.with_name("bundle"), task, pooling=pooling)
    refused(search(other.path, short, "a"), 3, "one vector per text")


def test_vectors_are_normalized_where_the_model_does_not(short: Path) -> None:
    bundle = tiny_bundle(short.with_name("bundle"))
    assert np.linalg.norm(Session.open(bundle)("the red boots").value) != pytest.approx(1, abs=0.01)  # type: ignore[call-overload]
    short.write_text("fish and chips\nthe red boots\nthe river rose\n", encoding="utf-8")
    hits = report(bundle, short, "the red boots")["results"]
    assert hits[0]["line"] == 2
    assert hits[0]["score"] == pytest.approx(1, abs=1e-5)
    assert hits[1]["score"] < 0.99
    vectors = np.load(short.with_name("short.txt.index.npy"), allow_pickle=False)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
