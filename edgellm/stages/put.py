"""Put: a finished folder takes a place at once or not at all, whatever kills the process."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from edgellm.errors import UsageError
from edgellm.stages.cache import alive


def check_parent(out: Path) -> None:
    """Check that a folder can be made at `out`.

    Raises:
        UsageError: what it would lie in can't be written to.

    """
    parent = out.resolve().parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise UsageError(f"{parent} can't be written to.", hint="Choose another --out.")


def put(folder: Path, out: Path, *, check: Callable[[Path], None], old: Callable[[Path], None] | None = None) -> None:
    """Copy a finished folder to `out`, replacing what was there in one step.

    The copy is made beside `out`, so that the last step is a rename on one file system; a process that is killed before it
    leaves `out` as it was.

    Args:
        folder: finished.
        out: its place.
        check: raises if what is at `out` may not be replaced; called right before it is.
        old: called with the folder that was replaced, before it is deleted.

    Raises:
        OSError: the disk is full or can't be written to; `out` is as it was.

    """
    out = out.absolute()
    out.parent.mkdir(parents=True, exist_ok=True)
    _recover(out)
    _sweep(out)
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    need = sum(path.stat().st_size for path in files)
    free = shutil.disk_usage(out.parent).free
    if need > free:
        raise OSError(errno.ENOSPC, f"{need / 1e6:.1f} MB are needed, {free / 1e6:.1f} MB are free", str(out.parent))
    partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.partial-{os.getpid()}-", dir=out.parent))
    try:
        partial.chmod(0o777 & ~_umask())
        for path in files:
            copy = partial / path.relative_to(folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
            _flush(copy)
        check(out)
        if out.exists() and any(out.iterdir()):
            _exchange(partial, out)
            if old is not None:
                old(partial)
        else:
            partial.replace(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _exchange(new: Path, out: Path) -> None:
    """Swap two folders; where the system can't do that in one step, in two renames that leave no loss."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if hasattr(libc, "renameat2"):
            at_cwd, exchange = -100, 2  # linux/fcntl.h, linux/fs.h
            if libc.renameat2(at_cwd, os.fsencode(new), at_cwd, os.fsencode(out), exchange) == 0:
                return
    old = new.with_name(f"{new.name}-old")
    out.rename(old)
    try:
        new.rename(out)
    except OSError:
        old.rename(out)
        raise
    old.rename(new)


def _umask() -> int:
    """Return the process's umask, which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _recover(out: Path) -> None:
    """Give back its name to a bundle that a build killed between two renames (see `_exchange`) left without one."""
    prefix = f".{out.name}.partial-"
    for path in out.parent.glob(f"{prefix}*-old"):
        if not out.exists() and not alive(path.name.removeprefix(prefix).partition("-")[0]):
            path.rename(out)


def _sweep(out: Path) -> None:
    """Remove what killed builds left beside `out`."""
    prefix = f".{out.name}.partial-"
    for path in out.parent.glob(f"{prefix}*"):
        if not alive(path.name.removeprefix(prefix).partition("-")[0]):
            shutil.rmtree(path, ignore_errors=True)


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
