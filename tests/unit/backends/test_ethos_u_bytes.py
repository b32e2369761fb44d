"""Linears with 8-bit activations for an Ethos-U: which ranges they get, and which linears are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from edgellm.backends._ethos_u_bytes import narrowed
from edgellm.backends._tflite_quantize import Reader
from edgellm.backends.calibrate import Range, ranges_of
from edgellm.backends.rounding import factor_of
from edgellm.backends.tflite_ethos_u import _ensure_apart
from edgellm.core.precision import Precisions
from edgellm.errors import InputError


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x))


def test_ranges_are_of_what_is_wanted_and_outputs_that_stick_out_are_evened_out() -> None:
    torch.manual_seed(0)
    module = Two().eval()
    with torch.no_grad():
        module.first.weight[3] *= 100
    samples = [{"x": torch.randn(1, 5, 8)} for _ in range(4)]
    before = module(**samples[0])
    found = ranges_of(module, samples, method="minmax", wanted=lambda name: name == "first")
    assert list(found) == ["first"]
    reads, writes = found["first"]
    furthest = max(float(sample["x"].abs().max()) for sample in samples)
    assert max(map(abs, reads.ends)) == pytest.approx(furthest, rel=0.02)
    assert max(map(abs, writes.ends)) < 20, "the channel that sticks out was divided"
    assert torch.allclose(module(**samples[0]), before, rtol=1e-6), "and is multiplied behind the linear"


def test_the_ends_of_a_range_are_its_first_and_last_step() -> None:
    low, high = Range.of(-1.0, 3.0, signed=True).ends
    assert (low, high) == pytest.approx((-1.0, 3.0), abs=4 / 255)
    assert Range.of(low, high, signed=True) == Range.of(-1.0, 3.0, signed=True)


def test_a_layer_that_the_file_does_not_hold_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, some = tmp_path / "model.tflite", Range.of(-1.0, 1.0, signed=True)
    assert narrowed(file, Two(), {}) == []
    monkeypatch.setattr("edgellm.backends._ethos_u_bytes.readers", lambda source, module: iter(()))
    with pytest.raises(InputError, match="The converter left no linear with the weights of first"):
        narrowed(file, Two(), {"first": (some, some)})


def test_what_a_converter_multiplied_a_weight_by_its_range_is_multiplied_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attention's scaling goes into the query: what the file's linear writes is that much smaller than the module's."""
    module = Two()
    weight = module.first.weight.detach().numpy()
    assert factor_of(0.25 * weight, weight) == pytest.approx(0.25)
    assert factor_of(weight, weight) == factor_of(weight[:, :4], weight) == 1.0
    reads, writes = Range.of(-2.0, 2.0, signed=True), Range.of(-1.0, 3.0, signed=True)
    for factor, ends in ((0.25, (-0.25, 0.75)), (-0.25, (-0.75, 0.25))):
        found = Reader("name;", "FULLY_CONNECTED", "first", 8, 8, factor)
        monkeypatch.setattr("edgellm.backends._ethos_u_bytes.readers", lambda *asked, found=found: iter((found,)))
        (made,) = narrowed(tmp_path / "model.tflite", module, {"first": (reads, writes)})
        assert (made.output, made.reads) == ("name", reads)
        assert made.writes.ends == pytest.approx(ends, abs=0.01)


def test_linears_that_share_a_weight_are_refused_by_name() -> None:
    module = Two()
    module.second.weight = module.first.weight
    with pytest.raises(InputError, match="first and second share their weight"):
        _ensure_apart(module, Precisions("a16w8", (("second", "int8-static"),)))
    _ensure_apart(module, Precisions("a16w8"))


def test_a_linear_that_reads_nothing_but_0_is_refused_by_name() -> None:
    with pytest.raises(InputError, match="first reads nothing but 0"):
        ranges_of(Two(), [{"x": torch.zeros(1, 2, 8)}], method="mse", wanted=lambda name: name == "first")


def test_a_linear_that_is_called_oddly_is_refused_by_name() -> None:
    class Odd(Two):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(input=self.first(x))

    with pytest.raises(InputError, match="second has no calibrated range"):
        ranges_of(Odd(), [{"x": torch.ones(1, 2, 8)}], method="mse", wanted=lambda name: True)
