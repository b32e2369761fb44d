"""Vela, Arm's compiler for Ethos-U, in an environment of its own: pinned wheels unpacked into the cache.

It runs in a process that sees those wheels and the standard library, and nothing of the environment edgellm is in.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgellm.core.npu import Accelerator
from edgellm.errors import EdgellmError, InputError, MissingDependencyError, UsageError
from edgellm.folders import cache_dir, shipped
from edgellm.toolchain import downloads, packages
from edgellm.toolchain.downloads import Report
from edgellm.toolchain.unpack import unpack_wheel

SETUP = "edgellm device setup vela"
"""The command that makes Vela ready."""

_TIMEOUT_S = 900
"""A small encoder takes seconds."""


@dataclass(frozen=True)
class Compiled:
    """What Vela wrote and said.

    Attributes:
        file: the compiled model, in the folder that was given.
        printed: what it printed; `vela_output` reads it.
        summary: its summary, the text of a CSV file.

    """

    file: Path
    printed: str
    summary: str


def version() -> str:
    """Return the version that is pinned."""
    return _requirements().partition("ethos-u-vela==")[2].split()[0]


def folder() -> Path:
    """Return where the pinned wheels are unpacked; another lock is another folder."""
    return cache_dir() / "vela" / f"{version()}-{hashlib.sha256(_requirements().encode()).hexdigest()[:12]}"


def require() -> Path:
    """Return the folder of a finished setup.

    Raises:
        MissingDependencyError: there is none.

    """
    where = folder()
    if not where.is_dir():
        raise MissingDependencyError(
            f"Building for Ethos-U needs Vela {version()}, Arm's compiler.", hint=f"Install it with: {SETUP}"
        )
    return where


def setup(report: Report | None = None) -> Path:
    """Download and unpack Vela, once, and return its folder.

    Raises:
        UsageError: this machine is no x86-64 Linux, for which the wheels are pinned.
        DeviceError: the network or the disk failed.
        MissingDependencyError: this Python has no pip.

    """
    from filelock import FileLock

    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise UsageError(f"Vela is pinned for x86-64 Linux, and this is {platform.system()} {platform.machine()}.")
    target = folder()
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(f".{target.name}.lock")):
        if target.is_dir():
            return target
        wheels = packages.wheels(shipped("toolchains") / "vela" / "requirements.txt", machine="x86_64")
        work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        try:
            for path in downloads.fetch(wheels, target.parent / "downloads", report):
                unpack_wheel(path, work)
            work.rename(target)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return target


def compile_model(model: Path, accelerator: Accelerator, out: Path, on_cpu: Sequence[str] = ()) -> Compiled:
    """Compile a quantized .tflite file with one graph into `out`; operators of the kinds `on_cpu` are left to the CPU.

    Raises:
        MissingDependencyError: Vela is not set up.
        UsageError: Vela knows no such accelerator, system or memory mode.
        InputError: it can't compile this model.
        EdgellmError: it wrote no summary.

    """
    where = require()
    command = [
        # -S: no site-packages; what PYTHONPATH names is all that there is.
        sys.executable, "-S", "-m", "ethosu.vela", str(model), "--output-dir", str(out), "--show-cpu-operations",
        "--config", "Arm/vela.ini", "--accelerator-config", accelerator.name, "--system-config", accelerator.system,
        "--memory-mode", accelerator.memory_mode, *(("--ignore-ops", ",".join(on_cpu)) if on_cpu else ()),
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(where), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=_TIMEOUT_S)
    file = out / f"{model.stem}_vela.tflite"
    if done.returncode or not file.is_file():
        raise _failed(done.stdout + "\n" + done.stderr, model, accelerator)
    summaries = list(out.glob(f"{model.stem}_summary_*.csv"))
    if len(summaries) != 1:
        raise EdgellmError(f"Vela {version()} wrote {len(summaries)} summaries of {model.name} where 1 belongs.")
    summary = summaries[0].read_text(encoding="utf-8")
    summaries[0].unlink()  # the folder becomes the artifact's
    return Compiled(file, done.stdout, summary)


def _failed(said: str, model: Path, accelerator: Accelerator) -> EdgellmError:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    telling = next((line for line in lines if "error" in line.lower()), lines[-1] if lines else "it said nothing")
    if "invalid choice" in telling or "Configuration" in telling or "Section" in telling:
        return UsageError(
            f"Vela {version()} refuses {accelerator.name} with {accelerator.system} and {accelerator.memory_mode}: {telling}."
        )
    return InputError(
        f"Vela {version()} can't compile {model.name} for {accelerator.name}: {telling}.",
        hint="It takes one graph of fixed shapes, quantized throughout.",
    )


def _requirements() -> str:
    return (shipped("toolchains") / "vela" / "requirements.txt").read_text(encoding="utf-8")
