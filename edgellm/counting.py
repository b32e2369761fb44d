"""Count: instructions of one inference on emulated CPUs. The sibling of `edgellm.benchmark` where time means nothing.

The worker reads its request, runs, and answers; the counter is read while it waits for the next request. The difference
between a long and a short block of runs leaves reading, answering and everything else that is not an inference out.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from edgellm.benchmark import Text, choose, lengths_of
from edgellm.core.instructions import InstructionCount
from edgellm.core.manifest import Artifact
from edgellm.device import Device
from edgellm.errors import UsageError
from edgellm.runtime.bundle import Bundle, to_json
from edgellm.runtime.machine import cores

DEFAULT_RUNS = 2
_WARMUP = 2
"""Engines pack weights and choose kernels in the first run, and settle their memory in the second."""


@dataclass(frozen=True)
class Counted:
    """What was counted, and by what.

    Attributes:
        engines: device name and artifact id to engine and version.
        records: one per device, artifact and length.

    """

    engines: dict[str, dict[str, str]]
    records: tuple[InstructionCount, ...]


def count(
    bundles: Sequence[Bundle],
    devices: Sequence[Device],
    *,
    formats: Sequence[str] = (),
    runs: int = DEFAULT_RUNS,
    tokens: Sequence[int] = (),
) -> Counted:
    """Count instructions.

    Args:
        bundles: to count; several are set side by side.
        devices: emulated ones.
        formats: which; all of the bundles' if empty.
        runs: by how many runs the long block is longer than the short one.
        tokens: lengths of the text, special tokens included; as in `bench` if empty.

    Raises:
        UsageError: a device is real, a number is out of range, or a bundle has no such format.
        EdgellmError: see `WorkerClient.request`.

    """
    ensure_one_kind(devices)
    for device in devices:
        if not device.emulated:
            raise UsageError(f"{device.name} is no emulator: it has a latency, which bench measures.")
    if runs < 1:
        raise UsageError("--runs is 1 or more.")
    pairs = choose(bundles, formats)
    lengths = lengths_of(bundles, tokens)
    for bundle in bundles:
        bundle.use_all()

    def one(device: Device, bundle: Bundle, artifact: Artifact) -> tuple[str, list[int]]:
        return _count(device, bundle, artifact, lengths, runs)

    work = [(device, bundle, artifact) for device in devices for bundle, artifact in pairs]
    with ThreadPoolExecutor(max_workers=cores()) as pool:
        futures = [pool.submit(one, *item) for item in work]
        try:
            done = [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    engines: dict[str, dict[str, str]] = {}
    records = []
    for (device, _, artifact), (engine, counts) in zip(work, done, strict=True):
        engines.setdefault(device.name, {})[artifact.id] = engine
        cpu = device.name.partition(":")[2]
        records += [
            InstructionCount(artifact.id, artifact.format, artifact.scheme, length, cpu, number)
            for length, number in zip(lengths, counts, strict=True)
        ]
    return Counted(engines, tuple(records))


def ensure_one_kind(devices: Sequence[Device]) -> None:
    """Refuse to set emulated and real devices side by side.

    Raises:
        UsageError: both kinds are there.

    """
    if len({device.emulated for device in devices}) > 1:
        names = " and ".join(device.name for device in devices)
        raise UsageError(
            f"{names} can't be compared: an emulated CPU has an instruction count and no latency, a real one a latency.",
            hint="Measure them one after the other.",
        )


def _count(
    device: Device, bundle: Bundle, artifact: Artifact, lengths: Sequence[int], runs: int
) -> tuple[str, list[int]]:
    """Return the engine, and instructions per inference at each length."""
    text = Text(bundle)
    counts = []
    with device.start(artifact.format, counting=True) as worker:
        opened = worker.request("open", bundle=device.push(bundle.path), artifact=artifact.id, threads=1)
        for length in lengths:
            feeds = to_json(text.feeds(length, artifact.signature))
            worker.request("time", feeds=feeds, warmup=_WARMUP, runs=1)
            marks = [worker.instructions()]
            for block in (1, 1 + runs):
                worker.request("time", feeds=feeds, warmup=0, runs=block)
                marks.append(worker.instructions())
            short, long = marks[1] - marks[0], marks[2] - marks[1]
            counts.append(round((long - short) / runs))
    return str(opened["engine"]), counts
