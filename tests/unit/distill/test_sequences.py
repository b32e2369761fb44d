"""One-pass students: what they learn from, what is kept apart, and that a training goes on."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from edgellm.core.distill import Distilled
from edgellm.core.training import Training
from edgellm.distill import sequences
from edgellm.distill.sequences import distill_sequences
from edgellm.distill.students import STUDENTS
from edgellm.errors import InputError, UsageError
from edgellm.models.ctc import CtcConfig
from edgellm.training.fit import LOGS, _decisive
from tests.sequences import WORDS, tiny_ctc, tiny_mask_predict, tiny_teacher, write_pairs, write_tokenizers

TRAIN, DEV, TEST = list(WORDS)[:32], list(WORDS)[32:40], list(WORDS)[40:]
SHORT = Training(epochs=2, batch=8, rate=1e-3, threads=1)


class Told(Exception):
    """Ends a distillation where the training would begin."""


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    parts = {"data": TRAIN, "dev": DEV, "test": TEST}
    return {name: write_pairs(tmp_path / f"{name}.tsv", words) for name, words in parts.items()}


def distil(tmp_path: Path, files: dict[str, Path], **more: object) -> Distilled | None:
    given = {"teacher": None, "student": "ctc-tiny", "training": SHORT, "quiet": True, **files, **more}
    if given["student"] in STUDENTS:
        given.setdefault("longest", 24)
    if given["teacher"] is None:
        given.setdefault("tokenizer", write_tokenizers(tmp_path / "tokenizer"))
    given.setdefault("out", tmp_path / "student")
    return distill_sequences(**given)  # type: ignore[arg-type]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("student", ["ctc-tiny", "mask-tiny"])
def test_a_student_of_pairs_is_written_with_what_reads_and_writes(
    tmp_path: Path, files: dict[str, Path], student: str
) -> None:
    found = distil(tmp_path, files, student=student)
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
    assert asked == {*TRAIN, "ballad", "salad"}
    assert found.labelled == len(told.splitlines())
    assert "license: cc-by-4.0" in (tmp_path / "student" / "README.md").read_text()


def test_a_part_of_the_labels_trains_nothing(tmp_path: Path, files: dict[str, Path]) -> None:
    assert distil(tmp_path, files, teacher=tiny_teacher(tmp_path / "teacher"), part=(1, 2), beams=1) is None
    assert not (tmp_path / "student").exists()
    assert list((tmp_path / "labels").glob("*.tsv"))


@pytest.mark.parametrize("student", ["ctc-tiny", "mask-tiny"])
def test_a_training_that_was_stopped_ends_as_one_that_was_not(
    tmp_path: Path, files: dict[str, Path], student: str
) -> None:
    long = dataclasses.replace(SHORT, epochs=30, batch=2)
    stopped = dataclasses.replace(long, seconds=1.0)
    whole = distil(tmp_path, files, student=student, training=long, out=tmp_path / "whole")
    paused = distil(tmp_path, files, student=student, training=stopped, out=tmp_path / "paused")
    assert whole is not None
    assert paused is not None
    assert paused.trained.status == "paused"
    assert paused.dev is None
    assert not (tmp_path / "paused").exists()
    distil(tmp_path, files, student=student, training=stopped, out=tmp_path / "paused")
    paused = distil(tmp_path, files, student=student, training=long, out=tmp_path / "paused")
    assert paused is not None
    assert paused.trained.status == "finished"
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
        ({"gold": False}, UsageError, "--no-gold needs a --teacher"),
        ({"part": (1, 2)}, UsageError, "--part needs a --teacher"),
        ({"tokenizer": None}, UsageError, "Without a teacher there is no tokenizer"),
        ({"student": "ctc-smal"}, UsageError, "Did you mean 'ctc-small'"),
        ({"longest": 2}, InputError, "No pair is left to learn from"),
        ({"student": "mask-smal"}, UsageError, "Did you mean 'mask-small'"),
        ({"beams": 2, "labels": Path("l")}, UsageError, "--labels and --beams need a --teacher"),
        ({"refinements": 1}, UsageError, "--refinements has no use for a CTC student"),
        ({"student": "mask-tiny", "refinements": -1}, UsageError, "--refinements is -1; it goes from 0"),
        ({"slots": 0}, UsageError, "--slots is 0; it goes from 1"),
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


def test_trainings_of_ctc_students_go_on_under_the_identity_that_they_began_with(
    tmp_path: Path, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: dict[str, object] = {}

    def fit(model: torch.nn.Module, *args: object, identity: dict[str, object], **kwargs: object) -> None:
        told.update(identity)
        raise Told

    monkeypatch.setattr(sequences, "fit", fit)
    with pytest.raises(Told):
        distil(tmp_path, files)
    assert sorted(told) == ["begins as", "config", "dev", "student", "train"]
    assert (told["student"], told["begins as"]) == ("ctc-tiny", "")
    config = CtcConfig(
        vocab_size=67, pad_token_id=0, slots_per_token=2, max_position_embeddings=24, hidden_size=64, intermediate_size=256,
        num_attention_heads=2, num_hidden_layers=2, num_slot_layers=2, conditioned_layers=[1],
    )  # fmt: skip
    assert told["config"] == config.to_diff_dict()
    assert _decisive(Training()) == {
        "epochs": 10, "batch": 64, "rate": 5e-4, "schedule": "cosine", "warmup": 0.05, "weight_decay": 0.01,
        "patience": None, "seed": 0,
    }  # fmt: skip


def test_refinements_belong_to_the_model_and_change_what_it_says(tmp_path: Path, files: dict[str, Path]) -> None:
    first = tiny_mask_predict(tmp_path / "first")
    found = distil(tmp_path, files, student=str(first), tokenizer=first, refinements=2)
    assert found is not None
    assert json.loads((tmp_path / "student" / "config.json").read_text())["refinements"] == 2


def test_a_student_that_is_a_folder_keeps_its_shape(tmp_path: Path, files: dict[str, Path]) -> None:
    first = tiny_ctc(tmp_path / "first")
    for name in ("slots", "longest"):
        with pytest.raises(UsageError, match=f"--{name} has no use for .*first"):
            distil(tmp_path, files, student=str(first), tokenizer=first, **{name: 3})


def test_a_mask_is_a_token_that_no_text_names(tmp_path: Path, files: dict[str, Path]) -> None:
    distil(tmp_path, files, student="mask-tiny")
    config = json.loads((tmp_path / "student" / "config.json").read_text())
    ids = json.loads((tmp_path / "student" / "tokenizer.json").read_text())["model"]["vocab"].values()
    assert config["mask_token_id"] not in ids
    assert config["vocab_size"] == config["mask_token_id"] + 1


def test_curves_of_a_training_that_diverged_are_in_nobodys_way(tmp_path: Path, files: dict[str, Path]) -> None:
    logs = tmp_path / "student.training" / LOGS  # all that `fit` leaves then
    logs.mkdir(parents=True)
    (logs / "events").write_text("a curve")
    assert distil(tmp_path, files) is not None
    assert (tmp_path / "student" / "config.json").is_file()


def test_texts_without_an_answer_are_counted(
    tmp_path: Path, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgellm.distill.teachers import Autoregressive

    unlabelled = tmp_path / "more.txt"
    unlabelled.write_text("zebra\n" + "z" * 60 + "\nbanana\n")
    monkeypatch.setattr(
        Autoregressive, "answer",
        lambda self, texts, **options: ["" if text == "zebra" else "EH1 G" for text in texts],
    )  # fmt: skip
    found = distil(tmp_path, files, teacher=tiny_teacher(tmp_path / "teacher"), beams=1, unlabelled=unlabelled)
    assert found is not None
    assert found.left_out.endswith(
        "Without an answer of the teacher: 1 too long for it or the student, 1 to which it said nothing, or came to no end."
    )
