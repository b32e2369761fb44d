"""Speed: the latency of a model and of what was left of it, built alike and run in turns on this machine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from edgellm.benchmark import bench
from edgellm.core.prune import Speed
from edgellm.device.host import Host
from edgellm.errors import UsageError
from edgellm.pipeline import build
from edgellm.runtime.machine import machine
from edgellm.stages.plan import DEFAULT_LENGTHS
from edgellm.stages.source import SourceModel
from edgellm.targets import load_target, target_names
from edgellm.tasks import load_task

RUNS = 60
"""Timed runs of each artifact at each length, in blocks that take turns."""

BEFORE, AFTER = "source", "pruned"


def measure_speed(
    source: SourceModel, pruned: Path, *, formats: Sequence[str], scheme: str, max_tokens: int, work: Path
) -> Speed:
    """Build both models for this machine and measure them side by side.

    Args:
        source: the whole model.
        pruned: folder of the smaller one.
        formats: which; all that this machine's target takes if empty.
        scheme: of both.
        max_tokens: the longest text that is timed; the usual lengths below it are, too.
        work: folder for the bundles.

    Raises:
        UsageError: no target is this machine, or it takes no such format or scheme.
        EdgellmError: see `build` and `bench`.

    """
    target = host_target()
    pooling = source.options.pooling if source.task == "feature-extraction" else None
    assert source.folder is not None
    min_exact = None if load_task(source.task).EXACT is None else 0.0
    lengths = [*(length for length in DEFAULT_LENGTHS if length < max_tokens), max_tokens]
    bundles = [
        build(
            folder, target=target, formats=formats, scheme=scheme, task=source.task, pooling=pooling,
            tokenizer=source.tokenizer, min_agreement=0.0, min_exact=min_exact, seq_len=lengths,
            out=work / f"{name}-bundle",
        )
        for name, folder in ((BEFORE, source.folder), (AFTER, pruned))
    ]  # fmt: skip
    measured = bench(bundles, Host(), runs=RUNS, names=(BEFORE, AFTER))
    first, second = (tuple(r for r in measured.records if r.id.startswith(f"{name} ")) for name in (BEFORE, AFTER))
    ratios: dict[str, list[float]] = {}
    for before, after in zip(first, second, strict=True):
        ratios.setdefault(before.format, []).append(math.log(after.p50_ms / before.p50_ms))
    return Speed(
        f"{machine()}, one thread, median of {RUNS} runs", scheme, first, second,
        {fmt: round(math.exp(math.fsum(each) / len(each)), 4) for fmt, each in ratios.items()},
    )  # fmt: skip


def host_target() -> str:
    """Return the name of the target that this machine is.

    Raises:
        UsageError: there is none.

    """
    arch = machine().arch
    for name in target_names():
        target = load_target(name)
        if name == f"linux-{arch}" or (name.startswith("linux-") and target.arch == arch and target.npu is None):
            return name
    raise UsageError(f"edgellm has no target for {arch}, so nothing can be timed here.", hint="Use --no-measure.")
