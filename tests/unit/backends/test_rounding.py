"""Rounding to 4 bits: weights lie on a grid that their largest magnitude gives away, and outputs stay close."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgellm.backends.calibrate import rounded_weight
from edgellm.backends.rounding import (
    GROUP,
    LARGEST,
    fit_channels,
    fitted,
    grid,
    group_of,
    layer_of_constant,
    round_weights,
    to_nearest,
)
from edgellm.core.precision import Precisions


class Encoder(nn.Module):
    """A table, two linears, and a head that is the table."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.table, self.types = nn.Embedding(100, width), nn.Embedding(2, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.head = nn.Linear(width, 100, bias=False)
        self.head.weight = self.table.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        hidden = self.table(ids) + self.types(ids * 0)
        # What linears read has directions that matter more than others, as in a model that learned something.
        mixed = hidden + hidden.mean(-1, keepdim=True) * 4
        out: torch.Tensor = self.head(self.down(nn.functional.gelu(self.up(mixed))))
        return out


def samples(seed: int = 1) -> list[dict[str, torch.Tensor]]:
    torch.manual_seed(seed)
    return [{"ids": torch.randint(0, 100, (1, 20))} for _ in range(30)]


def prepared(width: int = 64) -> Encoder:
    return Encoder(width).eval().requires_grad_(False)


def error(weight: torch.Tensor, other: torch.Tensor, x: torch.Tensor) -> float:
    return float((x @ (weight - other).T).square().sum())


def on_grid(weight: torch.Tensor, group: int) -> bool:
    values, scale = grid(weight, group)
    again = values.reshape(len(weight), -1, group) * scale[..., None]
    return bool(torch.equal(again.reshape(weight.shape), weight)) and int(values.abs().max()) <= LARGEST


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1000), magnitude=st.floats(1e-4, 1e4), group=st.sampled_from([32, 64]))
def test_a_weight_is_on_the_grid_that_its_largest_magnitudes_give_away(seed: int, magnitude: float, group: int) -> None:
    torch.manual_seed(seed)
    weight, x = magnitude * torch.randn(6, 64), torch.randn(100, 64)
    weight[0] = 0
    weight[1, 3] *= 100
    for rounded in (to_nearest(weight, group), fitted(weight, x.T @ x, group)):
        assert on_grid(rounded, group)
        assert not rounded[0].any()
        assert torch.equal(rounded.to(torch.float32), rounded)


def test_what_linears_read_is_made_use_of() -> None:
    torch.manual_seed(2)
    weight = torch.randn(48, 64)
    x = torch.randn(500, 8) @ torch.randn(8, 64) + 0.1 * torch.randn(500, 64)
    plain = error(to_nearest(weight, GROUP), weight, x)
    assert error(fitted(weight, x.T @ x, GROUP), weight, x) < 0.2 * plain
    unseen = torch.zeros(64, 64)  # of a linear that reads zeros
    assert on_grid(fitted(weight, unseen, GROUP), GROUP)


@pytest.mark.parametrize("width", [64, 40])
def test_every_4_bit_layer_is_rounded_and_no_other(width: int) -> None:
    module, plain = prepared(width), prepared(width)
    mixed = Precisions("int4-dynamic", (("down", "int8-dynamic"),))
    assert round_weights(module, mixed, samples()) == ["table", "types", "up", "head"]
    assert group_of(width) == (32 if width == 64 else 40)
    assert on_grid(module.table.weight, group_of(width))
    assert on_grid(module.up.weight, group_of(width))
    assert module.head.weight is module.table.weight
    assert torch.equal(module.down.weight, plain.down.weight)
    assert torch.equal(module.types.weight, plain.types.weight), "two rows are nothing to save"
    ids = samples(9)[0]["ids"]
    assert nn.functional.cosine_similarity(module(ids), plain(ids), dim=-1).min() > 0.95


def test_nothing_is_run_for_a_model_without_4_bit_layers() -> None:
    assert round_weights(prepared(), Precisions("int8-dynamic"), ()) == []


def test_constants_are_told_by_their_bytes_transposed_and_scaled() -> None:
    module = prepared()
    layer = layer_of_constant(module)
    weight = module.up.weight.numpy()
    assert [layer(each) for each in (weight, weight.T.copy(), weight * 0.17, -weight)] == ["up"] * 4
    assert layer(module.table.weight.numpy()) == "table"
    assert layer(weight[::-1].copy()) is None
    assert layer(weight * 0) is None


def test_8_bit_channels_are_fitted_on_the_grid_that_every_quantizer_finds() -> None:
    module, plain = prepared(), prepared()
    fit_channels(module, samples())
    x = module.table(samples(2)[0]["ids"])[0] + module.types.weight[0]
    x = x + x.mean(-1, keepdim=True) * 4
    weight, before = module.up.weight.data, plain.up.weight.data
    torch.testing.assert_close(rounded_weight(weight), weight, rtol=0, atol=1e-7)
    assert error(weight, before, x) < 0.7 * error(rounded_weight(before), before, x)
    assert torch.equal(module.types.weight, plain.types.weight)
