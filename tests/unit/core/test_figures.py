"""Percentiles, agreement and lengths: the numbers that users read."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgellm.core.agreement import AgreementMatrix, summarize
from edgellm.core.latency import percentile
from edgellm.core.signature import InputSpec, OutputSpec, Signature

TIMES = st.lists(st.floats(0, 1e6, allow_subnormal=False), min_size=1, max_size=60)


@settings(max_examples=100, deadline=None)
@given(TIMES, st.floats(0, 100))
def test_percentile_is_numpys(samples: list[float], q: float) -> None:
    assert percentile(samples, q) == pytest.approx(float(np.percentile(samples, q)), rel=1e-9, abs=1e-9)


def test_percentile_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="no samples"):
        percentile([], 50)


def test_summarize_names_the_worst_text() -> None:
    agreement = summarize([1.0, 0.25, 0.75], ["a", "b", "c"], metric="cosine", device="host")
    assert (agreement.mean, agreement.min, agreement.worst, agreement.n) == (2 / 3, 0.25, "b", 3)
    assert str(agreement) == "0.6667 (mean cosine of 3 texts, min 0.2500, host)"


@pytest.mark.parametrize(("scores", "texts"), [([], []), ([1.0], []), ([1.0], ["a", "b"])])
def test_summarize_refuses_scores_that_do_not_belong_to_the_texts(scores: list[float], texts: list[str]) -> None:
    with pytest.raises(ValueError, match="scores for"):
        summarize(scores, texts, metric="m", device="d")


@pytest.mark.parametrize("odd", range(4))
def test_the_odd_one_out_disagrees_with_all_the_others_and_may_be_the_source(odd: int) -> None:
    values = [[1.0 if i == j else 0.5 if odd in (i, j) else 0.99 for j in range(4)] for i in range(4)]
    names = ("source", "a", "b", "c")
    assert AgreementMatrix(names, tuple(map(tuple, values))).odd_one_out() == names[odd]


def test_its_agreement_with_itself_makes_nobody_even() -> None:
    values = ((0.0, 0.9, 0.9), (0.9, 1.0, 0.8), (0.9, 0.8, 1.0))  # a diagonal below 1: a source that gives NaN
    assert AgreementMatrix(("source", "a", "b"), values).odd_one_out() in ("a", "b")


@pytest.mark.parametrize("names", [("source",), ("source", "onnx")])
def test_of_two_none_is_odd(names: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="takes three to compare"):
        AgreementMatrix(names, ((1.0,) * len(names),) * len(names)).odd_one_out()


@pytest.mark.parametrize(
    ("buckets", "min_tokens", "tokens", "runs_at"),
    [((), 2, 1, 2), ((), 2, 77, 77), ((16, 32), 1, 1, 16), ((16, 32), 1, 16, 16), ((16, 32), 1, 17, 32)],
)
def test_a_text_runs_at_the_smallest_length_that_fits(
    buckets: tuple[int, ...], min_tokens: int, tokens: int, runs_at: int
) -> None:
    assert _signature(buckets, min_tokens).tokens_for(tokens) == runs_at


def test_a_text_beyond_the_longest_bucket_does_not_run() -> None:
    with pytest.raises(ValueError, match="33 tokens do not fit"):
        _signature((16, 32), 1).tokens_for(33)


def _signature(buckets: tuple[int, ...], min_tokens: int) -> Signature:
    inputs = (InputSpec("input_ids", "int64", (1, "tokens"), 9, 0),)
    return Signature(inputs, (OutputSpec("y", "float32", (1, 2)),), buckets, min_tokens)
