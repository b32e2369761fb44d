"""The build machine itself."""

from __future__ import annotations

import sys
from pathlib import Path

from edgellm.runtime.client import WorkerClient


class Host:
    """Runs workers as child processes of this interpreter's kind."""

    name = "host"
    emulated = False

    def push(self, bundle: Path) -> str:
        """Return the bundle's own path: it is here already."""
        return str(bundle.resolve())

    def start(self) -> WorkerClient:
        """Start a worker in a process of its own."""
        # -P keeps the current folder off the module path: a stray numpy.py there must not be imported.
        return WorkerClient([sys.executable, "-P", "-m", "edgellm.runtime"], what="the host")
