"""Labels: shards are made once, by whom they are asked of, and belong to one teacher."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edgellm.distill import labels
from edgellm.distill.labels import label, read_labels
from edgellm.distill.teachers import Autoregressive, Teacher, open_teacher
from edgellm.errors import InputError, UsageError
from tests.sequences import WORDS, tiny_ctc, tiny_mask_predict, tiny_teacher


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Teacher:
    return open_teacher(tiny_teacher(tmp_path_factory.mktemp("teacher")))


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels, "SHARD", 4)


def test_batches_answer_as_single_texts_do(teacher: Teacher) -> None:
    texts = list(WORDS)[:6]
    together = teacher.answer(texts, beams=1, slots=1)
    assert all(together)
    assert together == [teacher.answer([text], beams=1, slots=1)[0] for text in texts]


def test_a_text_without_tokens_has_no_answer(teacher: Teacher) -> None:
    assert teacher.answer(["", " "], beams=1, slots=1) == ["", ""]
    assert [bool(answer) for answer in teacher.answer(["egg", ""], beams=1, slots=1)] == [True, False]


@pytest.mark.parametrize("beams", [1, 2])
def test_an_answer_that_was_cut_off_is_none(tmp_path: Path, beams: int) -> None:
    teacher = open_teacher(tiny_teacher(tmp_path, length=4))
    assert [len(answer.split()) for answer in teacher.answer(["egg", "nine"], beams=beams, slots=1)] == [4, 4]
    assert teacher.answer(["egg"], beams=beams, slots=1) == [
        ""
    ]  # three letters, so that three tokens and the end have room


def test_shards_are_made_once_and_parts_are_all(
    teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = list(WORDS)[:10]
    told: list[tuple[int, int]] = []
    mine = label(teacher, texts, tmp_path, beams=2, slots=2, part=(1, 2), report=lambda *done: told.append(done))
    assert [len(list(tmp_path.glob("*.tsv"))), len(mine), told[-1]] == [2, 2, (6, 6)]
    label(teacher, texts, tmp_path, beams=2, slots=2, part=(2, 2))
    assert len(list(tmp_path.glob("*.tsv"))) == 3

    monkeypatch.setattr(teacher, "answer", lambda *args, **kwargs: pytest.fail("it was labelled before"))
    pairs = read_labels(label(teacher, texts, tmp_path, beams=2, slots=2))
    assert [pair.text for pair in pairs] == texts
    assert not list(tmp_path.glob("*.part"))


def test_other_beams_other_texts_and_another_teacher_have_other_shards(teacher: Teacher, tmp_path: Path) -> None:
    texts = list(WORDS)[:4]
    other = open_teacher(tiny_teacher(tmp_path / "other", seed=1))
    made = [
        label(teacher, texts, tmp_path / "labels", beams=1, slots=1),
        label(teacher, texts, tmp_path / "labels", beams=2, slots=1),
        label(teacher, texts[::-1], tmp_path / "labels", beams=1, slots=1),
        label(other, texts, tmp_path / "labels", beams=1, slots=1),
    ]
    assert len({path for paths in made for path in paths}) == 4


def test_no_such_part(teacher: Teacher, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no part 3 of 2"):
        label(teacher, ["egg"], tmp_path, beams=1, slots=1, part=(3, 2))


def test_a_model_that_is_no_teacher_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no sequence-to-sequence teacher"):
        Autoregressive(tiny_ctc(tmp_path))


@pytest.mark.parametrize("write", [tiny_ctc, tiny_mask_predict])
def test_a_one_pass_model_labels_by_its_own_answers(write: Callable[[Path], Path], tmp_path: Path) -> None:
    teacher = open_teacher(write(tmp_path))
    texts = ["egg", "", *list(WORDS)[:5], "zebra" * 20]
    together = teacher.answer(texts, beams=1, slots=2)
    assert together == [teacher.answer([text], beams=1, slots=2)[0] for text in texts]
    assert together[1] == ""
    assert together[-1] == teacher.answer([("zebra" * 20)[:24]], beams=1, slots=2)[0]
