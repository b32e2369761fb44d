"""Latency of one artifact at one length, as measured on a device."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Latency:
    """What `bench` reports for one artifact and one length. Times are in milliseconds.

    Attributes:
        id: the artifact.
        format: its format.
        tokens: length of the text, special tokens included.
        threads: threads the engine was given.
        runs: timed runs, warm-up excluded.
        load_ms: opening the artifact; importing the engine and checking the hash are not in it.
        first_ms: the first inference at this length.
        tokenize_ms: median time from text to ids.
        p50_ms, p90_ms: percentiles of one inference (linear interpolation).
        p99_ms: None under 100 runs, which can't resolve it.
        mean_ms: mean of one inference.
        cpu_ms: mean processor time of one inference, over all threads.
        peak_rss_mb: largest resident memory of the worker so far, in 10^6 bytes.

    """

    id: str
    format: str
    tokens: int
    threads: int
    runs: int
    load_ms: float
    first_ms: float
    tokenize_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float | None
    mean_ms: float
    cpu_ms: float
    peak_rss_mb: float


RUNS_FOR_P99 = 100


def percentile(samples: Sequence[float], q: float) -> float:
    """Return the q-th percentile (0-100) by linear interpolation between closest ranks.

    This is definition 7 of Hyndman and Fan (1996), NumPy's default.
    """
    if not samples:
        raise ValueError("no samples")
    ordered = sorted(samples)
    position = (len(ordered) - 1) * q / 100
    low, high = math.floor(position), math.ceil(position)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)
