"""Devices: where workers run. A device brings a bundle there and starts a worker on it, nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from edgellm.runtime.client import WorkerClient


class Device(Protocol):
    """One physical or emulated unit."""

    name: str
    """As given to `--device`."""
    emulated: bool
    """Whether times measured on it mean nothing."""

    def push(self, bundle: Path) -> str:
        """Bring a bundle to the device and return its path there."""
        ...

    def start(self) -> WorkerClient:
        """Start a worker there."""
        ...
