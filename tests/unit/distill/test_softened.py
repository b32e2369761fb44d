"""Softened: what is compared, where it is, and who can't be compared."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, processors
from torch.nn import functional

from edgellm.core.training import IGNORED, Training
from edgellm.distill.kinds import OnePass, fresh, opened
from edgellm.distill.pairs import open_tokenizers
from edgellm.distill.sequences import distill_sequences
from edgellm.distill.softened import Softened
from edgellm.distill.teachers import Autoregressive, Teacher, open_teacher
from edgellm.errors import InputError, UsageError
from tests.sequences import WORDS, tiny_ctc, tiny_mask_predict, tiny_teacher, write_pairs

IDS = torch.tensor([[4, 5, 6, 7, 8], [9, 10, 11, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
LABELS = torch.tensor([[30, 31, 32, 33], [34, 35, IGNORED, IGNORED]])
SHORT = Training(epochs=1, batch=8, rate=1e-3, threads=1)


def softened(student: OnePass, teacher: Teacher, weight: float = 1.0, temperature: float = 2.0) -> Softened:
    """Return both in training mode, but for dropout."""
    made = Softened(student, teacher, weight=weight, temperature=temperature, target="K EH1").train()
    for module in made.modules():
        if isinstance(module, torch.nn.Dropout):
            module.eval()
    return made


def added(made: Softened) -> tuple[float, torch.Tensor, torch.Tensor]:
    """Return what the teacher adds to the loss, and the student's logits with the places that count."""
    given = {"input_ids": IDS, "attention_mask": MASK, "labels": LABELS}
    torch.manual_seed(5)
    whole = made(**given)
    torch.manual_seed(5)
    alone = made.student(**given)
    assert whole.logits is not None
    assert whole.slot_mask is not None
    return float((whole.loss - alone.loss).detach()), whole.logits.detach(), whole.slot_mask


def divergence(mine: torch.Tensor, its: torch.Tensor, temperature: float) -> torch.Tensor:
    p, q = (functional.log_softmax(each / temperature, -1) for each in (its, mine))
    return functional.kl_div(q, p, log_target=True, reduction="none").sum(-1) * temperature**2


def test_one_that_equals_its_teacher_has_nothing_to_learn(tmp_path: Path) -> None:
    made = softened(opened(tiny_ctc(tmp_path)), open_teacher(tmp_path))
    assert added(made)[0] == pytest.approx(0, abs=1e-5)


def test_slots_are_compared_one_by_one_and_those_of_padding_are_not(tmp_path: Path) -> None:
    teacher = open_teacher(tiny_ctc(tmp_path / "teacher", seed=1))
    made = softened(opened(tiny_ctc(tmp_path / "student")), teacher, weight=3.0, temperature=1.5)
    got, logits, mask = added(made)
    with torch.no_grad():
        its = teacher.model(IDS, MASK).logits
    each = divergence(logits, its, 1.5)
    real = MASK.repeat_interleave(2, 1)
    assert torch.equal(mask, real)
    assert got == pytest.approx(3 * float((each * real).sum() / real.sum()), rel=1e-4)
    assert got != pytest.approx(3 * float(each.mean()), rel=1e-3)


def test_a_teacher_that_is_forced_is_compared_where_something_is_masked(tmp_path: Path) -> None:
    teacher = open_teacher(tiny_teacher(tmp_path / "teacher"))
    made = softened(opened(tiny_mask_predict(tmp_path / "student")), teacher)
    got, logits, hidden = added(made)
    ends = torch.tensor([[30, 31, 32, 33, 3], [34, 35, 3, IGNORED, IGNORED]])
    with torch.no_grad():
        its = teacher.model(input_ids=IDS, attention_mask=MASK, labels=ends).logits[:, :4]
    each = divergence(logits[..., 4:], its[..., 4:], 2.0)  # the special tokens are the first four
    assert not bool((hidden & (LABELS == IGNORED)).any())
    assert got == pytest.approx(float((each * hidden).sum() / hidden.sum()), rel=1e-4)
    assert 0 < int(hidden.sum()) < 6


def test_what_a_tokenizer_puts_before_an_output_is_read_first(tmp_path: Path) -> None:
    teacher = Autoregressive(tiny_teacher(tmp_path))
    assert teacher.begin("K EH1") == (3,)
    path = tmp_path / "target_tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)]
    )
    tokenizer.save(str(path))
    assert Autoregressive(tmp_path).begin("K EH1") == (3, 2)


def test_what_generate_is_made_to_say_first_is_read_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = Autoregressive(tiny_teacher(tmp_path))
    monkeypatch.setattr(teacher.model.generation_config, "forced_bos_token_id", 2)
    ids = torch.tensor([teacher.read.encode("egg").ids])
    begins = teacher.model.generate(input_ids=ids, max_new_tokens=4, do_sample=False)[0].tolist()
    assert teacher.begin("K EH1") == tuple(begins[:2]) == (3, 2)


def test_the_teacher_is_no_part_of_it_and_does_not_learn(tmp_path: Path) -> None:
    teacher = open_teacher(tiny_ctc(tmp_path / "teacher", seed=1))
    made = softened(opened(tiny_ctc(tmp_path / "student")), teacher)
    assert {name.partition(".")[0] for name in made.state_dict()} == {"student"}
    made(IDS, MASK, LABELS).loss.backward()
    assert all(parameter.grad is None for parameter in teacher.model.parameters())
    assert any(parameter.grad is not None for parameter in made.student.parameters())
    with torch.no_grad():
        chosen = made.eval()(IDS, MASK, LABELS)  # what chooses the step asks no teacher
        assert float(chosen.loss) == float(made.student(IDS, MASK, LABELS).loss)


def test_what_was_damaged_comes_back_without_a_label(tmp_path: Path) -> None:
    teacher = open_teacher(tiny_ctc(tmp_path))
    student = opened(tmp_path)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    made = softened(student, teacher)
    before = added(made)[0]
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-2)
    for _ in range(40):
        whole = made(IDS, MASK, LABELS).loss
        loss = whole - student(IDS, MASK, LABELS).loss  # what the labels say is taken away
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert added(made)[0] < before / 10


def test_who_answers_in_other_places_is_refused(tmp_path: Path) -> None:
    ctc, mask, slow = (write(tmp_path / write.__name__) for write in (tiny_ctc, tiny_mask_predict, tiny_teacher))
    for student, teacher, error, said in (
        (ctc, slow, UsageError, "its tokens have no slots to be compared with"),
        (mask, ctc, UsageError, "only if both are CTC models"),
        (ctc, mask, UsageError, "only if both are CTC models"),
    ):
        with pytest.raises(error, match=said):
            softened(opened(student), open_teacher(teacher))
    vocabulary = open_tokenizers(ctc)[0].get_vocab()
    with pytest.raises(InputError, match="3 slots for each token, the teacher 2") as caught:
        softened(fresh("ctc-tiny", vocabulary, slots=3, longest=24), open_teacher(ctc))
    assert "--slots 2" in str(caught.value)
    with pytest.raises(InputError, match="68 tokens in its vocabulary, the teacher 67"):
        softened(fresh("ctc-tiny", {**vocabulary, "more": 67}, slots=2, longest=24), open_teacher(ctc))


@pytest.mark.parametrize(
    ("student", "write", "teacher"),
    [("ctc-tiny", tiny_ctc, "one pass"), ("mask-tiny", tiny_teacher, "token by token")],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_training_says_what_was_learned_and_belongs_to_it(
    tmp_path: Path, student: str, write: object, teacher: str
) -> None:
    words = list(WORDS)
    given = {
        "teacher": write(tmp_path / "teacher"), "student": student, "longest": 24, "quiet": True, "training": SHORT,  # type: ignore[operator]
        "data": write_pairs(tmp_path / "a.tsv", words[:32]), "dev": write_pairs(tmp_path / "b.tsv", words[32:]),
        "out": tmp_path / "student", "soft": 0.5, "temperature": 3.0,
    }  # fmt: skip
    paused = dataclasses.replace(SHORT, epochs=500, seconds=1.0)
    first = distill_sequences(**{**given, "training": paused, "out": tmp_path / "paused"})
    assert first is not None
    assert first.trained.status == "paused"
    with pytest.raises(UsageError, match="other options or data"):
        distill_sequences(**{**given, "training": paused, "out": tmp_path / "paused", "soft": 0.6})
    found = distill_sequences(**given)
    assert found is not None
    assert (found.soft, found.temperature, found.trained.status) == (0.5, 3.0, "finished")
    assert sum(parameter.numel() for parameter in opened(tmp_path / "student").parameters()) == found.parameters[0]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"beams": 0, "teacher": Path("t")}, "--beams is 0; it goes from 1"),
        ({"soft": 1.0}, "--soft needs a --teacher"),
        ({"soft": -1.0, "teacher": Path("t")}, "--soft is -1; it goes from 0"),
        ({"soft": float("nan"), "teacher": Path("t")}, "--soft is nan"),
        ({"temperature": 2.0, "teacher": Path("t")}, "--temperature has no use without --soft"),
        ({"soft": 1.0, "temperature": 0.0, "teacher": Path("t")}, "--temperature is 0; it goes from 0.1"),
    ],
)
def test_a_wrong_option_is_said_at_once(tmp_path: Path, more: dict[str, object], said: str) -> None:
    given = {
        "teacher": None, "data": write_pairs(tmp_path / "a.tsv", ["egg"]), "dev": write_pairs(tmp_path / "b.tsv", ["idea"]),
        "student": "ctc-tiny", "out": tmp_path / "out", "training": SHORT, **more,
    }  # fmt: skip
    with pytest.raises(UsageError, match=said):
        distill_sequences(**given)  # type: ignore[arg-type]


def test_beams_are_of_a_search(tmp_path: Path) -> None:
    words = list(WORDS)
    with pytest.raises(UsageError, match="--beams has no use for a teacher that answers in one pass"):
        distill_sequences(
            teacher=tiny_ctc(tmp_path / "teacher"), student="ctc-tiny", beams=4, out=tmp_path / "out", training=SHORT,
            data=write_pairs(tmp_path / "a.tsv", words[:9]), dev=write_pairs(tmp_path / "b.tsv", words[9:]),
        )  # fmt: skip
