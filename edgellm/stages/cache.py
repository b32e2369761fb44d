"""A content-addressed cache: results of stages on disk, keyed by everything that went into them.

An entry is a folder that appears whole or not at all; two builds that want the same entry take turns. Its files are
checked by hash when it is read, so a damaged cache costs time and never an artifact.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgellm.errors import MissingDependencyError, UsageError
from edgellm.folders import cache_dir
from edgellm.runtime.bundle import sha256_file

MAX_BYTES = 8_000_000_000
"""Entries are dropped, the longest unused first, until the cache is this small; EDGELLM_CACHE_MAX_BYTES overrides."""

_ENTRY = "entry.json"
_PACKAGE = Path(__file__).resolve().parent.parent
_CODE = ("core", "tasks", "backends", "stages", "abi", "device", "runtime", "toolchain")


@dataclass(frozen=True)
class Entry:
    """A finished result.

    Attributes:
        folder: with its files.
        value: what the stage returned.

    """

    folder: Path
    value: dict[str, Any]


class Cache:
    """Entries under one folder; with `enabled` false everything is made anew and kept nowhere."""

    def __init__(self, root: Path, *, enabled: bool = True) -> None:
        self.root = root
        self.enabled = enabled
        for name in ("entries", "locks", "tmp", "logs"):
            (root / name).mkdir(parents=True, exist_ok=True)

    @classmethod
    def default(cls, *, enabled: bool = True) -> Cache:
        """Return the user's cache (see `cache_dir`)."""
        return cls(cache_dir(), enabled=enabled)

    def get(self, key: str) -> Entry | None:
        """Return the entry for `key` if it is there and undamaged; a damaged one is removed."""
        if not self.enabled:
            return None
        folder = self.root / "entries" / key
        try:
            data = json.loads((folder / _ENTRY).read_text(encoding="utf-8"))
            value = data["value"]
            intact = all(sha256_file(folder / name) == digest for name, digest in data["files"].items())
        except FileNotFoundError:
            intact = False
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            intact = False
        if not intact:
            if folder.exists():
                self._remove(folder)
            return None
        with contextlib.suppress(FileNotFoundError):
            os.utime(folder)
        return Entry(folder, value)

    def put(self, key: str, work: Path, value: dict[str, Any]) -> Entry:
        """Turn a finished work folder into the entry for `key`, and return it."""
        files = {p.relative_to(work).as_posix(): sha256_file(p) for p in sorted(work.rglob("*")) if p.is_file()}
        (work / _ENTRY).write_text(json.dumps({"value": value, "files": files}), encoding="utf-8")
        if not self.enabled:
            return Entry(work, value)
        folder = self.root / "entries" / key
        if folder.exists():
            self._remove(folder)
        work.rename(folder)
        return Entry(folder, value)

    @contextmanager
    def workspace(self) -> Iterator[Path]:
        """Yield a folder for work in progress; what is left of it afterwards is removed."""
        folder = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=self.root / "tmp"))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def locked(self, key: str) -> Iterator[None]:
        """Hold the lock of `key`: two builds of the same thing take turns, and the second finds it done."""
        if not self.enabled:
            yield
            return
        from filelock import FileLock

        with FileLock(self.root / "locks" / f"{key}.lock"):
            yield

    def tidy(self) -> None:
        """Drop what killed builds left behind, and the longest unused entries beyond the size limit."""
        for folder in (self.root / "tmp").iterdir():
            if not alive(folder.name.partition("-")[0]):
                shutil.rmtree(folder, ignore_errors=True)
        limit = os.environ.get("EDGELLM_CACHE_MAX_BYTES", str(MAX_BYTES))
        if not limit.isdigit():
            raise UsageError(f"EDGELLM_CACHE_MAX_BYTES is {limit!r}; it is a whole number of bytes.")
        folders = (path for path in (self.root / "entries").iterdir() if path.is_dir())
        entries = sorted(folders, key=_age)
        total = 0
        for folder in entries:
            with contextlib.suppress(FileNotFoundError):  # another build may be tidying as well
                total += sum(path.stat().st_size for path in folder.rglob("*"))
            if total > int(limit):
                self._remove(folder)
        for log in sorted((self.root / "logs").iterdir(), key=_age, reverse=True)[:-20]:
            log.unlink(missing_ok=True)

    def _remove(self, folder: Path) -> None:
        """Remove an entry so that nobody sees half of it."""
        grave = tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=self.root / "tmp")
        with contextlib.suppress(FileNotFoundError):
            folder.rename(Path(grave) / "gone")
        shutil.rmtree(grave, ignore_errors=True)


_EXTRAS = {"onnxruntime-qnn": "qnn"}
"""Distribution to the extra that has it, where that is another than `build`."""


def key_of(kind: str, tools: tuple[str, ...], **parts: object) -> str:
    """Return the key of a result: over its inputs, the versions of the tools, and edgellm's own code."""
    data = {"kind": kind, "tools": versions(tools), "code": _code_digest(), **parts}
    return f"{kind}-{hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:40]}"


def versions(tools: tuple[str, ...]) -> dict[str, str]:
    """Return distribution to installed version, without importing any.

    Raises:
        MissingDependencyError: one is not installed.

    """
    found = {}
    for tool in tools:
        try:
            found[tool] = importlib.metadata.version(tool)
        except importlib.metadata.PackageNotFoundError:
            raise MissingDependencyError(
                f"Building needs {tool}.", hint=f"Install it with: pip install 'edgellm[{_EXTRAS.get(tool, 'build')}]'"
            ) from None
    return found


@functools.cache
def _code_digest() -> str:
    digest = hashlib.sha256()
    for path in sorted(path for name in _CODE for path in (_PACKAGE / name).rglob("*.py")):
        digest.update(path.relative_to(_PACKAGE).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def _age(path: Path) -> float:
    """Return seconds since a path was used; one that is gone is the oldest."""
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return math.inf


def alive(pid: str) -> bool:
    """Return whether a process with this number runs."""
    if not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
