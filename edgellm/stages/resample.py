"""Resample: the confidence interval of what an artifact lost, from drawing the same examples for both models again and again.

scipy.stats.bootstrap draws, and the percentiles of the drop are the bounds. Percentiles and not BCa: a jackknife would score
everything n times more, and it has no answer where few examples differ, which is the common case.
"""

from __future__ import annotations

import math
import numbers
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

Metrics = Callable[[Sequence[object], Sequence[object]], dict[str, float]]
"""From golds and predictions to the score of each metric by name, 1 is perfect; the first is the headline."""

SHARES = frozenset({"accuracy", "exact accuracy", "exact match"})
"""Names that only a metric may have which is the share of right examples: it is resampled as a mean."""
MEANS = frozenset({"MRR", "SQuAD F1", "nDCG"})
"""Names that only a metric may have which is the mean of what it is for each example alone: it is resampled as that mean."""
ENTITY_F1 = "entity F1"
"""Name that only seqeval's F1 of entities over all examples may have: it is resampled from the counts of each example."""
MACRO_F1 = "macro-F1"
"""Name that, where predictions are single classes, only the mean of F1 over the classes that occur may have: it is resampled
from counts."""

_CONFIDENCE = (0.025, 0.975)
_BATCH = 2**22
"""Indices that are drawn at a time, 32 MB."""

Statistic = Callable[[NDArray[np.int64]], NDArray[np.float64]]
"""From indices of examples [resamples, n] to the drop of each resample, not in points; NaN where it is undefined."""


def lost(
    metrics: Metrics, headline: str, scores: tuple[float, float], correct: NDArray[np.bool_] | None,
    golds: Sequence[object], source: Sequence[object], got: Sequence[object],
) -> Statistic:  # fmt: skip
    """Return the statistic of a headline metric; all ways give the same drops, the last in the most time.

    Args:
        metrics: scores predictions.
        headline: name of the metric.
        scores: of source and artifact on all examples.
        correct: [n, 2], whether source and artifact are right; None where nothing is right or wrong.
        golds, source, got: what people said and both models predict.

    Raises:
        ValueError: a headline's name promises what its scores don't hold.

    """
    if headline in SHARES and correct is not None:
        return _lost_mean(headline, scores, correct.astype(np.float64))
    if headline in MEANS:
        rows = zip(golds, source, got, strict=True)
        alone = [[score(metrics, (gold,), (one,))[headline] for one in answers] for gold, *answers in rows]
        return _lost_mean(headline, scores, np.array(alone))
    if headline == ENTITY_F1:
        return _lost_entities(scores, golds, source, got)
    if headline == MACRO_F1 and all(isinstance(value, (str, numbers.Integral)) for value in (*golds, *source, *got)):
        return _lost_f1(scores, golds, source, got)
    return _lost(metrics, headline, golds, source, got)


def _lost_mean(name: str, scores: tuple[float, float], alone: NDArray[np.float64]) -> Statistic:
    """Return the statistic of a metric that is a mean over examples, from the scores of each alone, [n, 2]."""
    if not np.allclose(scores, alone.mean(axis=0), rtol=0, atol=1e-9):
        raise ValueError(f"{name} is {scores}, and the mean over the examples {alone.mean(axis=0)}")
    lost = alone[:, 0] - alone[:, 1]
    return lambda drawn: lost[drawn].mean(axis=-1)


def _lost_entities(
    scores: tuple[float, float], golds: Sequence[object], source: Sequence[object], got: Sequence[object]
) -> Statistic:
    """Return the statistic of F1 over entities, from how many of each example are right, there, and predicted."""
    from edgellm.tasks import _entities

    tags = [[cast("Sequence[str]", part) for part in row] for row in zip(golds, source, got, strict=True)]
    found = np.array([[_entities.counts(gold, one) for one in answers] for gold, *answers in tags])  # [n, 2, 3]

    def f1(counts: NDArray[np.int64]) -> NDArray[np.float64]:
        both, there = counts[..., 0], counts[..., 1] + counts[..., 2]
        return np.divide(2.0 * both, there, out=np.zeros(both.shape), where=there > 0)

    whole = f1(found.sum(axis=0))
    if not np.allclose(scores, whole, rtol=0, atol=1e-9):
        raise ValueError(f"{ENTITY_F1} is {scores}, and {whole} from counts")

    def lost(drawn: NDArray[np.int64]) -> NDArray[np.float64]:
        each = f1(np.stack([found[row].sum(axis=0) for row in drawn]))
        return each[:, 0] - each[:, 1]

    return lost


def _lost(
    metrics: Metrics, headline: str, golds: Sequence[object], source: Sequence[object], got: Sequence[object]
) -> Statistic:
    """Return the statistic of any metric, which scores each resample anew."""

    def one(row: NDArray[np.int64]) -> float:
        drawn = row.tolist()
        expected, first, second = ([values[i] for i in drawn] for values in (golds, source, got))
        before = score(metrics, expected, first)[headline]
        if not math.isfinite(before):
            return math.nan
        return before - or_zero(score(metrics, expected, second)[headline])

    return lambda drawn: np.array([one(row) for row in drawn])


def _lost_f1(
    scores: tuple[float, float], golds: Sequence[object], source: Sequence[object], got: Sequence[object]
) -> Statistic:
    """Return the statistic of macro-F1 over classes: scikit-learn's, of distinct examples weighed by how often they are drawn."""
    from sklearn import config_context
    from sklearn.metrics import f1_score

    code = {name: i for i, name in enumerate(dict.fromkeys([*golds, *source, *got]))}
    every = np.array([[code[value] for value in row] for row in zip(golds, source, got, strict=True)])
    kinds, kind = np.unique(every, axis=0, return_inverse=True)

    def both(row: NDArray[np.int64]) -> list[float]:
        counts = np.bincount(kind[row], minlength=len(kinds))
        # A class that is not drawn is no class of the resample.
        drawn, weights = kinds[counts > 0], counts[counts > 0]
        return [
            float(f1_score(drawn[:, 0], drawn[:, i], sample_weight=weights, average="macro", zero_division=0))
            for i in (1, 2)
        ]

    def lost(drawn: NDArray[np.int64]) -> NDArray[np.float64]:
        with config_context(skip_parameter_validation=True):
            return np.array([first - second for first, second in map(both, drawn)])

    whole = both(np.arange(len(golds)))
    if not np.allclose(scores, whole, rtol=0, atol=1e-9):
        raise ValueError(f"{MACRO_F1} is {scores}, and {whole} over the classes that occur")
    return lost


def interval(statistic: Statistic, n: int, seed: int, resamples: int) -> tuple[float, float]:
    """Return the bounds of the 95 % interval of the drop, in points, of `n` examples."""
    if n == 1:
        # Every resample would be the same example, and the interval a point: it would claim to be sure.
        return -100.0, 100.0
    from scipy.stats import bootstrap

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an interval that is NaN as some resamples are; the one below passes over them
        result = bootstrap(
            (np.arange(n),),
            lambda drawn, axis: statistic(np.atleast_2d(drawn).astype(np.int64, copy=False)),
            vectorized=True, n_resamples=resamples, batch=max(1, min(resamples, _BATCH // n)), method="percentile",
            rng=np.random.default_rng(seed),
        )  # fmt: skip
    drops = result.bootstrap_distribution
    low, high = np.quantile(drops[np.isfinite(drops)], _CONFIDENCE)
    return 100 * float(low), 100 * float(high)


def score(metrics: Metrics, golds: Sequence[object], predictions: Sequence[object]) -> Mapping[str, float]:
    """Return the score of each metric, NaN where it is undefined, without a warning."""
    with warnings.catch_warnings():
        # Libraries warn where a metric is undefined; that is told from the score here.
        warnings.simplefilter("ignore")
        return metrics(golds, predictions)


def or_zero(value: float) -> float:
    """Return a score, or 0 for one that is undefined: an artifact whose answers are all the same has learnt nothing."""
    return value if math.isfinite(value) else 0.0
