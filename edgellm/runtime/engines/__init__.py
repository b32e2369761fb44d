"""Engines: one file per format, each opens an artifact on this device. Nothing is imported before it is used."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Protocol, cast

from edgellm import plugins
from edgellm.core.manifest import Artifact
from edgellm.core.scheme import FORMATS
from edgellm.core.signature import Feeds, Outputs
from edgellm.errors import MissingDependencyError, unknown


class Engine(Protocol):
    """An opened artifact."""

    def run(self, feeds: Feeds) -> Outputs:
        """Return the outputs of one forward pass; feeds are checked and have a length the artifact takes."""
        ...


class EngineModule(Protocol):
    """What a file in `engines/` provides."""

    PACKAGES: tuple[str, ...]
    """Distributions that can run the format, the first is the one to install."""

    def load(self) -> None:
        """Import the engine's package."""
        ...

    def open(self, path: Path, artifact: Artifact, threads: int) -> Engine:
        """Return the opened artifact, with exactly `threads` compute threads."""
        ...


MODULES = {
    "executorch": "executorch.runtime",
    "onnxruntime": "onnxruntime",
    "ai-edge-litert": "ai_edge_litert",
    "tflite-runtime": "tflite_runtime",
}
"""Distribution to the module whose presence means it is installed."""


def engine_names() -> list[str]:
    """Return the formats that have an engine, sorted."""
    return plugins.names("edgellm.runtime.engines", FORMATS)


def load_engine(fmt: str) -> EngineModule:
    """Return the engine module of a format, without opening anything."""
    if fmt not in engine_names():
        raise unknown("format", fmt, engine_names())
    return cast(EngineModule, plugins.load("edgellm.runtime.engines", fmt))


def installed_package(fmt: str) -> str | None:
    """Return the installed distribution that runs a format, or None. Imports no engine."""
    for package in load_engine(fmt).PACKAGES:
        if importlib.util.find_spec(MODULES[package].split(".")[0]) is not None:
            return package
    return None


def require(fmt: str) -> str:
    """Return the installed distribution that runs a format.

    Raises:
        MissingDependencyError: none is installed; the hint is the command that installs it.

    """
    package = installed_package(fmt)
    if package is None:
        raise MissingDependencyError(
            f"Running {fmt} needs {load_engine(fmt).PACKAGES[0]}.",
            hint=f"Install it with: pip install 'edgellm[{fmt}]'",
        )
    return package


def engine_version(fmt: str) -> str:
    """Return "package version" of the installed engine of a format."""
    import importlib.metadata  # not at the top: importing the runtime stays fast

    package = require(fmt)
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return package
