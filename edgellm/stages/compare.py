"""Compare: whether what an artifact lost against the fp32 source on labelled examples is more than noise.

The two answer the same examples, so both statistics are paired. The interval of the drop comes from resampling the examples
(see `resample`); McNemar's exact test counts those on which just one of the two is right (scipy.stats.binomtest).
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from edgellm.core.evaluation import Drop, Evaluation, Flip
from edgellm.errors import InputError
from edgellm.stages import resample
from edgellm.stages.resample import Metrics, or_zero, score
from edgellm.stages.verify import shorten

FLIPS = 20
"""Examples at most that are shown."""


def compare(
    golds: Sequence[object], source: Sequence[object], got: Sequence[object], *,
    metrics: Metrics, shown: Sequence[str], right: Callable[[object, object], bool] | None,
    show: Callable[[object], str] = str, seed: int = 0, resamples: int = 1000,
) -> Evaluation:  # fmt: skip
    """Return how an artifact does beside the fp32 source on the same labelled examples.

    Predictions that are numbers with a fraction (float), or tuples of them, are near or far, not decisions: nothing flips
    there, and nothing is right or wrong, whatever `right` says. All others are decisions, which differ by `!=`.

    A metric that is undefined (not finite) for the artifact alone, such as the correlation of one answer to everything,
    counts as 0, and is left out where it is undefined for the source, in the whole and in each resample.

    Args:
        golds: what people said, one per example.
        source: the fp32 source's predictions, in the form of the golds.
        got: the artifact's.
        metrics: scores predictions against golds. Its result must not depend on the order of the examples. It runs
            2 * `resamples` times, unless the headline's name is one that `resample` knows, which takes far less time.
        shown: the inputs, for people.
        right: whether a prediction is right, from gold and prediction; None where it is near or far.
        show: gold or prediction to text.
        seed: of the resampling; the same seed gives the same interval.
        resamples: how often.

    Raises:
        InputError: the headline metric is undefined for the source on these examples.
        ValueError: no example, or not as many of one as of the other; or the headline is not what its
            name promises (see `resample`).

    """
    n = len(golds)
    if not n or {len(source), len(got), len(shown)} != {n}:
        raise ValueError(f"{n} golds, {len(source)} and {len(got)} predictions, {len(shown)} inputs")
    decides = not all(_is_number(value) for value in (*source, *got))
    judged = right if decides else None
    before, after = score(metrics, golds, source), score(metrics, golds, got)
    headline = next(iter(before))
    ensure_defined(before, n, "the fp32 model")
    scores = {name: (value, or_zero(after[name])) for name, value in before.items() if math.isfinite(value)}
    correct = None if judged is None else _correct(judged, golds, source, got)
    flipped = [i for i in range(n) if decides and source[i] != got[i]]
    if correct is not None:
        flipped.sort(key=lambda i: not correct[i, 0] > correct[i, 1])
    flips = [Flip(shorten(shown[i]), show(golds[i]), show(source[i]), show(got[i])) for i in flipped[:FLIPS]]
    points = 100 * (scores[headline][0] - scores[headline][1])
    same = all(a is b or a == b for a, b in zip(source, got, strict=True))
    low, high = 0.0, 0.0
    if not same:
        lost = resample.lost(metrics, headline, scores[headline], correct, golds, source, got)
        low, high = resample.interval(lost, n, seed, resamples)
    return Evaluation(
        headline, n, *scores[headline], metrics=scores, drop=Drop(points, low, high), flipped=len(flipped),
        flipped_share=len(flipped) / n, mcnemar_p=None if correct is None else _mcnemar(correct), flips=tuple(flips),
    )  # fmt: skip


def ensure_defined(scores: Mapping[str, float], n: int, who: str) -> None:
    """Check that the headline metric of `n` examples is a number.

    Raises:
        InputError: it is undefined.

    """
    headline = next(iter(scores))
    if not math.isfinite(scores[headline]):
        raise InputError(
            f"{headline} is undefined for {who} on these {n} examples.",
            hint="Either the labels or the answers are all the same; give more examples, and more varied ones.",
        )


def _mcnemar(correct: NDArray[np.bool_]) -> float:
    """Return the p-value of the exact McNemar test: of the examples that one alone gets right, each gets half."""
    from scipy.stats import binomtest

    worse, better = int((correct[:, 0] > correct[:, 1]).sum()), int((correct[:, 0] < correct[:, 1]).sum())
    return float(binomtest(worse, worse + better).pvalue) if worse + better else 1.0


def _correct(
    right: Callable[[object, object], bool], golds: Sequence[object], source: Sequence[object], got: Sequence[object]
) -> NDArray[np.bool_]:
    """Return [n, 2]: whether the source is right, and whether the artifact is."""
    return np.array([(right(g, s), right(g, a)) for g, s, a in zip(golds, source, got, strict=True)], dtype=np.bool_)


def _is_number(value: object) -> bool:
    """Tell whether a prediction is a number with a fraction, or some of them; a whole one may be a class."""
    if isinstance(value, (list, tuple)):
        return bool(value) and all(map(_is_number, value))
    return isinstance(value, numbers.Real) and not isinstance(value, numbers.Integral)
