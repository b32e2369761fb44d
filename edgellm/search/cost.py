"""What an artifact costs beside another: a ratio, of times on this machine, emulated instructions, or a compiler's estimates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edgellm.benchmark import bench
from edgellm.core.target import Target
from edgellm.counting import count
from edgellm.device import Device, open_device
from edgellm.device.host import Host
from edgellm.emulation.cpus import CPUS
from edgellm.errors import UsageError
from edgellm.runtime.bundle import Bundle
from edgellm.runtime.machine import machine
from edgellm.toolchain import vela

RUNS = 60
"""Timed runs of each artifact at each length, in blocks that take turns."""


@dataclass(frozen=True)
class Meter:
    """How a target's cost is measured.

    Attributes:
        kind: "latency", "instructions" or "estimate".
        devices: where; none of an estimate.

    """

    kind: str
    devices: tuple[Device, ...] = ()

    @property
    def places(self) -> tuple[str, ...]:
        """What measures: devices, or a compiler."""
        return tuple(device.name for device in self.devices) or (f"Vela {vela.version()}",)

    def __str__(self) -> str:
        if self.kind == "latency":
            # No load: what was measured before an interruption was measured under another.
            return f"median time of {RUNS} runs on {machine().hardware}, one thread"
        if self.kind == "estimate":
            return f"{self.places[0]}'s estimate of the time on the NPU, where nothing was run"
        return f"instructions on {' and '.join(device.name for device in self.devices)}"

    def ratio(self, bundle: Bundle, base: Bundle) -> float:
        """Return the cost of a bundle's artifact as a part of another's: the geometric mean over lengths and devices.

        What is timed runs in turns, each in a worker of its own, so that what slows this machine slows both.

        Raises:
            EdgellmError: see `WorkerClient.request`.

        """
        first, second = (each.manifest.artifacts[0] for each in (bundle, base))
        if first.sha256 == second.sha256:
            return 1.0
        if self.kind == "latency":
            names = ("base", "other")  # the two may be of different models
            records = bench((base, bundle), self.devices[0], runs=RUNS, names=names).records
            costs = [[r.p50_ms for r in records if r.id.startswith(f"{name} ")] for name in names]
        elif self.kind == "estimate":
            costs = [[each.npu.estimated_ms] for each in (second, first) if each.npu is not None]
        else:
            costs = [[float(r.instructions) for r in count((each,), self.devices).records] for each in (base, bundle)]
        return _geometric_mean([after / before for before, after in zip(*costs, strict=True)])


def meter_for(target: Target, fmt: str, kind: str) -> Meter:
    """Return how the cost of a target's artifacts is known here.

    Args:
        target: what they are for.
        fmt: their format.
        kind: "latency" (which is counted in instructions where the target's CPU is not this machine's kind, and estimated
            where its NPU is what runs), "instructions" or "estimate".

    Raises:
        UsageError: nothing here stands for the target.
        MissingDependencyError: the emulator is not set up.

    """
    estimated = target.delegates[fmt] == "ethos-u"
    if kind == "estimate" and not estimated:
        raise UsageError(
            f"No compiler estimates the time of {fmt} for {target.name}.",
            hint="Use --minimize latency or instructions.",
        )
    if estimated and kind == "instructions":
        raise UsageError(f"Nothing counts the instructions of {target.name}.", hint="Use --minimize latency.")
    if estimated:
        return Meter("estimate")
    if kind == "latency" and target.arch == machine().arch:
        return Meter("latency", (Host(),))
    if target.arch != "aarch64":
        raise UsageError(
            f"{kind} of {target.name} can't be measured on this machine.",
            hint="Use --minimize size, or another target.",
        )
    stands_in = [name for name in CPUS if name in target.cpu.lower()] or ["cortex-a76"]
    names = [name for name in target.devices if name.startswith("emulator:")] or [f"emulator:{stands_in[0]}"]
    devices = tuple(open_device(name) for name in names)
    for device in devices:
        device.check((fmt,), counting=True)
    return Meter("instructions", devices)


def _geometric_mean(ratios: Sequence[float]) -> float:
    return math.exp(math.fsum(map(math.log, ratios)) / len(ratios))
