"""The native runner for aarch64, built into the cache when an ExecuTorch artifact first needs it."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from edgellm.folders import cache_dir, shipped
from edgellm.toolchain import runner
from edgellm.toolchain.downloads import Report

_TARGET = "linux-arm64"
_SOURCES = (".c", ".cpp", ".h", ".txt", ".json", ".cmake", ".map")


def native_runner(report: Report | None = None) -> Path:
    """Return the runner's executable; `report` is told how downloads for it come along.

    Raises:
        MissingDependencyError: what it is built with is missing; the hint says what to install.
        DeviceError: the network or the compiler failed.

    """
    from filelock import FileLock

    folder = cache_dir() / "emulation" / f"runner-{_key()}"
    program = folder / "edgellm-runner"
    if program.is_file():
        return program
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if not program.is_file():
            work = folder.with_suffix(".part")
            for left in (work, folder):
                shutil.rmtree(left, ignore_errors=True)
            runner.build_runner(_TARGET, work, report=report)
            work.rename(folder)
    return program


def _key() -> str:
    """Return a hash of everything the runner is made from."""
    root = shipped("toolchains")
    digest = hashlib.sha256(Path(runner.__file__).read_bytes())
    for path in sorted(path for path in root.rglob("*") if path.suffix in _SOURCES and path.is_file()):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:24]
