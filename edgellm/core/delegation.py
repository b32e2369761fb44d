"""What a delegate took of a graph, and what it left: by operators, and by what they cost."""

from __future__ import annotations

from dataclasses import dataclass

MULTIPLY_ACCUMULATES = "multiply-accumulates"
"""The basis of a cost that was estimated from shapes, at the longest text; operators that multiply no matrices cost 0."""

_HEAVY = (
    "addmm", "baddbmm", "bmm", "conv1d", "conv2d", "convolution", "linear", "matmul", "mm", "scaled_dot_product_attention",
    "BATCH_MATMUL", "CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV",
    "Attention", "Conv", "ConvInteger", "Gemm", "MatMul", "MatMulInteger",
)  # fmt: skip
"""Operators that are heavy whatever their shapes, as ATen, TFLite and ONNX name them."""


@dataclass(frozen=True)
class Fallback:
    """Operators of one kind that a delegate left, for one cause.

    Attributes:
        operator: as its format names it: "aten.linear", "FULLY_CONNECTED", "MatMul".
        count: how many.
        cause: why, in words that a sentence can end with.
        cost: of all of them together, by the delegation's basis.

    """

    operator: str
    count: int
    cause: str
    cost: float

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"count: {self.operator} fell back {self.count} times")
        if not self.cost >= 0:
            raise ValueError(f"cost: {self.cost} of {self.operator} is no cost")

    @property
    def heavy(self) -> bool:
        """Tell whether it multiplies matrices: what a processor for neural networks is there for."""
        return self.cost > 0 or self.operator.rpartition(".")[2] in _HEAVY


@dataclass(frozen=True)
class Delegation:
    """How a graph is shared between a delegate and what runs the rest.

    Attributes:
        delegate: as targets name it.
        partitions: pieces of the graph that it took; None where it decides at load.
        inside, outside: operators that it took and left, without bookkeeping such as tuple access.
        cost_inside, cost_outside: of those, by `basis`.
        basis: what a cost is: `MULTIPLY_ACCUMULATES`, a vendor's estimate or a measurement, in words.
        fallbacks: what it left, by kind and cause, the most expensive first.

    """

    delegate: str
    partitions: int | None
    inside: int
    outside: int
    cost_inside: float
    cost_outside: float
    basis: str
    fallbacks: tuple[Fallback, ...] = ()

    def __post_init__(self) -> None:
        if self.inside < 0 or not self.cost_inside >= 0 or not self.cost_outside >= 0:
            raise ValueError(f"inside: {self.delegate} has fewer than no operators, or less than no cost")
        if sum(each.count for each in self.fallbacks) != self.outside:
            raise ValueError(f"fallbacks: they are not the {self.outside} operators outside {self.delegate}")

    @property
    def share_of_operators(self) -> float:
        """Return the share of the operators that the delegate took, 0 to 1; 1 where there are none."""
        total = self.inside + self.outside
        return self.inside / total if total else 1.0

    @property
    def share_of_cost(self) -> float:
        """Return the share of the cost that the delegate took, 0 to 1; 1 where nothing costs anything."""
        total = self.cost_inside + self.cost_outside
        return self.cost_inside / total if total else 1.0

    @property
    def fallback_share(self) -> float:
        """Return the share of the cost that was left, or of the operators where nothing costs anything."""
        return 1 - (self.share_of_cost if self.cost_inside + self.cost_outside else self.share_of_operators)

    @property
    def heavy(self) -> tuple[Fallback, ...]:
        """Return those fallbacks that multiply matrices."""
        return tuple(each for each in self.fallbacks if each.heavy)


def grouped(left: list[tuple[str, str, float]]) -> tuple[Fallback, ...]:
    """Return fallbacks of (operator, cause, cost) each, put together by operator and cause, the most expensive first."""
    groups: dict[tuple[str, str], list[float]] = {}
    for operator, cause, cost in left:
        groups.setdefault((operator, cause), []).append(cost)
    found = [Fallback(operator, len(costs), cause, sum(costs)) for (operator, cause), costs in groups.items()]
    return tuple(sorted(found, key=lambda each: (-each.cost, -each.count, each.operator, each.cause)))
