"""Several teachers: how likely each finds an output, and what they say together."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

import pytest
import torch
from click.testing import CliRunner
from tokenizers import Tokenizer, processors

from edgellm.cli.main import cli
from edgellm.core.training import Training
from edgellm.distill.ensemble import Ensemble, open_teachers
from edgellm.distill.sequences import distill_sequences
from edgellm.distill.teacher import SingleTeacher
from edgellm.distill.teachers import Autoregressive, open_teacher
from edgellm.errors import InputError, UsageError
from tests.sequences import WORDS, tiny_ctc, tiny_mask_predict, tiny_teacher, write_pairs

TEXTS = [*WORDS][:6]
OUTPUTS = [WORDS[text] for text in TEXTS]


class Fake:
    """A teacher whose answers and likelihoods are given."""

    def __init__(self, like: SingleTeacher, answers: Mapping[str, str], likely: Mapping[str, float]) -> None:
        self.folder, self.folders, self.parameters = like.folder, like.folders, 1
        self.read, self.write, self.longest = like.read, like.write, like.longest
        self.answers, self.likely = answers, likely
        self.asked: list[str] = []

    def check_likelihoods(self) -> None:
        pass

    def answer(self, texts: Sequence[str], *, beams: int, slots: int) -> list[str]:
        return [self.answers.get(text, "") for text in texts]

    def likelihoods(self, texts: Sequence[str], outputs: Sequence[str]) -> list[float]:
        self.asked += texts
        return [self.likely[output] for output in outputs]


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> SingleTeacher:
    return open_teacher(tiny_teacher(tmp_path_factory.mktemp("slow")))


@pytest.fixture(scope="module")
def ctc(tmp_path_factory: pytest.TempPathFactory) -> SingleTeacher:
    return open_teacher(tiny_ctc(tmp_path_factory.mktemp("ctc")))


def together(like: SingleTeacher, *members: tuple[Mapping[str, str], Mapping[str, float]]) -> Ensemble:
    return Ensemble([cast(SingleTeacher, Fake(like, *each)) for each in members])


def test_token_by_token_an_output_is_as_likely_as_its_tokens_and_its_end(slow: SingleTeacher) -> None:
    for text, output, found in zip(TEXTS, OUTPUTS, slow.likelihoods(TEXTS, OUTPUTS), strict=True):
        labels = torch.tensor([[*slow.write.encode(output).ids, 3]])
        with torch.no_grad():
            mean = slow.model(input_ids=torch.tensor([slow.read.encode(text).ids]), labels=labels).loss
        assert found == pytest.approx(-float(mean) * labels.shape[1], rel=1e-4)


def test_any_token_that_ends_an_output_may_end_it(slow: SingleTeacher, monkeypatch: pytest.MonkeyPatch) -> None:
    before = slow.likelihoods(["egg"], ["EH1 G"])
    monkeypatch.setattr(slow.model.generation_config, "eos_token_id", list(range(slow.model.config.vocab_size)))
    every = slow.likelihoods(["egg"], ["EH1 G"])
    ids = slow.write.encode("EH1 G").ids
    with torch.no_grad():
        logits = slow.model(
            input_ids=torch.tensor([slow.read.encode("egg").ids]), decoder_input_ids=torch.tensor([[3, *ids]])
        ).logits[0]
    assert every[0] == pytest.approx(float(logits.log_softmax(-1)[[0, 1], ids].sum()), rel=1e-4)
    assert every[0] > before[0]


def test_in_one_pass_an_output_is_as_likely_as_all_paths_that_say_it(ctc: SingleTeacher) -> None:
    with torch.no_grad():
        chances = ctc.model(torch.tensor([ctc.read.encode("e").ids])).logits[0].softmax(-1)
    assert len(chances) == 2
    x, y = ctc.write.encode("EH1 G").ids
    of_one = chances[0, x] * chances[1, x] + chances[0, x] * chances[1, 0] + chances[0, 0] * chances[1, x]
    found = ctc.likelihoods(["e", "e"], ["EH1", "EH1 G"])
    assert found == pytest.approx([math.log(of_one), math.log(chances[0, x] * chances[1, y])], rel=1e-4)


@pytest.mark.parametrize("forced", [False, True])
def test_what_is_read_before_an_output_is_what_its_model_begins_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forced: bool
) -> None:
    """A tokenizer that begins outputs with <s>, or a model that `generate` makes begin with it: both are read, none counts."""
    folder = tiny_teacher(tmp_path)
    if not forced:
        path = folder / "target_tokenizer.json"
        write = Tokenizer.from_file(str(path))
        write.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)]
        )
        path.write_text(write.to_str())
    teacher = open_teacher(folder)
    assert isinstance(teacher, Autoregressive)
    if forced:
        monkeypatch.setattr(teacher.model.generation_config, "forced_bos_token_id", 2)
    assert teacher.begin("EH1 G") == (3, 2)
    ids = teacher.write.encode("EH1 G", add_special_tokens=False).ids
    with torch.no_grad():
        logits = teacher.model(
            input_ids=torch.tensor([teacher.read.encode("egg").ids]), decoder_input_ids=torch.tensor([[3, 2, *ids]])
        ).logits[0, 1:]
    wanted = float(logits.log_softmax(-1)[[0, 1, 2], [*ids, 3]].sum())
    assert teacher.likelihoods(["egg", "nine"], ["EH1 G", ""])[0] == pytest.approx(wanted, rel=1e-4)
    assert teacher.likelihoods([], []) == []


@pytest.mark.parametrize("kind", ["slow", "ctc"])
def test_batches_are_as_likely_as_single_outputs(kind: str, request: pytest.FixtureRequest) -> None:
    teacher: SingleTeacher = request.getfixturevalue(kind)
    alone = [teacher.likelihoods([text], [output])[0] for text, output in zip(TEXTS, OUTPUTS, strict=True)]
    assert all(map(math.isfinite, alone))
    assert teacher.likelihoods(TEXTS, OUTPUTS) == pytest.approx(alone, rel=1e-4)


def test_what_a_teacher_cannot_say_is_impossible(slow: SingleTeacher, ctc: SingleTeacher) -> None:
    outputs = ["EH1 EH1", "EH1", "EH1"]  # a token twice needs a blank between; nothing is said of a text without tokens
    found = ctc.likelihoods(["e", "e", ""], outputs)
    assert [math.isfinite(each) for each in found] == [False, True, False]
    long = " ".join(["EH1"] * 48)
    found = slow.likelihoods(["egg", "egg", ""], [long, long[4:], "EH1"])
    assert [math.isfinite(each) for each in found] == [False, True, False]


def test_of_what_is_said_the_likeliest_for_all_is_chosen(slow: SingleTeacher) -> None:
    likely = [{"A": -1.0, "B": -2.0, "C": -9.0}, {"A": -7.0, "B": -2.0, "C": -9.0}, {"A": -4.0, "B": -3.0, "C": -1.0}]
    says = [{"one": "A", "two": "A"}, {"one": "B", "two": " A"}, {"one": "C", "two": "A "}]
    for order in ([0, 1, 2], [2, 0, 1]):
        made = together(slow, *((says[i], likely[i]) for i in order))
        # The sums are -12, -7 and -19: B, which one alone likes best. Spaces make no other output.
        assert made.answer(["one", "two"], beams=1, slots=2) == ["B", "A"]


def test_what_cannot_be_compared_has_no_label(slow: SingleTeacher) -> None:
    never = -math.inf
    silent = together(slow, ({"one": "A", "two": "A"}, {"A": -1.0}), ({"one": " ", "two": "A"}, {"A": -2.0}))
    assert silent.answer(["one", "two", "three"], beams=1, slots=2) == ["", "A", ""]
    made = together(slow, ({"one": "A"}, {"A": -1.0, "B": -5.0}), ({"one": "B"}, {"A": never, "B": -5.0}))
    assert made.answer(["one"], beams=1, slots=2) == [""]
    broken = together(slow, ({"one": "A"}, {"A": -1.0}), ({"one": "A"}, {"A": math.nan}))
    with pytest.raises(InputError, match="no numbers"):
        broken.answer(["one"], beams=1, slots=2)


@pytest.mark.parametrize("kinds", ["alike", "different"])
def test_real_teachers_choose_what_their_likelihoods_say(tmp_path: Path, kinds: str) -> None:
    folders = [tiny_ctc(tmp_path / "a", seed=1), tiny_ctc(tmp_path / "b", seed=2)]
    if kinds == "different":
        folders.append(tiny_teacher(tmp_path / "c"))
    made = open_teachers(folders)
    assert isinstance(made, Ensemble)
    assert made.longest == 24
    assert made.folders == tuple(folders)
    assert made.parameters == sum(member.parameters for member in made.members)
    said = [member.answer(TEXTS, beams=2, slots=2) for member in made.members]
    chosen = made.answer(TEXTS, beams=2, slots=2)
    for text, label, proposed in zip(TEXTS, chosen, zip(*said, strict=True), strict=True):
        assert len(set(proposed) - {""}) == len(folders)
        sums = {each: sum(member.likelihoods([text], [each])[0] for member in made.members) for each in proposed}
        assert label == max(sums, key=lambda each: sums[each])
    if kinds == "alike":  # both are chosen
        assert 0 < sum(label == first for label, first in zip(chosen, said[0], strict=True)) < len(TEXTS)


def test_one_folder_is_one_teacher_whose_labels_keep_their_names(tmp_path: Path) -> None:
    one, other = tiny_teacher(tmp_path / "a"), tiny_ctc(tmp_path / "b")
    alone = open_teachers([one])
    assert isinstance(alone, Autoregressive)
    assert alone.digest() == open_teacher(one).digest()
    both = open_teachers([one, other]).digest()
    assert len({alone.digest(), open_teachers([other]).digest(), both}) == 3
    assert both == open_teachers([other, one]).digest()


def _same(place: Path) -> list[Path]:
    return [tiny_ctc(place / "a"), place / "b" / ".." / "a"]


def _masks(place: Path) -> list[Path]:
    return [tiny_ctc(place / "a"), tiny_mask_predict(place / "b")]


def _endless(place: Path) -> list[Path]:
    folder = tiny_teacher(place / "a")
    for name in ("config.json", "generation_config.json"):
        path = folder / name
        path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token_id": None}))
    return [folder, tiny_ctc(place / "b")]


def _foreign(place: Path) -> list[Path]:
    folder = tiny_ctc(place / "b")
    for path in (folder / "tokenizer.json", folder / "target_tokenizer.json"):
        path.write_text(path.read_text().replace('"AH0"', '"AH9"'))
    return [tiny_ctc(place / "a"), folder]


def _spelling(place: Path) -> list[Path]:
    """One says phones, and the other reads its own outputs letter by letter."""
    folder = tiny_ctc(place / "b")
    (folder / "target_tokenizer.json").unlink()
    return [tiny_teacher(place / "a"), folder]


def _missing(place: Path) -> list[Path]:
    return [tiny_teacher(place / "a"), place / "nowhere"]


@pytest.mark.parametrize(
    ("folders", "error", "said"),
    [
        (_same, UsageError, "named twice"),
        (_masks, InputError, "predicts masks"),
        (_endless, InputError, "names no token that ends"),
        (_foreign, InputError, "different tokenizers"),
        (_spelling, InputError, "different tokenizers"),
        (_missing, InputError, "nowhere"),
    ],
)
def test_teachers_that_cannot_label_together_are_refused(
    tmp_path: Path, folders: Callable[[Path], list[Path]], error: type[Exception], said: str
) -> None:
    (tmp_path / "b").mkdir()
    with pytest.raises(error, match=said):
        open_teachers(folders(tmp_path))


def test_a_student_learns_what_several_say_together(tmp_path: Path) -> None:
    teachers = (tiny_ctc(tmp_path / "a", seed=1), tiny_teacher(tmp_path / "b"))
    (teachers[0] / "README.md").write_text("---\nlicense: mit\n---\n")
    words = [*WORDS]
    given = {
        "teachers": teachers, "student": "ctc-tiny", "longest": 24, "quiet": True, "out": tmp_path / "out",
        "training": Training(epochs=1, batch=8, threads=1), "data": write_pairs(tmp_path / "train.tsv", words[:16]),
        "dev": write_pairs(tmp_path / "dev.tsv", words[16:20]), "labels": tmp_path / "labels",
    }  # fmt: skip
    with pytest.raises(UsageError, match="--soft learns the probabilities of one teacher"):
        distill_sequences(**given, soft=1.0)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="--beams has no use"):
        distill_sequences(**{**given, "teachers": (teachers[0], tiny_ctc(tmp_path / "c"))}, beams=2)  # type: ignore[arg-type]
    found = distill_sequences(**given, beams=1)  # type: ignore[arg-type]
    assert found is not None
    assert found.teacher == "a and b"
    assert found.parameters[1] == sum(open_teacher(folder).parameters for folder in teachers)
    labels = dict(
        line.split("\t") for path in (tmp_path / "labels").iterdir() for line in path.read_text().splitlines()
    )
    together = open_teachers(teachers)
    assert labels == dict(zip(words[:16], together.answer(words[:16], beams=1, slots=2), strict=True))
    # Their licences are not the same, and the student's is neither.
    assert "license: other" in (tmp_path / "out" / "README.md").read_text()
    assert "Distilled from a and b" in (tmp_path / "out" / "README.md").read_text()


def test_by_command_teachers_label_together(tmp_path: Path) -> None:
    folders = [tiny_ctc(tmp_path / "a", seed=1), tiny_ctc(tmp_path / "b", seed=2)]
    for folder in folders:
        (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    words = [*WORDS]
    files = write_pairs(tmp_path / "train.tsv", words[:16]), write_pairs(tmp_path / "dev.tsv", words[16:20])
    args = ["--student", "ctc-tiny", "--longest", "24", "--epochs", "1", "--threads", "1", "--quiet"]
    places = ["--data", str(files[0]), "--dev", str(files[1]), "--out", str(tmp_path / "out")]
    teachers = [part for folder in folders for part in ("--teacher", str(folder))]
    done = CliRunner().invoke(
        cli, ["distill", *args, *places, *teachers], standalone_mode=False, catch_exceptions=False
    )
    assert "answers of a and b" in done.output
    labels = "".join(path.read_text() for path in (tmp_path / "labels").iterdir())
    said = open_teachers(folders).answer(words[:16], beams=1, slots=2)
    assert labels == "".join(f"{word}\t{output}\n" for word, output in zip(words[:16], said, strict=True) if output)
    assert "license: mit" in (tmp_path / "out" / "README.md").read_text()
