"""MaskPredictForSeq2Seq: lengths, padding, refinement, and what it learns from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from edgellm.core.training import IGNORED
from edgellm.models.mask_predict import MaskPredictForSeq2Seq
from tests.sequences import tiny_mask_predict

PAD, MASK = 0, 1


def opened(folder: Path, refinements: int = 0) -> MaskPredictForSeq2Seq:
    return MaskPredictForSeq2Seq.from_pretrained(tiny_mask_predict(folder, refinements=refinements)).eval()


@pytest.mark.parametrize("refinements", [0, 1, 3])
def test_every_place_up_to_the_length_is_filled_and_none_beyond(tmp_path: Path, refinements: int) -> None:
    model = opened(tmp_path, refinements)
    ids = torch.randint(4, 30, (3, 7), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = model(ids)
    used = found.slot_mask.bool()
    assert 0 < used.sum() < used.numel()
    assert not ((found.ids == PAD) | (found.ids == MASK))[used].any()
    assert (found.ids[~used] == PAD).all()
    assert (found.scores[~used] == 1).all()
    assert ((found.scores > 0) & (found.scores <= 1)).all()


@pytest.mark.parametrize("refinements", [0, 2])
def test_padding_changes_nothing(tmp_path: Path, refinements: int) -> None:
    model = opened(tmp_path, refinements)
    ids = torch.randint(4, 30, (1, 4), generator=torch.Generator().manual_seed(1))
    padded = torch.nn.functional.pad(ids, (0, 5))
    mask = torch.nn.functional.pad(torch.ones_like(ids), (0, 5))
    with torch.no_grad():
        alone, beside = model(ids), model(padded, mask)
    assert beside.ids[0, :8].tolist() == alone.ids[0].tolist()
    assert (beside.ids[0, 8:] == PAD).all()
    torch.testing.assert_close(beside.scores[0, :8], alone.scores[0])


def test_refinement_fills_what_was_least_sure_again(tmp_path: Path) -> None:
    once, twice = opened(tmp_path / "1"), opened(tmp_path / "2", refinements=1)
    ids = torch.randint(4, 30, (1, 9), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        first, second = once(ids), twice(ids)
    length = int(first.slot_mask.sum())
    kept = first.scores[0, :length].argsort(descending=True)[: length - length // 2]
    assert second.ids[0, kept].tolist() == first.ids[0, kept].tolist()
    assert second.scores[0].tolist() != first.scores[0].tolist()


def test_the_loss_falls_where_length_and_tokens_are_learned(tmp_path: Path) -> None:
    model = opened(tmp_path).train()
    torch.manual_seed(0)
    ids = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
    labels = torch.tensor([[30, 31, 32], [33, 34, IGNORED]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        loss = model(ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        said = model.eval()(ids)
    assert said.ids[:, :3].tolist() == [[30, 31, 32], [33, 34, PAD]]
    assert said.slot_mask.sum(-1).tolist() == [3, 2]
