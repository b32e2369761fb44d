"""Rounding: weights lie on a grid that their largest magnitude gives away, and outputs stay close."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgellm.backends.rounding import GROUP, fitted, layer_of_constant, to_nearest
from tests.unit.backends.small_encoder import error, on_grid, prepared


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


def test_constants_are_told_by_their_bytes_transposed_and_scaled() -> None:
    module = prepared()
    layer = layer_of_constant(module)
    weight = module.up.weight.numpy()
    assert [layer(each) for each in (weight, weight.T.copy(), weight * 0.17, -weight)] == ["up"] * 4
    assert layer(module.table.weight.numpy()) == "table"
    assert layer(weight[::-1].copy()) is None
    assert layer(weight * 0) is None
