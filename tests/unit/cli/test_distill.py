"""`edgellm distill`: what it refuses before it starts, and what it prints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgellm.cli.distill import shown, shown_encoder
from edgellm.cli.main import cli
from edgellm.core.distill import Distilled, DistilledEncoder, Score, Signals, StudentScore
from edgellm.core.training import Trained
from edgellm.errors import DeviceError, EdgellmError, UsageError
from tests.sequences import WORDS, tiny_teacher, write_pairs, write_tokenizers

TRAINED = Trained("finished", 10, 10, 8, "token_errors", 0.5, 3.0, 4.0, ())
PAUSED = Trained("paused", 3, 10, 0, "token_errors", None, 3.0, 4.0, ())


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--student", "3", "--data", "x"], "Without --teacher there is nothing to distil"),
        (
            ["--student", "3", "--teacher", "t", "--data", "x", "--beams", "2"],
            "--beams has no use for a student that class",
        ),
        (
            ["--student", "ctc-tiny", "--data", "x", "--hard", "1"],
            "--hard has no use for a student that makes sequences",
        ),
        (["--student", "ctc-tiny", "--data", "x"], "A sequence needs --dev"),
        (["--student", "mask-smal", "--data", "x"], "Did you mean 'mask-small'"),
        (["--student", "nonsense", "--teacher", "t", "--data", "x"], "no number of layers, and no folder"),
        (["--student", "ctc-tiny", "--data", "x", "--dev", "y", "--part", "half"], "--part half is no part"),
        (["--student", "ctc-tiny", "--data", "x", "--dev", "y", "--schedule", "cosin"], "Did you mean 'cosine'"),
        (["--student", "ctc-tiny", "--data", "x", "--dev", "y", "--rate", "nan"], "--rate is nan"),
        (
            ["--student", "ctc-tiny", "--data", "x", "--schedule", "plateau", "--warmup", "0.05"],
            "--warmup has no use with --schedule plateau",
        ),
        (
            ["--student", "3", "--teacher", "t", "--data", "x", "--soft", "1"],
            "--soft has no use for a student that class",
        ),
        (
            ["--student", "3", "--teacher", "t", "--data", "x", "--risk", "1"],
            "--risk has no use for a student that class",
        ),
        (
            ["--student", "mask-tiny", "--data", "x", "--match", "mse"],
            "--match has no use for a student that makes seq",
        ),
        (["--student", "3", "--teacher", "t", "--data", "x", "--attend", "map"], "Did you mean 'maps'"),
        (["--student", "3", "--teacher", "t", "--data", "x", "--smoothing", "1"], "--smoothing is 1; it goes from 0"),
    ],
)
def test_a_wrong_option_is_refused(args: list[str], said: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["distill", *args, "--out", str(tmp_path / "out")], standalone_mode=False)
    assert isinstance(done.exception, EdgellmError)
    assert said in str(done.exception)
    assert not (tmp_path / "out").exists()


def test_a_teacher_of_sequences_has_students_of_sequences(tmp_path: Path) -> None:
    teacher = tiny_teacher(tmp_path / "teacher")
    args = ["distill", "--student", "1", "--teacher", str(teacher), "--data", "x", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(cli, args, standalone_mode=False)
    assert isinstance(done.exception, UsageError)
    assert "--student ctc-tiny" in str(done.exception)


def test_a_place_that_the_system_refuses_is_an_error(tmp_path: Path) -> None:
    words = list(WORDS)
    args = [
        "distill", "--student", "ctc-tiny", "--data", str(write_pairs(tmp_path / "a.tsv", words[:30])), "--dev",
        str(write_pairs(tmp_path / "b.tsv", words[30:])), "--tokenizer", str(write_tokenizers(tmp_path / "t")), "--epochs",
        "1", "--threads", "1", "--longest", "24", "--out", "/proc/student",
    ]  # fmt: skip
    done = CliRunner().invoke(cli, args, standalone_mode=False)
    assert isinstance(done.exception, DeviceError)
    assert "/proc/student.training" in str(done.exception)


def test_json_of_a_paused_training_is_json(tmp_path: Path) -> None:
    words = list(WORDS)
    args = [
        "distill", "--student", "ctc-tiny", "--data", str(write_pairs(tmp_path / "a.tsv", words[:30])), "--dev",
        str(write_pairs(tmp_path / "b.tsv", words[30:])), "--tokenizer", str(write_tokenizers(tmp_path / "t")), "--seconds",
        "1", "--epochs", "5000", "--batch", "1", "--threads", "1", "--longest", "24", "--out", str(tmp_path / "out"), "--json",
    ]  # fmt: skip
    done = CliRunner().invoke(cli, args, standalone_mode=False)
    assert done.exception is None
    found = json.loads(done.stdout)
    assert (found["trained"]["status"], found["dev"]) == ("paused", None)


def test_a_sequence_student_is_shown() -> None:
    found = Distilled(
        "ctc-tiny", "big", (1000, 20000), 10, 20, "Left out: 1 longer.", Score(5, 20.0, 3.25), None, TRAINED, 1.0
    )
    assert shown(found, Path("out")).splitlines() == [
        "ctc-tiny (1,000 parameters) learned from 10 pairs and 20 answers of big (20,000 parameters) -> out",
        "dev   20.00 % wrong, 3.25 % of tokens (5 texts), which chose step 8 of 10",
        "3 s in this run, 4 s of CPU time.",
        "Left out: 1 longer.",
    ]
    paused = Distilled("ctc-tiny", None, (1000, None), 10, 0, "", None, None, PAUSED, 0.0)
    assert shown(paused, Path("out")) == "Stopped at step 3 of 10; the same command goes on from there."


def test_a_metric_that_is_undefined_is_no_number() -> None:
    score = StudentScore("dev", 4, "cosine similarity", 0.5, "pearson", 0.9, None, 0.25)
    found = DistilledEncoder(
        TRAINED, "feature-extraction", "big", "2 layers", (0, 5), (20000, 1000), 9, 128, Signals(), (score,), "out"
    )
    said = shown_encoder(found)
    assert (
        "dev   cosine similarity with the teacher 0.5000 on 4 texts; pearson 0.2500, before n/a, the teacher 0.9000"
        in said
    )
