"""Installs all that emulated devices need: the system, the counter, and the native runner for ExecuTorch."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from edgellm.emulation.counter import plugin
from edgellm.emulation.native import native_runner
from edgellm.emulation.setup import Progress, setup
from edgellm.emulation.sysroot import require
from edgellm.errors import MissingDependencyError
from edgellm.folders import cache_dir
from edgellm.toolchain.downloads import Download


@dataclass(frozen=True)
class Installed:
    """What an installation did.

    Attributes:
        folder: of the emulated system.
        already: whether it was there before.
        downloaded_mb: packages that came over the network in this run; apt's lists are not among them.
        disk_mb: what everything takes now, downloads and apt's lists included.
        seconds: in all.
        missing: what can't be done yet and what to install for it, one sentence each.

    """

    folder: str
    already: bool
    downloaded_mb: float
    disk_mb: float
    seconds: float
    missing: tuple[str, ...]


def install(progress: Progress, cpus: Sequence[str] = ()) -> Installed:
    """Set up the emulator, and build what it can use with the compilers that this machine has.

    Args:
        progress: hears how it goes on.
        cpus: CPU models to try it out on; all if empty, and none if it was there.

    Raises:
        EdgellmError: see `setup`; a missing compiler is no error but listed.

    """
    start = time.monotonic()
    came = setup(progress, cpus)
    begun: dict[str, int] = {}
    here: dict[str, int] = {}

    def report(download: Download, done: int) -> None:
        begun.setdefault(download.name, done)
        here[download.name] = done
        progress.downloading(download, done)

    missing = []
    try:
        plugin()
    except MissingDependencyError as error:
        missing.append(f"bench on emulated CPUs: {error}")
    try:
        progress.step("checking the native runner for ExecuTorch, and building it if need be")
        native_runner(report)
    except MissingDependencyError as error:
        missing.append(f"ExecuTorch: {error}")
    folder = require().folder
    fetched = (came or 0) + sum(here.values()) - sum(begun.values())
    return Installed(
        folder=str(folder),
        already=came is None,
        downloaded_mb=round(fetched / 1e6, 1),
        disk_mb=round(_disk() / 1e6, 1),
        seconds=round(time.monotonic() - start, 1),
        missing=tuple(missing),
    )


def _disk() -> int:
    """Return the bytes of what the emulator and the native runner take in the cache."""
    roots = [cache_dir() / name for name in ("emulation", "apt", "runner")]
    return sum(path.lstat().st_size for root in roots for path in root.rglob("*") if not path.is_symlink())
