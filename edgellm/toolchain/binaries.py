"""Facts about native files, as the compiler's readelf tells them."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from edgellm.errors import DeviceError
from edgellm.runtime.bundle import sha256_file

_NEEDED = re.compile(r"\(NEEDED\).*\[(.+)\]")
_WANTED = re.compile(r"Name: (GLIBC|GLIBCXX)_([0-9.]+)\s")


@dataclass(frozen=True)
class NativeFile:
    """One file of a runner.

    Attributes:
        path: relative to the runner's folder.
        bytes, sha256: of it.
        needed: libraries that the loader brings; empty for a file that is no program or library.
        glibc: newest symbol version of the C library that it asks for, or None.
        glibcxx: newest symbol version of the C++ library that it asks for, or None.

    """

    path: str
    bytes: int
    sha256: str
    needed: tuple[str, ...]
    glibc: str | None
    glibcxx: str | None


def read(path: Path) -> NativeFile:
    """Return the facts about a file.

    Raises:
        DeviceError: there is no readelf, or it can't read the file.

    """
    needed: tuple[str, ...] = ()
    wanted: list[tuple[str, str]] = []
    with path.open("rb") as file:
        elf = file.read(4) == b"\x7fELF"
    if elf:
        environment = {**os.environ, "LC_ALL": "C"}
        try:
            command = ["readelf", "--dynamic", "--version-info", "--wide", str(path)]
            done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        except (OSError, subprocess.CalledProcessError) as error:
            raise DeviceError(f"readelf can't read {path.name}: {error}.") from None
        needed = tuple(_NEEDED.findall(done.stdout))
        wanted = _WANTED.findall(done.stdout)
    return NativeFile(
        path=path.name,
        bytes=path.stat().st_size,
        sha256=sha256_file(path),
        needed=needed,
        glibc=newest(version for name, version in wanted if name == "GLIBC"),
        glibcxx=newest(version for name, version in wanted if name == "GLIBCXX"),
    )


def newest(versions: Iterable[str | None]) -> str | None:
    """Return the newest of versions such as "2.27"; None if there is none."""
    known = [version for version in versions if version]
    return max(known, key=lambda version: tuple(int(part) for part in version.split("."))) if known else None
