"""What a search for each layer's precision is bound by, and what it found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgellm.core.evaluation import Drop

MINIMIZED: dict[str, str] = {
    "size": "bytes of the artifact",
    "latency": "time of one inference, measured on this machine beside the base",
    "instructions": "instructions of one inference, counted on an emulated CPU beside the base",
    "estimate": "time of one inference on an NPU as its compiler estimates it, beside the base: nothing was measured",
}
"""What `--minimize` takes, and what it is."""


@dataclass(frozen=True)
class Bounds:
    """What a point has to keep to.

    Attributes:
        max_drop: points that may be lost against the fp32 source on the texts that choose.
        max_size: bytes of the artifact; None for no bound.
        max_cost: time, instructions or estimate of one inference, as a part of the base's; None for no bound.

    """

    max_drop: float
    max_size: int | None = None
    max_cost: float | None = None

    def excess(self, drop: float, size: int, cost: float | None) -> dict[str, float]:
        """Return by how much each bound is broken: points, or a share of the bound; 0 or less where it is kept.

        Args:
            drop: points lost.
            size: bytes.
            cost: part of the base's; None where it was not measured.

        """
        found = {"drop": drop - self.max_drop}
        if self.max_size is not None:
            found["size"] = size / self.max_size - 1
        if self.max_cost is not None and cost is not None:
            found["cost"] = cost / self.max_cost - 1
        return found


@dataclass(frozen=True)
class Group:
    """Layers that have one scheme between them.

    Attributes:
        name: their kind, and the blocks that they are in: "ffn-out 2-3".
        layers: names of modules.
        weights: of all of them.
        noise: power of what the coarsest scheme does to the model's outputs, as a part of the outputs' own, in a simulation in
            which nothing else is quantized; summed over the layers. None where it can't be observed.
        choices: schemes that they may have.

    """

    name: str
    layers: tuple[str, ...]
    weights: int
    noise: float | None
    choices: tuple[str, ...]


@dataclass(frozen=True)
class Point:
    """One trial that came to its end: an artifact that was lowered and run.

    Attributes:
        number: of the trial in the study.
        origin: what it was tried for, of a seed; empty where the sampler chose it.
        schemes: group to scheme.
        drop: what it lost against the fp32 source on the texts that choose, in points.
        bytes: of the artifact.
        cost: time, instructions or estimate of one inference, as a part of the base's; None where not measured.
        golden: agreement on the golden cases, which chooses nothing.
        broken: the bounds it does not keep: bound to the excess (see `Bounds.excess`).

    """

    number: int
    origin: str
    schemes: Mapping[str, str]
    drop: Drop
    bytes: int
    cost: float | None
    golden: float
    broken: Mapping[str, float]

    @property
    def feasible(self) -> bool:
        """Whether it keeps every bound."""
        return not self.broken

    def objectives(self, minimize: str) -> tuple[float, float]:
        """Return points lost, and what is minimized."""
        return self.drop.points, float(self.bytes if minimize == "size" or self.cost is None else self.cost)


@dataclass(frozen=True)
class Failure:
    """A trial that ended in an error: a mixture that can't be lowered, for example."""

    number: int
    error: str


@dataclass(frozen=True)
class Confirmed:
    """The chosen point, and the base beside it, on texts that chose nothing, measured once at the end.

    Attributes:
        data: where the texts are from.
        n: how many.
        metric: what is lost.
        source: the fp32 source's score; None where agreement with it is the metric.
        chosen: what the chosen point lost, in points.
        uniform: what the base lost.

    """

    data: str
    n: int
    metric: str
    source: float | None
    chosen: Drop
    uniform: Drop


@dataclass(frozen=True)
class Front:
    """What a search found.

    Attributes:
        model: name of the source.
        model_sha256: of it.
        target, format: what artifacts are for.
        base: scheme of what everything is compared with, in all layers.
        minimize: a key of `MINIMIZED`.
        measured_on: what the cost was measured on, and at which lengths; empty where only size counts.
        bounds: what a point has to keep to.
        metric: what a drop is of.
        chose_on: the texts that chose, in words.
        n: how many they are.
        seed: of the sampler.
        groups: the search space, in the order of sensitivity: first what loses least for each weight.
        points: every trial that came to its end, by number.
        failures: those that did not.
        front: numbers of the points within the bounds on size and cost that no other betters in both points lost and what is
            minimized, cheapest first.
        uniform: number of the base.
        chosen: number of the cheapest point within all bounds; None where there is none.
        gain: part of what is minimized that the chosen point saves against the base, 0 to 1.
        confirmed: the chosen point on other texts.
        command: that builds it.

    """

    model: str
    model_sha256: str
    target: str
    format: str
    base: str
    minimize: str
    measured_on: str
    bounds: Bounds
    metric: str
    chose_on: str
    n: int
    seed: int
    groups: tuple[Group, ...]
    points: tuple[Point, ...]
    failures: tuple[Failure, ...]
    front: tuple[int, ...]
    uniform: int | None
    chosen: int | None
    gain: float | None
    confirmed: Confirmed | None
    command: str

    def point(self, number: int) -> Point:
        """Return the point of a trial."""
        return next(point for point in self.points if point.number == number)
