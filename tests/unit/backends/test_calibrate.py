"""Calibration: ranges hold what they say, fp32 stays exact, and a planted outlier costs next to nothing."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from edgellm.backends import calibrate as module
from edgellm.backends.calibrate import GROWN, Range, beyond, calibrate, left_out, quantize_weights
from edgellm.core.scheme import RANGES
from edgellm.errors import InputError

EDGES = st.floats(-1e4, 1e4, allow_nan=False)


class Block(nn.Module):
    """A feed-forward block with a residual, of which one output channel reaches `outlier` times as far."""

    def __init__(self, outlier: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.up, self.down, self.out = nn.Linear(32, 64), nn.Linear(64, 32), nn.Linear(32, 16)
        self.norm = nn.LayerNorm(32)
        self.down.weight.data[5] *= outlier

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        grown: torch.Tensor = x + self.down(nn.functional.gelu(self.up(x)))
        answer: torch.Tensor = self.out(self.norm(grown))
        return answer


def samples() -> list[dict[str, torch.Tensor]]:
    torch.manual_seed(4)
    return [{"x": torch.randn(1, n, 32)} for n in range(4, 40)]


def answers(block: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([block.eval()(**item).flatten() for item in samples()])


def error(block: nn.Module, expected: torch.Tensor) -> float:
    return float((answers(block) - expected).norm() / expected.norm())


@given(low=EDGES, high=EDGES, signed=st.booleans())
def test_a_range_holds_its_ends_and_zero_is_exact(low: float, high: float, signed: bool) -> None:
    low, high = min(low, high), max(low, high)
    chosen = Range.of(low, high, signed=signed)
    assert chosen.lowest <= chosen.zero <= chosen.lowest + 255
    values = torch.tensor([low, high, 0.0, (low + high) / 2])
    rounded = chosen.round(values)
    assert rounded[2] == 0
    assert float((rounded - values).abs().max()) <= 1.01 * chosen.scale
    other = Range.of(low, high, signed=not signed)
    assert torch.equal(other.round(values), rounded), "signed and unsigned bytes mean the same values"


def ranges_of(values: torch.Tensor) -> dict[str, Range]:
    seen = module.Seen(16)
    for part in values.split(16):
        seen.add(part.unsqueeze(0))
    return {method: seen.range(method, signed=True) for method in RANGES}


def test_methods_keep_what_they_say() -> None:
    torch.manual_seed(1)
    values = torch.randn(1024, 64)
    values[3, 3] = 40.0
    found = ranges_of(values)
    assert found["minmax"] == Range.of(float(values.min()), 40.0, signed=True)
    reach = {method: found[method].scale * 255 for method in RANGES}
    assert reach["percentile"] < reach["mse"] <= reach["minmax"]
    assert reach["entropy"] < reach["minmax"]
    squared = {method: float((found[method].round(values) - values).square().sum()) for method in RANGES}
    assert squared["mse"] == min(squared.values())


def test_one_sided_values_are_clipped_at_their_far_end_only() -> None:
    torch.manual_seed(1)
    values = nn.functional.gelu(torch.randn(1024, 64))
    values[0, 0] = 60.0
    found = ranges_of(values)["mse"]
    assert found.scale * (found.lowest - found.zero) == pytest.approx(float(values.min()), abs=found.scale)
    assert found.scale * (found.lowest + 255 - found.zero) < 60


@pytest.mark.parametrize("method", ["mse", "minmax", "entropy"])
@pytest.mark.parametrize("signed", [True, False])
def test_8_bits_are_close_to_fp32(method: str, signed: bool) -> None:
    block = Block()
    expected = answers(block)
    assert calibrate(block, samples(), method=method, signed=signed) == (["up", "down", "out"], [])
    quantize_weights(block, ("up", "down", "out"), stored=False)
    assert 0 < error(block, expected) < 0.05


def test_a_planted_outlier_channel_costs_next_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = answers(Block(100.0))
    evened, plain = Block(100.0), Block(100.0)
    calibrate(evened, samples(), method="minmax")
    assert (getattr(evened.down, GROWN) > 1).nonzero().flatten().tolist() == [5]
    monkeypatch.setattr(module, "_SPREAD", 1e9)
    calibrate(plain, samples(), method="minmax")
    assert not hasattr(plain.down, GROWN)
    assert error(evened, expected) < 0.05
    assert error(plain, expected) > 2 * error(evened, expected)


def test_evening_out_is_exact_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    block = Block(100.0)
    expected = answers(block)
    monkeypatch.setattr(Range, "round", lambda self, x: x)
    calibrate(block, samples(), method="mse")
    assert hasattr(block.down, GROWN)
    assert torch.equal(answers(block), expected)


def test_outputs_are_left_alone_where_the_kernel_gives_fp32() -> None:
    block, other = Block(100.0), Block(100.0)
    expected = answers(block)
    calibrate(block, samples(), method="mse", outputs=False)
    calibrate(other, samples(), method="mse", outputs=True)
    assert not hasattr(block.down, GROWN)
    assert error(block, expected) < error(other, expected)


def test_inputs_of_another_kind_are_noticed() -> None:
    block, known = Block().eval(), samples()
    assert beyond(block, known, known) == ("up", 0.0)
    torch.manual_seed(9)
    alike = [{"x": torch.randn(1, 20, 32)} for _ in range(10)]
    assert beyond(block, known, alike)[1] < 0.02
    other = [{"x": item["x"] * 3} for item in alike]
    name, share = beyond(block, known, other)
    assert share > 0.5
    assert name in ("up", "down")


def test_weights_stored_in_int8_are_those_that_a_converter_folds() -> None:
    folded, stored = Block(), Block()
    for block, how in ((folded, False), (stored, True)):
        quantize_weights(block, ("up", "down"), stored=how)
    assert torch.equal(answers(folded), answers(stored))
    assert not torch.equal(answers(folded), answers(Block()))
    state = dict(stored.named_buffers())
    assert state["up.parametrizations.weight.0.int8"].dtype == torch.int8


def test_a_head_that_is_the_embedding_table_is_not_calibrated() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.inner, self.head = nn.Embedding(50, 32), nn.Linear(32, 32), nn.Linear(32, 50)
            self.head.weight = self.table.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            answer: torch.Tensor = self.head(self.inner(self.table(x)))
            return answer

    feeds = [{"x": torch.arange(n).unsqueeze(0)} for n in range(4, 40)]
    assert calibrate(Tied().eval(), feeds, method="mse") == (["inner"], ["head"])
    assert left_out(["head"], "it stays") == ("1 linear (head) could not be calibrated; it stays.",)
    assert left_out([], "it stays") == ()


def test_a_model_without_anything_to_calibrate_is_refused() -> None:
    class Keyword(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.out = nn.Linear(32, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            answer: torch.Tensor = self.out(input=x)
            return answer

    with pytest.raises(InputError, match=r"No linear of this model can be calibrated.*int8-dynamic"):
        calibrate(Keyword().eval(), samples(), method="mse")


def test_a_linear_that_is_called_in_two_places_is_calibrated_over_both() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(2)
            self.one, self.two = nn.Linear(32, 32), nn.Linear(32, 32)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            answer: torch.Tensor = self.one((self.one(x) + self.two(x)) * 3)
            return answer

    shared = Shared().eval()
    expected = answers(shared)
    assert calibrate(shared, samples(), method="minmax") == (["one", "two"], [])
    assert error(shared, expected) < 0.05


def test_the_traced_graph_states_the_ranges() -> None:
    block = Block().eval()
    names, _ = calibrate(block, samples(), method="mse")
    quantize_weights(block, names, stored=True)
    program = torch.export.export(block, (), kwargs={"x": torch.randn(1, 7, 32)}, strict=False)
    counts: dict[str, int] = {}
    for node in program.graph.nodes:
        name = str(node.target)
        if name.startswith("quantized_decomposed"):
            counts[name.split(".")[1]] = counts.get(name.split(".")[1], 0) + 1
    assert counts == {"quantize_per_tensor": 6, "dequantize_per_tensor": 6, "dequantize_per_channel": 3}
