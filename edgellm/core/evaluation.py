"""How well an artifact does on labelled examples, beside the fp32 source on the same ones."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Drop:
    """How much of a metric an artifact lost against the fp32 source on the same examples, in points (hundredths).

    Attributes:
        points: 100 * (source - value); positive is worse.
        low: lower bound of the 95 % paired bootstrap confidence interval, in points.
        high: upper bound.

    """

    points: float
    low: float
    high: float

    @property
    def real(self) -> bool:
        """Whether the interval lies above 0: other examples of the same kind would show a loss too."""
        return self.low > 0

    def __str__(self) -> str:
        verdict = "a real loss" if self.real else "a real gain" if self.high < 0 else "may be noise"
        # Taken from 0, so that no change is no "-0.0".
        change, least, most = (0.0 - value for value in (self.points, self.high, self.low))
        return f"{change:+.1f} points, 95 % interval {least:+.1f} to {most:+.1f}, {verdict}"


@dataclass(frozen=True)
class Flip:
    """An example whose decision differs.

    Attributes:
        input: what was decided about, shortened.
        expected: what people said.
        source: the fp32 source's decision.
        got: the artifact's.

    """

    input: str
    expected: str
    source: str
    got: str


@dataclass(frozen=True)
class Evaluation:
    """The task's own metrics on labelled examples, fp32 source against artifact.

    Attributes:
        metric: name of the headline metric, for example "accuracy".
        n: labelled examples.
        source: the fp32 source model's score, as the metric gives it: 1 is perfect.
        value: the artifact's score on the same examples.
        metrics: every metric of the task, the headline first: name to (source, value).
        drop: what the headline metric lost, and whether that is noise.
        flipped: decisions that differ from the source's; 0 where predictions are numbers, which decide nothing.
        flipped_share: that of all examples, 0 to 1.
        mcnemar_p: of the exact McNemar test, two-sided: how likely so uneven a count of examples that became wrong and
            that became right is where neither model is better; None where examples are not right or wrong.
        flips: some of the decisions that differ, those that became wrong first.

    """

    metric: str
    n: int
    source: float
    value: float
    metrics: dict[str, tuple[float, float]]
    drop: Drop
    flipped: int
    flipped_share: float
    mcnemar_p: float | None
    flips: tuple[Flip, ...]
