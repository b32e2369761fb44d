"""The native runner as the ExecuTorch engine: a process of its own, for devices on which torch does not import.

EDGELLM_RUNNER names the program. It speaks the lines of `edgellm.runtime.worker`, takes ids, and checks the artifact's
hash again itself. The time of one answer holds the pipe; what a worker's `time` measures does not.
"""

from __future__ import annotations

import functools
import re
import subprocess
import weakref
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from edgellm.core.manifest import Artifact
from edgellm.core.signature import Feeds, Outputs
from edgellm.errors import DeviceError
from edgellm.runtime import engines
from edgellm.runtime.bundle import to_json
from edgellm.runtime.client import WorkerClient

NAME = "edgellm-runner"
PACKAGES = (NAME,)
EMULATES = False

_FORMAT = "executorch"
_VERSION = re.compile(rf"{NAME} \S+ \(executorch \S+\)")
_PROTOCOL = 1
_START_S = 120
"""For a program to say its version: an emulator on a busy machine takes a while."""


class NativeEngine:
    """An artifact opened in a native runner.

    Attributes:
        load_ms: what the runner measured; its start and the check of the hash are not in it.

    """

    def __init__(self, program: Path, bundle: Path, artifact: Artifact, threads: int) -> None:
        self._outputs = [output.name for output in artifact.signature.outputs]
        self._client = WorkerClient([str(program)], what=NAME)
        # A session has no close: the process ends with the object, or with the interpreter.
        self._finalizer = weakref.finalize(self, self._client.close)
        try:
            reply = self._client.request("open", bundle=str(bundle.resolve()), artifact=artifact.id, threads=threads)
            if reply.get("protocol") != _PROTOCOL:
                raise DeviceError(
                    f"{program} speaks another version of the worker's lines ({reply.get('protocol')!r}).",
                    hint="Build one of this edgellm with: edgellm runner build",
                )
            self.load_ms = float(reply["load_ms"])
        except BaseException:
            self._finalizer()
            raise

    def run(self, feeds: Feeds) -> Outputs:
        """Return the outputs of one forward pass."""
        reply = self._client.request("infer", feeds=to_json(feeds))
        outputs = reply["outputs"]
        return {name: np.asarray(outputs[name], dtype=np.float32) for name in self._outputs}

    def time(self, feeds: Feeds, *, warmup: int, runs: int) -> list[float]:
        """Return the milliseconds of each run, by the runner's own clock: the pipe is not in them."""
        reply = self._client.request("time", feeds=to_json(feeds), warmup=warmup, runs=runs)
        return [float(each) for each in reply["inference_ms"]]

    def usage(self) -> engines.Usage:
        """Return what the runner's process has used so far."""
        reply = self._client.request("usage")
        return engines.Usage(float(reply["cpu_ms"]), float(reply["peak_rss_mb"]))


def load() -> None:
    """Check that the program runs here."""
    version()


def open(paths: Sequence[Path], artifact: Artifact, threads: int) -> NativeEngine:
    """Return the artifact opened in a runner of its own, with `threads` compute threads."""
    bundle = paths[0].parents[len(PurePosixPath(artifact.file).parts) - 1]
    return NativeEngine(_program(), bundle, artifact, threads)


def version() -> str:
    """Return what the program says it is: "edgellm-runner 0.1.0 (executorch 1.5.1)".

    Raises:
        DeviceError: it does not run here, or is another program.

    """
    program = _program()
    return _ask(program, program.stat().st_mtime_ns)


def _program() -> Path:
    program = engines.native_runner(_FORMAT)
    assert program is not None, "this module is only loaded where the variable is set"
    return program


@functools.cache
def _ask(program: Path, changed_ns: int) -> str:
    variable = engines.NATIVE[_FORMAT]
    try:
        done = subprocess.run(
            [program, "--version"], capture_output=True, text=True, errors="replace", check=False, timeout=_START_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = error.strerror if isinstance(error, OSError) else f"it said nothing in {_START_S} s"
        raise DeviceError(f"{variable} names {program}, which does not run here: {reason}.") from None
    said = done.stdout.strip()
    if not _VERSION.fullmatch(said):
        why = (done.stderr.strip().splitlines() or [said[:100] or "nothing"])[-1]
        raise DeviceError(
            f"{variable} names {program}, which is no {NAME} that runs here. It says: {why[:300]}",
            hint="Build one for this machine with: edgellm runner build",
        )
    return said
