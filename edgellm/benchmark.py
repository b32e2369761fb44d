"""Bench: latency of a bundle's artifacts on a device, interleaved so that they meet the same machine.

Every artifact runs in a worker of its own. The parent takes turns between them in blocks: one untimed run that brings
the artifact's own data back into the caches, then a few timed ones. The order of the turns alternates.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from edgellm.core import strict
from edgellm.core.latency import RUNS_FOR_P99, Latency, percentile
from edgellm.core.manifest import Artifact
from edgellm.core.signature import Feeds, Signature
from edgellm.device import Device
from edgellm.errors import InputError, UsageError
from edgellm.runtime import engines
from edgellm.runtime.bundle import TOKENIZER, Bundle
from edgellm.runtime.client import WorkerClient
from edgellm.runtime.machine import Machine
from edgellm.runtime.session import to_feeds
from edgellm.runtime.tokenizer import Tokenizer
from edgellm.tasks import load_task
from edgellm.texts import default_texts

DEFAULT_RUNS = 100
DEFAULT_WARMUP = 5
_BLOCK = 5
"""Timed runs per turn."""


@dataclass(frozen=True)
class Benchmark:
    """What was measured, and on what.

    Attributes:
        machine: the device's own account of itself.
        engines: artifact id to engine and version.
        records: one per artifact and length.

    """

    machine: Machine
    engines: dict[str, str]
    records: tuple[Latency, ...]


def bench(
    bundles: Bundle | Sequence[Bundle],
    device: Device,
    *,
    formats: Sequence[str] = (),
    threads: int = 1,
    runs: int = DEFAULT_RUNS,
    warmup: int = DEFAULT_WARMUP,
    tokens: Sequence[int] = (),
    names: Sequence[str] = (),
) -> Benchmark:
    """Measure latency.

    Args:
        bundles: one to measure, or several to measure side by side.
        device: where they run.
        formats: which; all of the bundles' if empty.
        threads: of each engine.
        runs: timed runs of each artifact at each length.
        warmup: runs before the first timed one.
        tokens: lengths of the text, special tokens included; if empty, the buckets up to max_tokens.
        names: of the bundles, where they are of different models: each id of a record begins with its bundle's.

    Raises:
        UsageError: the device is emulated, a number is out of range, or a bundle has no such format.
        EdgellmError: see `WorkerClient.request`.

    """
    if device.emulated:
        raise UsageError(f"{device.name} is an emulator and has no latency; its instructions can be counted.")
    if runs < 1 or warmup < 0 or threads < 1:
        raise UsageError("--runs and --threads are 1 or more, --warmup is 0 or more.")
    several = [bundles] if isinstance(bundles, Bundle) else list(bundles)
    chosen = choose(several, formats) if not names else [pair for each in several for pair in choose([each], formats)]
    pairs = [(b, a) for b, a in chosen if engines.can_run(a) and not engines.emulates(a)]
    missing = sorted({fmt for fmt in formats if fmt not in {a.format for _, a in pairs} | {a.id for _, a in pairs}})
    if missing or not pairs:
        raise UsageError(
            f"{' and '.join(missing) or 'Nothing in the bundle'} is not run by the hardware that it is for on this machine, "
            "so it has no latency here.",
            hint="Measure it on the device.",
        )
    lengths = lengths_of(several, tokens)
    for bundle in several:
        bundle.use_all()
    texts = {id(bundle): Text(bundle) for bundle in several}
    own = [artifact.id for _, artifact in pairs]
    if names:
        of = {id(bundle): name for bundle, name in zip(several, names, strict=True)}
        pairs = [(b, dataclasses.replace(a, id=f"{of[id(b)]} {a.id}")) for b, a in pairs]
    with ExitStack() as stack:
        workers = []
        opened = {}
        # One after the other, so that loading is not timed against another's.
        for name, (bundle, artifact) in zip(own, pairs, strict=True):
            worker = stack.enter_context(device.start(artifact.format))
            path = device.push(bundle.path)
            opened[artifact.id] = worker.request("open", bundle=path, artifact=name, threads=threads)
            workers.append((artifact, worker))
        records = []
        for length in lengths:
            requests = {a.id: {"input": texts[id(b)].of(length), "max_tokens": length} for b, a in pairs}
            records += _measure(workers, requests, length, opened, threads, runs, warmup)
    first = next(iter(opened.values()))
    order = {artifact.id: i for i, (_, artifact) in enumerate(pairs)}
    return Benchmark(
        machine=strict.read(Machine, first["machine"], "machine"),
        engines={name: str(reply["engine"]) for name, reply in opened.items()},
        records=tuple(sorted(records, key=lambda r: (order[r.id], r.tokens))),
    )


def choose(bundles: Sequence[Bundle], formats: Sequence[str]) -> list[tuple[Bundle, Artifact]]:
    """Return the artifacts to measure, each with its bundle.

    Raises:
        UsageError: a bundle has no such format, or two have artifacts that a table could not tell apart.

    """
    pairs = [
        (bundle, artifact)
        for bundle in bundles
        for artifact in {a.id: a for a in map(bundle.artifact, formats)}.values() or bundle.manifest.artifacts
    ]
    ids = [artifact.id for _, artifact in pairs]
    twice = sorted({name for name in ids if ids.count(name) > 1})
    if twice:
        raise UsageError(
            f"Two of the bundles hold {twice[0]}, and a table could not tell them apart.",
            hint="Measure them one by one.",
        )
    return pairs


def lengths_of(bundles: Sequence[Bundle], tokens: Sequence[int]) -> list[int]:
    """Return the lengths to measure, ascending: those asked for, or the buckets of a static artifact, or 16 and the longest.

    Of the latter, those are left out that the task fills with what it puts around a text, as zero-shot-classification may.

    Raises:
        UsageError: one is shorter than a text of one word, or longer than a bundle takes.

    """
    limit = min(bundle.manifest.max_tokens for bundle in bundles)
    buckets = {n for b in bundles for a in b.manifest.artifacts for n in a.signature.buckets if n <= limit}
    own = sorted(buckets) or sorted({min(16, limit), limit})
    texts = [] if tokens else [Text(bundle) for bundle in bundles]
    lengths = sorted(set(tokens)) or [n for n in own if n == limit or all(text.fits(n) for text in texts)]
    if lengths[0] < 3 or lengths[-1] > limit:
        raise UsageError(f"--tokens goes from 3 to the bundle's {limit}.")
    return lengths


def _measure(
    workers: list[tuple[Artifact, WorkerClient]], requests: dict[str, dict[str, object]], length: int,
    opened: dict[str, dict[str, Any]], threads: int, runs: int, warmup: int,
) -> list[Latency]:  # fmt: skip
    """Return one record per artifact at one length."""
    first = {a.id: w.request("time", **requests[a.id], runs=1)["inference_ms"][0] for a, w in workers}
    samples: dict[str, dict[str, list[float]]] = {a.id: {"inference_ms": [], "tokenize_ms": []} for a, _ in workers}
    cpu = dict.fromkeys(samples, 0.0)
    rss = dict.fromkeys(samples, 0.0)
    counted = dict.fromkeys(samples, 0)
    for artifact, worker in workers:
        worker.request("time", **requests[artifact.id], warmup=warmup, runs=0)
    turn = 0
    while counted[workers[0][0].id] < runs:
        block = min(_BLOCK, runs - counted[workers[0][0].id])
        for artifact, worker in workers if turn % 2 == 0 else reversed(workers):
            reply = worker.request("time", **requests[artifact.id], warmup=1, runs=block)
            for name, column in samples[artifact.id].items():
                column += reply[name]
            cpu[artifact.id] += reply["cpu_ms"]
            rss[artifact.id] = max(rss[artifact.id], reply["peak_rss_mb"])
            counted[artifact.id] += block
        turn += 1
    return [
        _record(a, length, threads, opened[a.id]["load_ms"], first[a.id], samples[a.id], cpu[a.id], rss[a.id])
        for a, _ in workers
    ]


def _record(
    artifact: Artifact, length: int, threads: int, load: float, first: float, samples: dict[str, list[float]],
    cpu: float, rss: float,
) -> Latency:  # fmt: skip
    times = samples["inference_ms"]
    runs = len(times)
    return Latency(
        id=artifact.id,
        format=artifact.format,
        tokens=length,
        threads=threads,
        runs=runs,
        load_ms=round(load, 3),
        first_ms=round(first, 3),
        tokenize_ms=round(statistics.median(samples["tokenize_ms"]), 4),
        p50_ms=round(percentile(times, 50), 4),
        p90_ms=round(percentile(times, 90), 4),
        p99_ms=round(percentile(times, 99), 4) if runs >= RUNS_FOR_P99 else None,
        mean_ms=round(statistics.fmean(times), 4),
        cpu_ms=round(cpu / runs, 4),
        peak_rss_mb=round(rss, 1),
    )


class Text:
    """A real input of a given number of tokens."""

    def __init__(self, bundle: Bundle) -> None:
        self._words = default_texts("bench")[0].split(" ")
        self._tokenizer = Tokenizer(bundle.use(TOKENIZER), bundle.manifest.max_tokens)
        self._name = bundle.manifest.task
        self._task = load_task(self._name)
        self._options = bundle.manifest.task_options

    def of(self, tokens: int) -> object:
        """Return the shortest input whose first pass fills `tokens` once it is cut there, so that little is tokenized in vain.

        Raises:
            UsageError: the prose is too short, or what the task puts around it too long.

        """
        low, high = 1, len(self._words)
        while low < high:
            middle = (low + high) // 2
            if self._tokens(middle, tokens) >= tokens:
                high = middle
            else:
                low = middle + 1
        found = self._tokens(low, tokens)
        if found < tokens:
            raise UsageError(f"The text of the benchmark has {found} tokens, fewer than {tokens}.")
        return self._input(low)

    def fits(self, tokens: int) -> bool:
        """Tell whether a word of text has room beside what the task puts around it."""
        try:
            return self._tokens(1, tokens) > 0
        except UsageError:
            return False

    def feeds(self, tokens: int, signature: Signature) -> Feeds:
        """Return the feeds of that input's first pass."""
        limited = self._tokenizer.limited(tokens)
        return to_feeds(self._task.encode(self.of(tokens), limited, self._options)[0], signature)

    def _input(self, words: int) -> object:
        return self._task.bench(" ".join(self._words[:words]), self._options)

    def _tokens(self, words: int, limit: int) -> int:
        try:
            encodings = self._task.encode(self._input(words), self._tokenizer.limited(limit), self._options)
        except InputError as error:
            raise UsageError(f"{limit} tokens are too few for {self._name}: {error}") from None
        return len(encodings[0].ids)
