"""The programs of samples/pronunciation, on a few words: a baseline is trained, cut off and gone on with, and raced."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from .conftest import ROOT, edgellm

pytestmark = pytest.mark.integration
SAMPLE = ROOT / "samples" / "pronunciation"


def program(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SAMPLE / f"{name}.py"), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "HF_HUB_OFFLINE": "1"}
    )


def data_program() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pronunciation_data", SAMPLE / "data.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What data.py writes, of a few made-up words that are said as they are spelled."""
    folder = tmp_path_factory.mktemp("words")
    said = {"a": "AH0", "b": "B", "d": "D", "k": "K", "o": "OW1", "t": "T"}
    listed = [a + b + c + d for a in "bdkt" for b in "ao" for c in "bdkt" for d in "ao"]
    pairs = {word: [" ".join(said[letter] for letter in word)] for word in listed}
    (folder / "tokenizer").mkdir()
    for name, text in data_program().tokenizers(pairs).items():
        (folder / "tokenizer" / name).write_text(text, encoding="utf-8")
    for name, part in (("train", listed[::2]), ("dev", listed[1::4]), ("test", listed[3::4])):
        lines = "".join(f"{word}\t{pairs[word][0]}\n" for word in part)
        (folder / f"{name}.tsv").write_text(lines, encoding="utf-8")
    (folder / "golden.txt").write_text("".join(f"{word}\n" for word in listed), encoding="utf-8")
    return folder


def test_both_kinds_are_trained_and_raced(words: Path) -> None:
    shape = ("--width", "32", "--encoder-layers", "1", "--decoder-layers", "1", "--epochs", "400", "--threads", "1")
    first = program("autoregressive", str(words), "--out", str(words / "slow"), *shape, "--seconds", "1")
    assert first.returncode == 0, first.stderr
    assert "the same command goes on" in first.stdout
    done = program("autoregressive", str(words), "--out", str(words / "slow"), *shape)
    assert done.returncode == 0, done.stderr
    assert "is kept" in done.stdout
    again = program("autoregressive", str(words), "--out", str(words / "slow"), *shape)
    assert again.returncode == 2
    assert "holds a model already" in again.stderr
    more = program(
        "autoregressive", str(words), "--out", str(words / "more"), "--start", str(words / "slow"), "--epochs", "1"
    )
    assert more.returncode == 0, more.stderr
    student = edgellm(
        "distill", "--student", "ctc-tiny", "--teacher", str(words / "slow"), "--data", str(words / "train.tsv"), "--dev",
        str(words / "dev.tsv"), "--epochs", "1", "--longest", "8", "--out", str(words / "student"), "--quiet",
    )  # fmt: skip
    assert student.returncode == 0, student.stderr
    built = edgellm(
        "build", str(words / "student"), "--target", "linux-x86_64", "--format", "onnx", "--scheme", "fp32", "--seq-len",
        "8", "--golden", str(words / "golden.txt"), "--min-agreement", "0", "--min-exact", "0", "--out",
        str(words / "bundle"),
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    raced = program(
        "race",
        str(words / "bundle"),
        "--against",
        str(words / "slow"),
        "--words",
        str(words / "test.tsv"),
        "--limit",
        "4",
    )
    assert raced.returncode == 0, raced.stderr
    for name in ("bundle onnx-fp32", "slow fp32, token by token", "slow int8, token by token"):
        assert re.search(rf"^{name} +(\d+\.\d+ +){{7}}\d+\.\d+$", raced.stdout, re.MULTILINE), raced.stdout
        # All of these words have four letters.
        assert re.search(rf"^{name} +\d+\.\d+ +- +- +-$", raced.stdout, re.MULTILINE), raced.stdout
    assert "4 words" in raced.stdout

    fault = "import race, token_by_token; Said = token_by_token.TokenByToken; whole = Said.__call__; "
    fault += "Said.__call__ = lambda self, ids: [*whole(self, ids), 5]; race.main()"
    lying = subprocess.run(
        [sys.executable, "-c", fault, "--against", str(words / "slow"), "--words", str(words / "test.tsv")],
        capture_output=True, text=True, check=False, env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(SAMPLE)},
    )  # fmt: skip
    assert lying.returncode != 0
    assert "token by token says" in lying.stderr


def test_a_folder_without_words_is_one_clear_error(tmp_path: Path) -> None:
    done = program("race", str(tmp_path), "--words", str(tmp_path / "none.tsv"))
    assert done.returncode == 3, done.stderr
    assert "data.py writes it" in done.stderr
    assert "Traceback" not in done.stderr
