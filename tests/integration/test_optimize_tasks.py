"""The whole road for what is no text classifier: each kind of model is made smaller in its own way, and still answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgellm.runtime import Session
from tests.sequences import WORDS, tiny_ctc, tiny_teacher, write_pairs

from .conftest import ROOT, edgellm

pytestmark = pytest.mark.integration
Model = Callable[[str], Path]

RECIPE = """\
model = "{model}"
target = "linux-x86_64"
format = "onnx"
seq_len = [16]
min_agreement = 0.0
{more}
[data]
train = "train{suffix}"
dev = "dev{suffix}"

[goal]
max_drop = 100
max_mb = {max_mb}
"""
TUNE = """
[tune]
epochs = 1
"""
EXACT = "min_exact = 0.0"
SHRINK = """
[[shrink]]
{what}
epochs = 1
"""


def optimized(
    home: Path, model: Path, suffix: str, moves: str, *, more: str = "", max_mb: float = 0.001, code: int = 5
) -> dict[str, Any]:
    """Run a recipe whose goal can't be met, and return what `--json` prints."""
    recipe = home / "recipe.toml"
    recipe.write_text(RECIPE.format(model=model, suffix=suffix, more=more, max_mb=max_mb) + moves, encoding="utf-8")
    done = edgellm("optimize", str(recipe), "--json")
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def sentences() -> list[str]:
    """Return texts that no build of edgellm's own chooses or gates by."""
    files = (ROOT / "tests" / "figures" / f"{name}.txt" for name in ("held_out", "english"))
    return [text for file in files for text in file.read_text(encoding="utf-8").splitlines()]


def kinds(found: dict[str, Any]) -> list[str]:
    return [step["move"]["kind"] for step in found["steps"]]


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """A folder with words and how they are said, in two parts."""
    words = sorted(WORDS)
    write_pairs(tmp_path / "train.tsv", words[:36])
    write_pairs(tmp_path / "dev.tsv", words[36:])
    return tmp_path


def test_a_one_pass_sequence_model_learns_from_one_that_answers_token_by_token(pairs: Path) -> None:
    tiny_teacher(pairs / "teacher")
    more = f'teacher = "teacher"\n{EXACT}'
    moves = SHRINK.format(what='sparsity = 0.3\nstructure = "ffn"')
    found = optimized(pairs, tiny_ctc(pairs / "ctc"), ".tsv", moves, more=more)
    assert kinds(found) == ["baseline", "prune"]
    assert not found["steps"][1]["refused"]
    assert found["steps"][1]["parameters"] < found["steps"][0]["parameters"]
    assert list((pairs / "optimized" / "labels").iterdir())  # what the teacher said is kept for the next training
    answer: Any = Session.open(pairs / "optimized" / "bundle")("banana").value
    assert set(answer) == {"text", "score"}


@pytest.mark.full
def test_a_one_pass_sequence_model_is_its_own_teacher_where_none_is_named(pairs: Path) -> None:
    moves = SHRINK.format(what='sparsity = 0.3\nstructure = "ffn"')
    found = optimized(pairs, tiny_ctc(pairs / "ctc"), ".tsv", TUNE + moves, more=EXACT)
    assert kinds(found) == ["baseline", "tune", "prune"]
    assert found["steps"][1]["model"] != found["steps"][0]["model"]
    assert found["steps"][2]["move"]["begins"] == 1
    assert found["steps"][2]["parameters"] < found["steps"][1]["parameters"]


@pytest.mark.full
def test_a_tagger_is_tuned_and_then_shortened(model: Model, tmp_path: Path) -> None:
    lines = [text.split()[:12] for text in sentences()]
    rows = [{"tokens": line, "tags": [("calm", "glad", "sad")[len(word) % 3] for word in line]} for line in lines]
    for name, part in (("train", rows[:40]), ("dev", rows[40:60])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part), encoding="utf-8")
    found = optimized(tmp_path, model("tagger"), ".jsonl", TUNE + SHRINK.format(what="layers = 1"))
    assert kinds(found) == ["baseline", "tune", "layers"]
    assert "F1" in found["metric"]
    answer: Any = Session.open(tmp_path / "optimized" / "bundle")("The boots are red.").value
    assert {item["entity"] for item in answer} <= {"calm", "glad", "sad"}


@pytest.mark.full
def test_a_sentence_encoder_needs_no_labels(model: Model, tmp_path: Path) -> None:
    texts = sentences()
    for name, part in (("train", texts[:40]), ("dev", texts[40:60])):
        (tmp_path / f"{name}.txt").write_text("".join(f"{text}\n" for text in part), encoding="utf-8")
    found = optimized(tmp_path, model("encoder"), ".txt", SHRINK.format(what="layers = 1"))
    assert kinds(found) == ["baseline", "layers"]
    assert found["steps"][1]["measured"][0]["score"] is None  # nothing but agreement is measured
    assert found["steps"][1]["measured"][0]["drop"]["points"] > 0


def test_minutes_that_are_used_up_end_it_and_more_of_them_go_on(pairs: Path) -> None:
    model, moves = tiny_ctc(pairs / "ctc"), SHRINK.format(what='sparsity = 0.3\nstructure = "ffn"')
    short = optimized(pairs, model, ".tsv", moves + "\n[budget]\nminutes = 0.001\n", more=EXACT)
    assert (short["ended"], kinds(short)) == ("budget", ["baseline"])
    long = optimized(pairs, model, ".tsv", moves + "\n[budget]\nminutes = 60\n", more=EXACT)
    assert (long["ended"], kinds(long)) == ("tried", ["baseline", "prune"])
    kept, again = (found["steps"][0]["measured"] for found in (short, long))
    assert kept == again
