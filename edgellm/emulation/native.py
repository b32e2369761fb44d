"""The native runner for aarch64, built into the cache when an ExecuTorch artifact first needs it."""

from __future__ import annotations

from pathlib import Path

from edgellm.toolchain.downloads import Report
from edgellm.toolchain.facts import EXECUTABLE
from edgellm.toolchain.runner import cached_runner


def native_runner(report: Report | None = None) -> Path:
    """Return the runner's executable; `report` is told how downloads for it come along.

    Raises:
        MissingDependencyError: what it is built with is missing; the hint says what to install.
        DeviceError: the network or the compiler failed.

    """
    return cached_runner("linux-arm64", report) / EXECUTABLE
