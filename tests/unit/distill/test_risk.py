"""Risk: which outputs are wrong, which way its gradient goes, and that a student learns from it."""

from __future__ import annotations

import dataclasses
import math
from itertools import product
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgellm.cli.distill import shown
from edgellm.core.training import IGNORED, Training
from edgellm.distill import risk
from edgellm.distill.kinds import opened
from edgellm.distill.risk import Risky
from edgellm.distill.sequences import distill_sequences
from edgellm.errors import UsageError
from edgellm.tasks._ctc import collapse
from tests.sequences import WORDS, tiny_ctc, tiny_mask_predict, write_pairs

IDS = torch.tensor([[4, 5, 6, 7, 8], [9, 10, 11, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
LABELS = torch.tensor([[30, 31, 32, 33], [34, 35, IGNORED, IGNORED]])
SHORT = Training(epochs=1, batch=8, rate=1e-3, threads=1)

tokens = st.lists(st.integers(0, 3), min_size=6, max_size=6)


@given(st.lists(tokens, min_size=2, max_size=5), st.integers(0, 6), st.lists(st.integers(1, 3), max_size=7))
@settings(deadline=None)
def test_what_is_wrong_is_what_the_runtime_reads_otherwise(
    paths: list[list[int]], slots: int, label: list[int]
) -> None:
    mask = torch.tensor([[1] * slots + [0] * (6 - slots)])
    labels = torch.tensor([[*label, *[IGNORED] * (8 - len(label))]])
    found = risk.wrong(torch.tensor([paths]), mask, labels, 0)
    assert found[0].tolist() == [float(collapse(path[:slots], 0) != tuple(label)) for path in paths]


def chance_of_error(logits: torch.Tensor, mask: torch.Tensor, label: tuple[int, ...]) -> torch.Tensor:
    """Return the exact risk of one text [slots, vocabulary], by all its paths."""
    chances = logits.softmax(-1)[: int(mask.sum())]
    wrong = torch.zeros(())
    for path in product(range(logits.shape[-1]), repeat=len(chances)):
        if collapse(path, 0) != label:
            wrong = wrong + math.prod(chances[slot, id] for slot, id in enumerate(path))
    return wrong


def test_value_and_gradient_are_those_of_the_expected_error(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(
        risk, "DRAWS", 2
    )  # so few that a baseline with a draw's own error in it would halve the gradient
    times = 20_000
    logits = torch.randn(2, 4, 3, requires_grad=True)
    mask, labels = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]), torch.tensor([[1, 2], [2, IGNORED]])
    exact = (chance_of_error(logits[0], mask[0], (1, 2)) + chance_of_error(logits[1], mask[1], (2,))) / 2
    wanted = torch.autograd.grad(exact, logits)[0]
    estimated = risk.risk(*(each.repeat_interleave(times, 0) for each in (logits, mask, labels)), 0)
    got = torch.autograd.grad(estimated, logits)[0]
    assert float(estimated.detach()) == pytest.approx(float(exact.detach()), abs=0.01)
    torch.testing.assert_close(got, wanted, atol=5e-3, rtol=0)
    assert not got[1, 2:].any()


def test_what_is_no_number_is_no_risk() -> None:
    logits = torch.tensor([[[0.0, math.nan]]])
    assert math.isnan(risk.risk(logits, torch.ones(1, 1), torch.tensor([[1]]), 0))


def test_slots_that_say_half_of_each_answer_learn_to_agree() -> None:
    # "1 2" and "2 1" are right, each for one of two texts that look the same; both slots begin with 1 as the likelier.
    torch.manual_seed(0)
    mask, labels = torch.ones(2, 2), torch.tensor([[1, 2], [2, 1]])
    shared = torch.nn.Parameter(torch.tensor([[-9.0, 0.1, 0.0], [-9.0, 0.1, 0.0]]))
    assert collapse(shared.argmax(-1).tolist(), 0) == (1,)
    optimizer = torch.optim.Adam([shared], lr=0.1)
    for _ in range(200):
        optimizer.zero_grad()
        risk.risk(shared.expand(2, 2, 3), mask, labels, 0).backward()
        optimizer.step()
    assert collapse(shared.argmax(-1).tolist(), 0) in ((1, 2), (2, 1))


def test_risk_is_beside_the_students_own_loss_and_only_in_training(tmp_path: Path) -> None:
    student = opened(tiny_ctc(tmp_path))
    for module in student.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    given = {"input_ids": IDS, "attention_mask": MASK, "labels": LABELS}
    own = student.train()(**given).loss
    assert own is not None
    made = Risky(student, blank=student.config.pad_token_id, weight=2.0).train()
    whole = made(**given).loss
    assert whole is not None
    assert float((whole - own).detach()) == pytest.approx(2.0)  # of random weights every output is wrong
    assert torch.equal(made.eval()(**given).loss, student.eval()(**given).loss)


@pytest.mark.parametrize("soft", [0.0, 1.0])
def test_a_student_is_written_and_told_of(soft: float, tmp_path: Path) -> None:
    teacher = tiny_ctc(tmp_path / "teacher")
    pairs = write_pairs(tmp_path / "train.tsv", list(WORDS)[:40])
    dev = write_pairs(tmp_path / "dev.tsv", list(WORDS)[40:])
    found = distill_sequences(
        teacher=teacher if soft else None, student=str(teacher), data=pairs, dev=dev, tokenizer=teacher, soft=soft,
        out=tmp_path / "out", risk=1.0, training=dataclasses.replace(SHORT, precision="bf16"), quiet=True,
    )  # fmt: skip
    assert found is not None
    assert "from outputs that would be wrong (weight 1)" in shown(found, tmp_path / "out")
    assert found.risk == 1.0
    assert found.trained.metric == "errors"
    assert [*opened(tmp_path / "out").state_dict()] == [*opened(teacher).state_dict()]


def test_who_has_no_paths_is_refused(tmp_path: Path) -> None:
    student = tiny_mask_predict(tmp_path / "student")
    pairs = write_pairs(tmp_path / "train.tsv", list(WORDS)[:40])
    dev = write_pairs(tmp_path / "dev.tsv", list(WORDS)[40:])
    for risky, message in ((1.0, "no CTC model"), (-1.0, "--risk is -1"), (float("nan"), "--risk is nan")):
        with pytest.raises(UsageError, match=message):
            distill_sequences(
                teacher=None, student=str(student), data=pairs, dev=dev, tokenizer=student, out=tmp_path / "out", risk=risky,
                training=SHORT, quiet=True,
            )  # fmt: skip
    assert not (tmp_path / "out").exists()
