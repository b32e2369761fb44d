"""How close an artifact comes to the fp32 source model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Agreement:
    """Agreement of one artifact with the fp32 source over golden cases.

    Attributes:
        metric: what was compared per case, for example "cosine similarity".
        mean: over all cases, 1 is perfect.
        min: of the worst case.
        n: number of cases.
        worst: the raw text of the worst case.
        device: what ran the artifact.
        exact: share of cases whose answer is the source's to the letter; None where answers are not texts.

    """

    metric: str
    mean: float
    min: float
    n: int
    worst: str
    device: str
    exact: float | None = None

    def __str__(self) -> str:
        letter = "" if self.exact is None else f", {self.exact:.4f} to the letter"
        return f"{self.mean:.4f} (mean {self.metric} of {self.n} texts, min {self.min:.4f}{letter}, {self.device})"

    def falls_short(self, least: float, least_exact: float | None) -> str:
        """Return by what it is below a gate, in words, or nothing."""
        if not self.mean >= least:
            return f"by {self.mean:.4f} (mean {self.metric} of {self.n} texts; the gate is {least:g})"
        if self.exact is not None and least_exact is not None and not self.exact >= least_exact:
            return f"to the letter on {self.exact:.4f} of {self.n} texts (the gate is {least_exact:g})"
        return ""


@dataclass(frozen=True)
class AgreementMatrix:
    """Mean pairwise agreement between the fp32 source and every artifact.

    Attributes:
        names: "source" first, then artifact ids.
        values: symmetric, values[i][j] between names[i] and names[j].

    """

    names: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]

    def odd_one_out(self) -> str:
        """Return the name whose mean agreement with all the others is lowest: an artifact, or "source".

        Raises:
            ValueError: fewer than three are compared, so that none is odd.

        """
        if len(self.names) < 3:
            raise ValueError("an odd one out takes three to compare")
        means = [(sum(row) - row[i]) / (len(row) - 1) for i, row in enumerate(self.values)]
        return self.names[means.index(min(means))]


def summarize(
    scores: Sequence[float], texts: Sequence[str], *, metric: str, device: str, exact: bool = False
) -> Agreement:
    """Return the agreement of per-case `scores` (1 is perfect), naming the worst text; with `exact`, how many are 1."""
    if not scores or len(scores) != len(texts):
        raise ValueError(f"{len(scores)} scores for {len(texts)} texts")
    worst = min(range(len(scores)), key=lambda i: scores[i])
    return Agreement(
        metric=metric,
        mean=sum(scores) / len(scores),
        min=scores[worst],
        n=len(scores),
        worst=texts[worst],
        device=device,
        exact=sum(score == 1.0 for score in scores) / len(scores) if exact else None,
    )
