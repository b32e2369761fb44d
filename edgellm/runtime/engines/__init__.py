"""Engines: one file per format, each opens an artifact on this device. Nothing is imported before it is used.

Where a native program is named for a format (see `NATIVE`), it is the engine and the package is not touched.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

from edgellm import plugins
from edgellm.core.manifest import Artifact
from edgellm.core.scheme import DELEGATES, FORMATS
from edgellm.core.signature import Feeds, Outputs
from edgellm.errors import MissingDependencyError, UsageError, unknown


class Engine(Protocol):
    """An opened artifact."""

    def run(self, feeds: Feeds) -> Outputs:
        """Return the outputs of one forward pass; feeds are checked and have a length the artifact takes."""
        ...


@dataclass(frozen=True)
class Usage:
    """What a process has used since it began: processor time over all threads, and its largest resident memory."""

    cpu_ms: float
    peak_rss_mb: float


@runtime_checkable
class RemoteEngine(Protocol):
    """An opened artifact that another process computes."""

    load_ms: float
    """Time that process took to open it."""

    def time(self, feeds: Feeds, *, warmup: int, runs: int) -> list[float]:
        """Return the milliseconds of each of `runs` forward passes, by that process's clock."""
        ...

    def usage(self) -> Usage:
        """Return what that process has used so far."""
        ...


class EngineModule(Protocol):
    """What a file in `engines/` provides."""

    PACKAGES: tuple[str, ...]
    """Distributions that can run the format, the first is the one to install."""
    EMULATES: bool
    """Whether what computes on this machine is the vendor's emulation of an NPU, so that times mean nothing."""

    def load(self) -> None:
        """Import the engine's package."""
        ...

    def open(self, paths: Sequence[Path], artifact: Artifact, threads: int) -> Engine:
        """Return the opened artifact, whose files were just checked, with exactly `threads` compute threads."""
        ...


MODULES = {
    "executorch": "executorch.runtime",
    "onnxruntime": "onnxruntime",
    "onnxruntime-qnn": "onnxruntime_qnn",
    "ai-edge-litert": "ai_edge_litert",
    "tflite-runtime": "tflite_runtime",
}
"""Distribution to the module whose presence means it is installed."""

NATIVE = {"executorch": "EDGELLM_RUNNER"}
"""Format to the environment variable that names a native program for it, which then takes the package's place."""


def engine_names() -> list[str]:
    """Return the formats that have an engine, sorted."""
    return plugins.names("edgellm.runtime.engines", FORMATS)


def native_runner(fmt: str) -> Path | None:
    """Return the native program that the environment names for a format, or None.

    Raises:
        UsageError: what it names can't be run; the package is no silent stand-in for it.

    """
    variable = NATIVE.get(fmt, "")
    named = os.environ.get(variable, "")
    if not named:
        return None
    program = Path(named)
    if not program.is_file() or not os.access(program, os.X_OK):
        raise UsageError(
            f"{variable} names {named}, which is no program that can be run.",
            hint=f"'edgellm runner build' makes one; unset {variable} to use the Python package.",
        )
    return program.absolute()


def load_engine(fmt: str) -> EngineModule:
    """Return the engine module of a format, without opening anything."""
    if fmt not in engine_names():
        raise unknown("format", fmt, engine_names())
    name = "_native" if native_runner(fmt) else fmt
    return cast(EngineModule, plugins.load("edgellm.runtime.engines", name))


def installed_package(fmt: str) -> str | None:
    """Return what runs a format here, or None: the native program's name, or an installed distribution.

    Imports no engine.
    """
    module = load_engine(fmt)
    if native_runner(fmt):
        return module.PACKAGES[0]
    for package in module.PACKAGES:
        if importlib.util.find_spec(MODULES[package].split(".")[0]) is not None:
            return package
    return None


def can_run(artifact: Artifact) -> bool:
    """Tell whether edgellm runs an artifact at all, here or elsewhere: its engine, with the delegate that it was made for.

    Core ML's, Vulkan's and other NPUs' artifacts are for an app's own runtime; some come with a file that stands for them.
    """
    own = artifact.format in engine_names() and artifact.delegate == DELEGATES[artifact.format]
    return own or bool(artifact.reference)


def emulates(artifact: Artifact) -> bool:
    """Tell whether, on this machine, something stands for the NPU that an artifact is for, so that times mean nothing.

    The vendor's emulation, or a file with the same integers.
    """
    return bool(artifact.reference) or load_engine(artifact.format).EMULATES


def require(fmt: str) -> str:
    """Return what runs a format here: the native program's name, or an installed distribution.

    Raises:
        MissingDependencyError: nothing does; the hint is the command that installs it.
        UsageError: the native program that the environment names can't be run.

    """
    package = installed_package(fmt)
    if package is None:
        raise MissingDependencyError(
            f"Running {fmt} needs {load_engine(fmt).PACKAGES[0]}.",
            hint=f"Install it with: pip install 'edgellm[{fmt}]'",
        )
    return package


def engine_version(fmt: str) -> str:
    """Return "package version" of the installed engine of a format, or what the native program says it is."""
    if native_runner(fmt):
        from edgellm.runtime.engines import _native

        return _native.version()
    import importlib.metadata  # not at the top: importing the runtime stays fast

    package = require(fmt)
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return package
