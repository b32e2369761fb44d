"""Count: instructions of one inference on emulated CPUs. The sibling of `edgellm.benchmark` where time means nothing.

The worker reads its request, runs, and answers; the counter is read while it waits for the next request. The difference
between a long and a short block of runs leaves reading, answering and everything else that is not an inference out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from edgellm.benchmark import Text, choose, lengths_of
from edgellm.core.instructions import InstructionCount
from edgellm.core.manifest import Artifact
from edgellm.device import Device
from edgellm.errors import UsageError
from edgellm.runtime.bundle import Bundle, to_json
from edgellm.runtime.client import WorkerClient
from edgellm.stages.side_by_side import Watch, side_by_side

DEFAULT_RUNS = 2
_WARMUP = 3
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

    for device in devices:
        device.check([artifact.format for _, artifact in pairs], counting=True)
    remote = {(d.name, id(b)): d.push(b.path) for d in devices for b in bundles}

    def one(watch: Watch, device: Device, bundle: Bundle, artifact: Artifact) -> tuple[str, list[int]]:
        with watch(device.start(artifact.format, counting=True)) as worker:
            return _count(worker, remote[device.name, id(bundle)], bundle, artifact, lengths, runs)

    work = [(device, bundle, artifact) for device in devices for bundle, artifact in pairs]
    done = side_by_side([partial(one, device=d, bundle=b, artifact=a) for d, b, a in work])
    full = {
        (device.name, bundle.manifest.model.source_sha256, artifact.format, length): number
        for (device, bundle, artifact), (_, counts) in zip(work, done, strict=True)
        for length, number in zip(lengths, counts, strict=True)
        if artifact.scheme == "fp32"
    }
    engines: dict[str, dict[str, str]] = {}
    records = []
    for (device, bundle, artifact), (engine, counts) in zip(work, done, strict=True):
        engines.setdefault(device.name, {})[artifact.id] = engine
        for length, number in zip(lengths, counts, strict=True):
            base = full.get((device.name, bundle.manifest.model.source_sha256, artifact.format, length))
            share = None if base is None or artifact.scheme == "fp32" else round(number / base, 4)
            records.append(
                InstructionCount(
                    artifact.id,
                    artifact.format,
                    artifact.scheme,
                    length,
                    device.cpu,
                    instructions=number,
                    of_fp32=share,
                )
            )
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
    worker: WorkerClient, path: str, bundle: Bundle, artifact: Artifact, lengths: Sequence[int], runs: int
) -> tuple[str, list[int]]:
    """Return the engine, and instructions per inference at each length."""
    text = Text(bundle)
    counts = []
    opened = worker.request("open", bundle=path, artifact=artifact.id, threads=1)
    for length in lengths:
        feeds = to_json(text.feeds(length, artifact.signature))
        for _ in range(_WARMUP):  # one request each, as a request has a time limit
            worker.request("time", feeds=feeds, warmup=0, runs=1)
        marks = [worker.instructions()]
        for block in (1, 1 + runs):
            worker.request("time", feeds=feeds, warmup=0, runs=block)
            marks.append(worker.instructions())
        short, long = marks[1] - marks[0], marks[2] - marks[1]
        counts.append(round((long - short) / runs))
    return str(opened["engine"]), counts
