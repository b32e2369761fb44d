"""Fitting: a module's weights are rounded on calibration texts, those that are to be and no others."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgellm.backends.calibrate import rounded_weight
from edgellm.backends.fitting import fit_channels, round_weights
from edgellm.backends.rounding import group_of
from edgellm.core.precision import Precisions
from tests.unit.backends.small_encoder import error, on_grid, prepared, samples


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


def test_8_bit_channels_are_fitted_on_the_grid_that_every_quantizer_finds() -> None:
    module, plain = prepared(), prepared()
    fit_channels(module, samples())
    x = module.table(samples(2)[0]["ids"])[0] + module.types.weight[0]
    x = x + x.mean(-1, keepdim=True) * 4
    weight, before = module.up.weight.data, plain.up.weight.data
    torch.testing.assert_close(rounded_weight(weight), weight, rtol=0, atol=1e-7)
    assert error(weight, before, x) < 0.7 * error(rounded_weight(before), before, x)
    assert torch.equal(module.types.weight, plain.types.weight)
