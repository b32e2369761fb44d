"""What the emulator leaves in the cache: folders of workers while they run, and systems that nobody uses any more."""

from __future__ import annotations

import contextlib
import re
import shutil
import tempfile
import time
from pathlib import Path

from edgellm.errors import DeviceError
from edgellm.folders import cache_dir

UNUSED_S = 30 * 86400.0
"""Seconds after which what nobody used is removed. Long, because another version of edgellm may be at work with it."""

_KEYED = re.compile(r"(runner-)?[0-9a-f]{24}(\.part)?")
"""Folders that setups made; those of the runner are from before it moved."""


def work_folder() -> tempfile.TemporaryDirectory[str]:
    """Return a new folder for one worker's files, which its owner removes.

    Raises:
        DeviceError: the cache can't be written.

    """
    root = cache_dir() / "emulation" / "work"
    try:
        root.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(dir=root)
    except OSError as error:
        raise DeviceError(
            f"An emulated worker needs a folder in {root}: {error.strerror}.", hint="EDGELLM_CACHE names another place."
        ) from None


def tidy(current: Path) -> None:
    """Remove what nobody used for 30 days: systems beside the current one, and what killed workers left.

    A system is removed under the lock that its setup takes; one that is being set up is left alone.
    """
    from filelock import FileLock, Timeout

    for folder in current.parent.iterdir():
        if _KEYED.fullmatch(folder.name) and folder.stem != current.name and _unused(folder):
            with contextlib.suppress(Timeout, OSError), FileLock(folder.with_suffix(".lock"), timeout=0):
                # First it loses its name, so that nobody takes half of it for the whole.
                shutil.rmtree(folder.rename(folder.with_suffix(".part")), ignore_errors=True)
    with contextlib.suppress(FileNotFoundError):
        for folder in (current.parent / "work").iterdir():
            if _unused(folder):
                shutil.rmtree(folder, ignore_errors=True)


def _unused(folder: Path) -> bool:
    try:
        return time.time() - folder.stat().st_mtime > UNUSED_S
    except FileNotFoundError:
        return False
