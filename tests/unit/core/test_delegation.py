"""Shares of a delegation, and numbers that contradict each other."""

from __future__ import annotations

import dataclasses

import pytest

from edgellm.core import strict
from edgellm.core.delegation import MULTIPLY_ACCUMULATES, Delegation, Fallback, grouped

LEFT = (Fallback("aten.linear", 1, "invalid dtype", 30.0), Fallback("aten.sum", 2, "not known", 0.0))
SHARED = Delegation("xnnpack", 2, 7, 3, 90.0, 30.0, MULTIPLY_ACCUMULATES, LEFT)


def test_shares_are_those_of_the_delegate() -> None:
    assert SHARED.share_of_operators == 0.7
    assert SHARED.share_of_cost == 0.75
    assert SHARED.fallback_share == 0.25
    assert SHARED.heavy == LEFT[:1]


def test_a_graph_that_costs_nothing_is_judged_by_its_operators() -> None:
    free = dataclasses.replace(SHARED, cost_inside=0.0, cost_outside=0.0)
    assert free.share_of_cost == 1
    assert free.fallback_share == pytest.approx(0.3)
    nothing = Delegation("cpu", None, 0, 0, 0.0, 0.0, MULTIPLY_ACCUMULATES)
    assert nothing.share_of_operators == 1
    assert nothing.fallback_share == 0


@pytest.mark.parametrize(
    "name", ["aten.linear", "aten.scaled_dot_product_attention", "FULLY_CONNECTED", "MatMul", "aten.bmm"]
)
def test_what_multiplies_matrices_is_heavy_whatever_it_costs(name: str) -> None:
    assert Fallback(name, 1, "", 0.0).heavy
    assert not Fallback(f"{name}_copy", 1, "", 0.0).heavy
    assert Fallback("aten._weight_int8pack_mm", 1, "", 1.0).heavy


@pytest.mark.parametrize(
    "change",
    [{"outside": 2}, {"fallbacks": ()}, {"inside": -1}, {"cost_inside": -1.0}, {"cost_outside": float("nan")}],
)
def test_contradictions_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"fallbacks:|inside:"):
        dataclasses.replace(SHARED, **change)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="count:"):
        Fallback("aten.sum", 0, "", 0.0)


def test_operators_are_put_together_by_kind_and_cause_the_most_expensive_first() -> None:
    rows = [
        ("aten.sum", "a", 0.0),
        ("aten.mm", "b", 2.0),
        ("aten.sum", "a", 0.0),
        ("aten.mm", "a", 1.0),
        ("aten.mm", "b", 2.0),
    ]
    assert [(each.operator, each.cause, each.count, each.cost) for each in grouped(rows)] == [
        ("aten.mm", "b", 2, 4.0), ("aten.mm", "a", 1, 1.0), ("aten.sum", "a", 2, 0.0),
    ]  # fmt: skip


def test_it_is_read_back_as_it_was_written() -> None:
    assert strict.read(Delegation, strict.plain(SHARED), "delegation") == SHARED
