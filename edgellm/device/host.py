"""The build machine itself."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from edgellm.device import DeviceInfo
from edgellm.device._files import LocalFiles
from edgellm.errors import UsageError, unknown
from edgellm.runtime import engines
from edgellm.runtime.client import WorkerClient
from edgellm.runtime.machine import machine


class Host(LocalFiles):
    """Runs workers as child processes of this interpreter's kind."""

    name = "host"
    emulated = False
    formats = tuple(engines.engine_names())

    @property
    def cpu(self) -> str:
        """The machine's CPU, as its kernel names it."""
        return machine().cpu

    def check(self, formats: Sequence[str], *, counting: bool = False) -> None:
        """See that the engine of each format is installed.

        Raises:
            UsageError: a format has no engine, or counting was asked for.
            MissingDependencyError: one is not installed.

        """
        if counting:
            raise _does_not_count()
        for fmt in formats:
            engines.require(fmt)

    def start(self, fmt: str, *, counting: bool = False) -> WorkerClient:
        """Start a worker in a process of its own.

        Raises:
            UsageError: counting was asked for.

        """
        if counting:
            raise _does_not_count()
        # -P keeps the current folder off the module path: a stray numpy.py there must not be imported.
        return WorkerClient([sys.executable, "-P", "-m", "edgellm.runtime"], what="the host", group=True)


def open(unit: str) -> Host:
    """Return the host; it has no units."""
    if unit:
        raise unknown("device", f"host:{unit}", ["host"])
    return Host()


def units() -> list[DeviceInfo]:
    """Return the host."""
    here = machine()
    return [DeviceInfo("host", f"this machine: {here.cpu}, {here.arch}", emulated=False, ready=True)]


def _does_not_count() -> UsageError:
    return UsageError(
        "The host does not count instructions: a real device has a latency, which bench measures.",
        hint="Count on an emulated one: --device emulator:cortex-a72.",
    )
