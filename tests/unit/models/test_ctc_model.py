"""CtcForSeq2Seq: padding changes nothing, layers may be shared, and its loss is CTC's."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch

from edgellm.core.training import IGNORED
from edgellm.distill.students import CTC
from edgellm.models.ctc import CtcConfig, CtcForSeq2Seq, ctc_loss
from edgellm.prune.surgery import multiply_accumulates
from edgellm.tasks._ctc import collapse
from tests.sequences import tiny_ctc


@pytest.mark.parametrize("layers", [0, 2])
@pytest.mark.parametrize("share", [False, True])
def test_a_saved_model_is_the_same_and_does_not_look_at_padding(tmp_path: Path, share: bool, layers: int) -> None:
    model = CtcForSeq2Seq.from_pretrained(tiny_ctc(tmp_path, share=share, slot_layers=layers)).eval()
    ids = torch.randint(4, 30, (2, 7), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    with torch.no_grad():
        both, alone = model(ids, mask), model(ids[1:, :4])
    assert both.logits.shape == (2, 14, model.config.vocab_size)
    assert both.slot_mask.sum(-1).tolist() == [14, 8]
    torch.testing.assert_close(both.logits[1, :8], alone.logits[0])


def test_shared_layers_are_stored_once(tmp_path: Path) -> None:
    whole, shared = (CtcForSeq2Seq.from_pretrained(tiny_ctc(tmp_path / str(s), share=s)) for s in (False, True))
    a_layer = sum(p.numel() for p in shared.encoder.layer[0].parameters())
    assert whole.num_parameters() - shared.num_parameters() == 2 * a_layer


def test_the_loss_is_the_likelihood_of_all_paths() -> None:
    logits = torch.randn(1, 4, 3, generator=torch.Generator().manual_seed(2))
    target = (1, 2)
    chances = logits[0].softmax(-1)
    whole = sum(
        float(torch.stack([chances[slot, id] for slot, id in enumerate(path)]).prod())
        for path in itertools.product(range(3), repeat=4)
        if collapse(path, 0) == target
    )
    loss = ctc_loss(logits, torch.ones(1, 4), torch.tensor([[*target, IGNORED]]), 0)
    assert loss.item() == pytest.approx(-math.log(whole) / 2, rel=1e-5)


def test_labels_that_do_not_fit_teach_nothing_and_break_nothing() -> None:
    logits = torch.randn(1, 2, 3, requires_grad=True)
    loss = ctc_loss(logits, torch.ones(1, 2), torch.tensor([[1, 1]]), 0)
    loss.backward()
    assert loss.item() == 0.0
    assert not logits.grad.any()


@pytest.mark.parametrize("layers", [0, 2])
def test_what_inner_layers_say_is_fed_back(tmp_path: Path, layers: int) -> None:
    model = CtcForSeq2Seq.from_pretrained(tiny_ctc(tmp_path, slot_layers=layers)).eval()
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        before = model(ids)
        model.feedback.weight += 1.0
        model.feedback.bias += torch.arange(32) / 8.0
        after = model(ids)
    assert [tuple(inner.shape) for inner in before.inner_logits] == [(1, 8, model.config.vocab_size)]
    torch.testing.assert_close(before.inner_logits[0], after.inner_logits[0])
    assert not torch.allclose(before.logits, after.logits)


@pytest.mark.parametrize("layers", [0, 2])
def test_a_supervised_layer_is_learned_from_and_leaves_nothing(tmp_path: Path, layers: int) -> None:
    plain = CtcForSeq2Seq.from_pretrained(tiny_ctc(tmp_path, slot_layers=layers, conditioned=[])).eval()
    model = CtcForSeq2Seq.from_pretrained(tmp_path, supervised_layers=[1]).eval()
    ids, labels = torch.tensor([[5, 6, 7, 8]]), torch.tensor([[9, 10]])
    assert model.num_parameters() == plain.num_parameters()
    with torch.no_grad():
        said, expected = model(ids), plain(ids)
        learned, last = model(ids, labels=labels), plain(ids, labels=labels)
    assert said.inner_logits is None
    assert torch.equal(said.logits, expected.logits)
    (inner,) = learned.inner_logits
    within = ctc_loss(inner, learned.slot_mask, labels, 0)
    torch.testing.assert_close(learned.loss, (last.loss + within) / 2)


@pytest.mark.parametrize("name", ["conditioned_layers", "supervised_layers"])
@pytest.mark.parametrize(("slot_layers", "layers"), [(3, [0]), (3, [3]), (3, [4]), (0, [4])])
def test_a_layer_that_can_not_predict_within_is_refused(name: str, slot_layers: int, layers: list[int]) -> None:
    shape = {"vocab_size": 9, "hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 4}
    with pytest.raises(ValueError, match=name):
        CtcForSeq2Seq(CtcConfig(num_slot_layers=slot_layers, **{name: layers}, **shape))


def test_flat_computes_two_fifths_of_small() -> None:
    flat, small = (
        multiply_accumulates(CtcForSeq2Seq(CtcConfig(vocab_size=99, pad_token_id=0, **CTC[name])), tokens=24)
        for name in ("ctc-flat", "ctc-small")
    )
    assert flat / small == pytest.approx(0.4, abs=0.03)
