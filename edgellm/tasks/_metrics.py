"""Metrics that several tasks share, from scikit-learn and SciPy."""

from __future__ import annotations

from collections.abc import Sequence

from edgellm.errors import InputError


def of_labels(golds: Sequence[object], predictions: Sequence[object]) -> dict[str, float]:
    """Return accuracy and macro-F1 of one label each."""
    from sklearn.metrics import accuracy_score, f1_score

    return {
        "accuracy": float(accuracy_score(golds, predictions)),
        "macro-F1": float(f1_score(golds, predictions, average="macro", zero_division=0)),
    }


def of_numbers(golds: Sequence[object], predictions: Sequence[object]) -> dict[str, float]:
    """Return the rank correlation and the linear one; not a number where one side is constant.

    Raises:
        InputError: there is but one example.

    """
    from scipy.stats import pearsonr, spearmanr

    if len(golds) < 2:
        raise InputError("A correlation takes two examples or more.")
    return {
        "spearman": float(spearmanr(golds, predictions).statistic),
        "pearson": float(pearsonr(golds, predictions).statistic),
    }
