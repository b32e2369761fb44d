"""The module that keeps a masked language model's head to the masks, and how its outputs are compared."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from edgellm.errors import EdgellmError, InputError
from edgellm.stages.faithful import ensure_faithful
from edgellm.tasks._torch import Filled

MASK, ROWS, WIDTH, SLOTS, TOP = 4, 40, 8, 3, 5


class Base(nn.Module):
    """An encoder of one table, that gives what transformers' give: an object, or a tuple."""

    def __init__(self, plain: bool) -> None:
        super().__init__()
        self.table = nn.Embedding(ROWS, WIDTH)
        self.plain = plain

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> object:
        hidden = self.table(input_ids) * attention_mask.unsqueeze(-1)
        hidden = hidden + 0.1 * torch.arange(input_ids.shape[1]).reshape(1, -1, 1)
        return (hidden, "more") if self.plain else SimpleNamespace(last_hidden_state=hidden)


class Model(nn.Module):
    """A model with a head over its encoder; `by_name` is how it hands over the ids."""

    def __init__(self, *, plain: bool = False, by_name: bool = True, deaf: bool = False) -> None:
        super().__init__()
        self.base_model = Base(plain)
        self.head = nn.Linear(WIDTH, ROWS)
        self.by_name, self.deaf = by_name, deaf

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> object:
        base = self.base_model
        given = (
            base(input_ids=input_ids, attention_mask=attention_mask)
            if self.by_name
            else base(input_ids, attention_mask=attention_mask)
        )
        hidden = given[0] if isinstance(given, tuple) else given.last_hidden_state
        return SimpleNamespace(logits=self.head(base.table(input_ids) if self.deaf else hidden))


def filled(**kinds: bool) -> tuple[Model, Filled]:
    torch.manual_seed(3)
    model = Model(**kinds).eval()
    twin = Model(**kinds).eval()
    twin.load_state_dict(model.state_dict())
    return model, Filled(twin, mask_id=MASK, slots=SLOTS, top=TOP).requires_grad_(False)


def feeds(*ids: int) -> dict[str, torch.Tensor]:
    tokens = torch.tensor([ids])
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}


@pytest.mark.parametrize("kinds", [{}, {"plain": True}, {"by_name": False}])
@pytest.mark.parametrize("ids", [(1, MASK, 2), (MASK, 7, MASK, 9), (MASK, MASK, MASK, MASK, 8), (1, 2, 3)])
def test_rows_are_the_full_model_s_at_the_masks(kinds: dict[str, bool], ids: tuple[int, ...]) -> None:
    model, ours = filled(**kinds)
    with torch.no_grad():
        full = torch.softmax(model(**feeds(*ids)).logits, -1)  # type: ignore[attr-defined]
        got = ours(**feeds(*ids))
    assert got.shape == (1, SLOTS, TOP, 2)
    assert bool(torch.isfinite(got).all())
    places = [place for place, id in enumerate(ids) if id == MASK][:SLOTS]
    for slot, place in enumerate(places):
        scores, tokens = full[0, place].topk(TOP)
        assert torch.allclose(got[0, slot, :, 0], scores, atol=1e-6)
        assert got[0, slot, :, 1].tolist() == tokens.tolist()


def test_a_head_that_reads_something_else_is_refused() -> None:
    _, ours = filled(deaf=True)
    with pytest.raises(InputError, match="does not read its encoder's last hidden state"):
        ours(**feeds(1, 2, 3, 4, 5))


def test_a_module_without_an_encoder_of_its_own_is_refused() -> None:
    with pytest.raises(InputError, match="Linear does not say what of it is the encoder"):
        Filled(nn.Linear(2, 2), mask_id=MASK, slots=SLOTS, top=TOP)


def output(*tokens: tuple[float, int]) -> torch.Tensor:
    rows = torch.tensor([tokens])
    return rows.unsqueeze(0).expand(1, SLOTS, len(tokens), 2).clone()


def test_outputs_are_apart_by_probability_and_not_by_order() -> None:
    _, ours = filled()
    x = output((0.5, 30000), (0.2, 7), (0.2, 9), (0.1, 3))
    assert ours.apart(x, x.clone()) == 0
    assert ours.apart(x, output((0.5, 30000), (0.2, 9), (0.2, 7), (0.1, 3))) == 0  # as good as equally likely
    assert ours.apart(x, output((0.5, 30000), (0.2, 7), (0.2, 9), (0.1, 8))) == 0  # so is the next one that is not kept
    assert ours.apart(x, output((0.5, 29999), (0.2, 7), (0.2, 9), (0.1, 3))) == pytest.approx(0.8)
    assert ours.apart(x, output((0.4, 30000), (0.2, 7), (0.2, 9), (0.1, 3))) == pytest.approx(0.2)
    assert not ours.apart(x, output((float("nan"), 30000), (0.2, 7), (0.2, 9), (0.1, 3))) <= 1


@pytest.mark.parametrize("change", ["weights", "order of tokens", "not a number"])
def test_a_prepared_model_that_fills_otherwise_is_noticed(change: str) -> None:
    _, ours = filled()
    _, other = filled()
    items = [{name: value.numpy() for name, value in feeds(1, MASK, 2, MASK).items()}]
    assert ensure_faithful(ours, other, items).rewritten < 1e-6

    def changed(**inputs: torch.Tensor) -> torch.Tensor:
        rows = other(**inputs)
        if change == "weights":
            rows[..., 0] *= 1.001
        elif change == "order of tokens":
            rows[..., 1] = rows[..., 1].flip(-1)
        else:
            rows[..., 0] = np.nan
        return rows

    with pytest.raises(EdgellmError, match="differs from the source"):
        ensure_faithful(ours, changed, items)
