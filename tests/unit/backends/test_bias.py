"""Biases make up for what rounding weights adds on average, and say how much that is; nothing changes unless asked for."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgellm.backends import Prepared
from edgellm.backends._executorch_quantize import _nearest, quantize_linears
from edgellm.backends.bias import correct_biases, unrounded
from edgellm.backends.calibrate import rounded_weight
from edgellm.backends.fitting import round_prepared
from edgellm.core.precision import Precisions
from edgellm.core.scheme import Tuning
from edgellm.core.signature import InputSpec, OutputSpec


class Shifted(nn.Module):
    """Linears that read what is far from 0 on average; one has no bias."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.up, self.down, self.plain = nn.Linear(32, 64), nn.Linear(64, 32), nn.Linear(32, 32, bias=False)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = self.plain(self.down(torch.relu(self.up(input_ids + 3))))
        return hidden


def given(*, correct: bool = True) -> Prepared:
    generator = torch.Generator().manual_seed(1)
    samples = [{"input_ids": torch.randn(1, 7, 32, generator=generator)} for _ in range(6)]
    return Prepared(
        Shifted().eval(), (InputSpec("input_ids", "int64", (1, "tokens"), 2, 0),), OutputSpec("y", "float32", (1, 32)), (16,),
        samples=samples, tuning=Tuning(fit=False, correct_bias=correct),
    )  # fmt: skip


@pytest.mark.parametrize("scheme", ["int8-dynamic", "int8-static", "int4-dynamic"])
def test_the_mean_of_what_a_linear_writes_is_what_it_was(scheme: str) -> None:
    made, plain = given(), Shifted().eval()
    _, notes = round_prepared(made, Precisions(scheme), "onnx")
    if scheme != "int4-dynamic":
        for each in (made.module.up, made.module.down):
            each.weight.data = rounded_weight(each.weight.data)
    rows = torch.cat([sample["input_ids"] for sample in made.samples], dim=1)
    for name, read in (("up", rows + 3), ("down", torch.relu(plain.up(rows + 3)))):
        before, after = getattr(plain, name)(read), getattr(made.module, name)(read)
        assert torch.allclose(before.mean((0, 1)), after.mean((0, 1)), atol=1e-5)
        uncorrected = nn.functional.linear(read, getattr(made.module, name).weight, getattr(plain, name).bias)
        assert (after - before).square().sum() < 0.8 * (uncorrected - before).square().sum()
    (note,) = notes
    assert note.startswith(
        "Biases of onnx were corrected at 2 layers: on the calibration texts rounding weights now costs "
    )
    share = float(note.split(" now costs ")[1].split("%")[0])
    assert 0 < share < 80


def test_executorch_is_corrected_for_the_grid_that_it_rounds_to() -> None:
    """torchao takes the largest magnitude for 127.5 steps: correcting for another grid would add error."""
    made, plain = given(), Shifted().eval()
    round_prepared(made, Precisions("int8-dynamic"), "executorch", nearest=_nearest)
    quantize_linears(made.module, ())
    rows = torch.cat([sample["input_ids"] for sample in made.samples], dim=1) + 3
    weight = made.module.up.weight.dequantize()
    assert not torch.equal(weight, rounded_weight(plain.up.weight.data))
    before, after = plain.up(rows), nn.functional.linear(rows, weight, made.module.up.bias)
    assert torch.allclose(before.mean((0, 1)), after.mean((0, 1)), atol=1e-5)


def test_no_linear_with_a_bias_is_said() -> None:
    made = given()
    made.module.up.bias = made.module.down.bias = None
    assert round_prepared(made, Precisions("int8-dynamic"), "onnx")[1] == (
        "No bias of onnx was corrected: rounding changes nothing at linears that have one.",
    )


def test_nothing_changes_where_it_is_not_asked_for_or_nothing_is_rounded() -> None:
    for made, scheme in ((given(correct=False), "int8-dynamic"), (given(), "fp32")):
        assert round_prepared(made, Precisions(scheme), "onnx")[1] == ()
        assert all(torch.equal(a, b) for a, b in zip(made.module.parameters(), Shifted().parameters(), strict=True))


def test_weights_that_round_to_themselves_leave_biases_as_they_are() -> None:
    made = given()
    for each in (made.module.up, made.module.down):
        each.weight.data = rounded_weight(each.weight.data)
    correct_biases(made, unrounded(made), "onnx", Precisions("int8-dynamic"))
    for name in ("up", "down"):
        assert torch.allclose(getattr(made.module, name).bias, getattr(Shifted(), name).bias, atol=1e-5)
