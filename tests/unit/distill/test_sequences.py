"""One-pass students: what they learn from, what is kept apart, and that a training goes on."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from edgellm.core.distill import Distilled
from edgellm.core.training import Training
from edgellm.distill.sequences import distill_sequences
from edgellm.errors import InputError, UsageError
from edgellm.models.ctc import CtcForSeq2Seq
from tests.sequences import WORDS, tiny_ctc, tiny_teacher, write_pairs, write_tokenizers

TRAIN, DEV, TEST = list(WORDS)[:32], list(WORDS)[32:40], list(WORDS)[40:]
SHORT = Training(epochs=2, batch=8, rate=1e-3, threads=1)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    parts = {"data": TRAIN, "dev": DEV, "test": TEST}
    return {name: write_pairs(tmp_path / f"{name}.tsv", words) for name, words in parts.items()}


def distil(tmp_path: Path, files: dict[str, Path], **more: object) -> Distilled | None:
    given = {"teacher": None, "student": "ctc-tiny", "longest": 24, "training": SHORT, "quiet": True, **files, **more}
    if given["teacher"] is None:
        given.setdefault("tokenizer", write_tokenizers(tmp_path / "tokenizer"))
    given.setdefault("out", tmp_path / "student")
    return distill_sequences(**given)  # type: ignore[arg-type]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(CtcForSeq2Seq.from_pretrained(folder).state_dict())


def test_a_student_of_pairs_is_written_with_what_reads_and_writes(tmp_path: Path, files: dict[str, Path]) -> None:
    found = distil(tmp_path, files)
    assert found is not None
    assert (found.gold, found.labelled, found.teacher, found.trained.status) == (32, 0, None, "finished")
    assert found.dev is not None
    assert found.test is not None
    assert (found.dev.texts, found.test.texts) == (8, 8)
    out = tmp_path / "student"
    assert {"config.json", "model.safetensors", "tokenizer.json", "target_tokenizer.json", "training.json"} <= {
        path.name for path in out.iterdir()
    }
    assert json.loads((out / "training.json").read_text())["gold"] == 32
    assert not (tmp_path / "student.training").exists()


def test_a_teacher_labels_what_is_not_held_back(tmp_path: Path, files: dict[str, Path]) -> None:
    texts = tmp_path / "texts.txt"
    held = [f"  {DEV[0]} ", TEST[0].upper(), f"{TEST[1]}\r"]
    texts.write_text("\n".join(["ballad", "salad", *held, "b" * 60]) + "\n")
    teacher = tiny_teacher(tmp_path / "teacher")
    (teacher / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n")
    found = distil(tmp_path, files, teacher=teacher, unlabelled=texts, beams=2)
    assert found is not None
    told = "".join(path.read_text() for path in (tmp_path / "labels").glob("*.tsv"))
    asked = {line.split("\t")[0] for line in told.splitlines()}
    assert asked <= {*TRAIN, "ballad", "salad"}
    assert found.labelled == len(told.splitlines())
    assert "license: cc-by-4.0" in (tmp_path / "student" / "README.md").read_text()


def test_a_part_of_the_labels_trains_nothing(tmp_path: Path, files: dict[str, Path]) -> None:
    assert distil(tmp_path, files, teacher=tiny_teacher(tmp_path / "teacher"), part=(1, 2), beams=1) is None
    assert not (tmp_path / "student").exists()
    assert list((tmp_path / "labels").glob("*.tsv"))


def test_a_training_that_was_stopped_ends_as_one_that_was_not(tmp_path: Path, files: dict[str, Path]) -> None:
    whole = distil(tmp_path, files, out=tmp_path / "whole")
    paused = distil(tmp_path, files, training=dataclasses.replace(SHORT, seconds=1.0), out=tmp_path / "paused")
    assert whole is not None
    assert paused is not None
    for _ in range(20):
        if paused.trained.status == "finished":
            break
        assert not (tmp_path / "paused").exists()
        assert paused.dev is None
        paused = distil(tmp_path, files, training=dataclasses.replace(SHORT, seconds=1.0), out=tmp_path / "paused")
        assert paused is not None
    assert paused.trained.best_step == whole.trained.best_step
    for name, tensor in weights(tmp_path / "whole").items():
        torch.testing.assert_close(tensor, weights(tmp_path / "paused")[name], rtol=1e-5, atol=1e-6)


def test_a_student_goes_on_from_a_folder_and_another_start_is_another_training(
    tmp_path: Path, files: dict[str, Path]
) -> None:
    first = tiny_ctc(tmp_path / "first")
    found = distil(tmp_path, files, student=str(first), tokenizer=first)
    assert found is not None
    assert found.parameters == (sum(t.numel() for t in weights(first).values()), None)
    paused = tmp_path / "other"
    stopped = dataclasses.replace(SHORT, epochs=400, seconds=1.0)
    distil(tmp_path, files, student=str(first), tokenizer=first, training=stopped, out=paused)
    tiny_ctc(first, seed=1)
    with pytest.raises(UsageError, match="other options or data"):
        distil(tmp_path, files, student=str(first), tokenizer=first, training=stopped, out=paused)


@pytest.mark.parametrize(
    ("more", "error", "said"),
    [
        ({"gold": False}, UsageError, "Labels need a --teacher"),
        ({"part": (1, 2)}, UsageError, "Labels need a --teacher"),
        ({"tokenizer": None}, UsageError, "Without a teacher there is no tokenizer"),
        ({"student": "ctc-smal"}, UsageError, "Did you mean 'ctc-small'"),
        ({"longest": 2}, InputError, "No pair is left to learn from"),
    ],
)
def test_what_can_not_be_done_is_said(
    tmp_path: Path, files: dict[str, Path], more: dict[str, object], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        distil(tmp_path, files, **more)
    assert not (tmp_path / "student").exists()


def test_a_word_in_two_parts_is_refused_however_it_is_written(tmp_path: Path, files: dict[str, Path]) -> None:
    files["test"].write_text(f"{TRAIN[3].upper()}\tB\n")
    with pytest.raises(InputError, match="what is measured on must not be"):
        distil(tmp_path, files)


def test_a_folder_that_is_no_student_is_left_alone(tmp_path: Path, files: dict[str, Path]) -> None:
    for name in ("student", "student.training"):
        other = tmp_path / name
        other.mkdir()
        (other / "thesis.txt").write_text("mine")
        with pytest.raises(UsageError, match="left alone"):
            distil(tmp_path, files)
        assert (other / "thesis.txt").read_text() == "mine"
        (other / "thesis.txt").unlink()
        other.rmdir()
