"""Devices: where workers run. A device brings files there and back, and starts workers, nothing else.

    with open_device("emulator:cortex-a72").start("onnx") as worker: ...

A kind of device is a file here, found by its name: it provides `open(unit)` and `units()`. What is above this package
talks to all of them alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from edgellm import plugins
from edgellm.errors import EdgellmError, unknown
from edgellm.runtime.client import WorkerClient


class Device(Protocol):
    """One physical or emulated unit."""

    name: str
    """As given to `--device`."""
    emulated: bool
    """Whether times measured on it mean nothing."""
    formats: tuple[str, ...]
    """What can run there, if its engine is installed."""

    @property
    def cpu(self) -> str:
        """What it computes with: a CPU's name."""
        ...

    def check(self, formats: Sequence[str], *, counting: bool = False) -> None:
        """See that artifacts of these formats can run there, and be counted, before anything slow begins.

        Raises:
            UsageError: a format is unknown, or the device does not count.
            MissingDependencyError: what runs one, or counts, is missing.
            DeviceError: what is built for it does not build.

        """
        ...

    def push(self, path: Path) -> str:
        """Bring a file or folder to the device and return its path there."""
        ...

    def pull(self, remote: str, local: Path) -> None:
        """Bring a file of the device here."""
        ...

    def start(self, fmt: str, *, counting: bool = False) -> WorkerClient:
        """Start a worker there, for one artifact of a format; with `counting` it counts instructions."""
        ...


@dataclass(frozen=True)
class DeviceInfo:
    """A device that can be reached, or could be.

    Attributes:
        name: as given to `--device`.
        description: what it is.
        emulated: whether it has an instruction count instead of a latency.
        ready: whether workers can start on it now.
        hint: what makes it ready, or why nothing does on this machine; empty if it is.

    """

    name: str
    description: str
    emulated: bool
    ready: bool
    hint: str = ""


class DeviceModule(Protocol):
    """What a file in this folder provides."""

    def open(self, unit: str) -> Device:
        """Return the device for what stands behind the colon of its name, empty if there is none.

        Raises:
            UsageError: there is no such unit.
            MissingDependencyError: it is not set up; the hint says how.

        """
        ...

    def units(self) -> list[DeviceInfo]:
        """Return what can be opened, without starting anything."""
        ...


def device_kinds() -> list[str]:
    """Return the kinds of devices, sorted."""
    return plugins.names("edgellm.device")


def open_device(name: str) -> Device:
    """Return the device called `name`: a kind, and for most a unit behind a colon ("emulator:cortex-a72").

    Raises:
        UsageError: there is no such kind or unit.
        MissingDependencyError: it is not set up; the hint says how.

    """
    kind, _, unit = name.partition(":")
    if kind not in device_kinds():
        raise unknown("device", name, (info.name for info in devices()))
    return _module(kind).open(unit)


def devices() -> list[DeviceInfo]:
    """Return what can be reached from here, host first."""
    found = []
    for kind in sorted(device_kinds(), key=lambda kind: (kind != "host", kind)):
        try:
            found += _module(kind).units()
        except EdgellmError as error:
            found.append(DeviceInfo(kind, str(error.args[0]), emulated=False, ready=False, hint=error.hint))
    return found


def _module(kind: str) -> DeviceModule:
    return cast(DeviceModule, plugins.load("edgellm.device", kind))
