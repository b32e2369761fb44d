"""Fitting: a module's weights are rounded on calibration texts, those that are to be and no others."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgellm.backends import Prepared
from edgellm.backends.calibrate import rounded_weight
from edgellm.backends.fitting import Gain, fit_channels, round_prepared, round_weights
from edgellm.backends.observe import watch
from edgellm.backends.rounding import GROUP, group_of, to_nearest
from edgellm.core.precision import Precisions
from edgellm.core.scheme import Tuning
from edgellm.core.signature import InputSpec, OutputSpec
from tests.unit.backends.small_encoder import error, on_grid, prepared, samples

ALL = Precisions("int4-dynamic")


@pytest.mark.parametrize("width", [64, 40])
def test_every_4_bit_layer_is_rounded_and_no_other(width: int) -> None:
    module, plain = prepared(width), prepared(width)
    mixed = Precisions("int4-dynamic", (("down", "int8-dynamic"),))
    names, gain = round_weights(module, mixed, samples())
    assert names == ["table", "types", "up", "head"]
    assert gain.layers == 1, "the head is the table"
    assert group_of(width) == (32 if width == 64 else 40)
    assert on_grid(module.table.weight, group_of(width))
    assert on_grid(module.up.weight, group_of(width))
    assert module.head.weight is module.table.weight
    assert torch.equal(module.down.weight, plain.down.weight)
    assert torch.equal(module.types.weight, plain.types.weight), "two rows are nothing to save"
    ids = samples(9)[0]["input_ids"]
    assert nn.functional.cosine_similarity(module(ids), plain(ids), dim=-1).min() > 0.95


def test_nothing_is_run_for_a_model_without_4_bit_layers() -> None:
    assert round_weights(prepared(), Precisions("int8-dynamic"), ()) == ([], Gain(0, 1.0))
    assert Gain.of(()).notes("4-bit weights of onnx") == ()


def test_what_fitting_gained_is_the_error_of_outputs_against_rounding_to_the_nearest() -> None:
    module, plain = prepared(), prepared()
    _, gain = round_weights(module, ALL, samples())
    read: dict[str, list[torch.Tensor]] = {"up": [], "down": []}
    nearest = prepared()
    nearest.table.weight.data = to_nearest(plain.table.weight.data, GROUP)
    watch(nearest, list(read), samples(), reads=lambda name, value: read[name].append(value[0]))
    ratios = []
    for name, rows in read.items():
        x, weight = torch.cat(rows), getattr(plain, name).weight.data
        made, before = getattr(module, name).weight.data, to_nearest(weight, GROUP)
        ratios.append(error(made, weight, x) / error(before, weight, x))
    assert gain.layers == 2
    assert gain.error == pytest.approx(sum(ratios) / 2, rel=1e-3)
    assert gain.error < 0.7
    assert round_weights(prepared(), ALL, samples())[1] == gain, "a note is the same in every build"
    assert gain.notes("4-bit weights of onnx") == (
        f"4-bit weights of onnx were fitted at 2 layers: on the calibration texts rounding now costs {gain.error:.0%} of the "
        "squared error of their outputs that rounding to the nearest does, on average (--no-fit leaves it out).",
    )


def test_a_linear_that_loses_nothing_is_not_counted() -> None:
    silent = prepared()
    silent.up.weight[:] = 0
    silent.down.weight.copy_(to_nearest(silent.down.weight, GROUP))
    assert round_weights(silent, ALL, samples())[1] == Gain(0, 1.0)


@pytest.mark.parametrize("calibrated", [True, False])
def test_what_is_not_to_be_fitted_is_rounded_to_the_nearest(calibrated: bool) -> None:
    module, plain = prepared(), prepared()
    given = Prepared(
        module, (InputSpec("input_ids", "int64", (1, "tokens"), 100, 0),), OutputSpec("scores", "float32", (1, "tokens", 100)),
        (16,), samples=samples() if calibrated else (), tuning=Tuning(fit=False),
    )  # fmt: skip
    names, notes = round_prepared(given, ALL, "onnx")
    assert (names, notes) == (["table", "types", "up", "down", "head"], ())
    for name in ("table", "up", "down"):
        assert torch.equal(getattr(module, name).weight, to_nearest(getattr(plain, name).weight, GROUP))
    assert module.head.weight is module.table.weight
    assert torch.equal(module.types.weight, plain.types.weight), "two rows are nothing to save"


@pytest.mark.parametrize("fit", [True, False])
def test_fp32_stays_as_it_is(fit: bool) -> None:
    module, plain = prepared(), prepared()
    assert round_weights(module, Precisions("fp32"), samples(), fit=fit) == ([], Gain(0, 1.0))
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), plain.parameters(), strict=True))


def test_8_bit_channels_are_fitted_on_the_grid_that_every_quantizer_finds() -> None:
    module, plain = prepared(), prepared()
    gain = fit_channels(module, samples())
    assert (gain.layers, gain.error < 0.8) == (2, True)
    x = module.table(samples(2)[0]["input_ids"])[0] + module.types.weight[0]
    x = x + x.mean(-1, keepdim=True) * 4
    weight, before = module.up.weight.data, plain.up.weight.data
    torch.testing.assert_close(rounded_weight(weight), weight, rtol=0, atol=1e-7)
    assert error(weight, before, x) < 0.7 * error(rounded_weight(before), before, x)
    assert torch.equal(module.types.weight, plain.types.weight)
