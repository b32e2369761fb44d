"""Counts the instructions of an emulated process, readable while it runs (see counter.c)."""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path

from edgellm.errors import DeviceError, MissingDependencyError
from edgellm.folders import cache_dir

_SOURCE = Path(__file__).with_name("counter.c")
_FLAGS = ("-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-fvisibility=hidden")


def plugin() -> Path:
    """Return qemu's counting plugin, compiled into the cache when it is first needed.

    Raises:
        MissingDependencyError: the machine has no C compiler.
        DeviceError: the compiler fails.

    """
    source = _SOURCE.read_bytes()
    # Between machines that share a home folder the file name tells them apart.
    key = hashlib.sha256(source + " ".join(_FLAGS).encode() + os.uname().machine.encode()).hexdigest()[:16]
    path = cache_dir() / "emulation" / f"counter-{key}.so"
    if not path.is_file():
        compiler = c_compiler()
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix="tmp-") as folder:
            built = Path(folder) / path.name
            done = subprocess.run(
                [compiler, *_FLAGS, "-o", str(built), str(_SOURCE)], capture_output=True, text=True, check=False
            )
            if done.returncode:
                lines = [line for line in done.stderr.splitlines() if "error" in line] or ["it said nothing"]
                raise DeviceError(
                    f"{compiler} can't compile the instruction counter: {lines[0]}.",
                    hint="It wants the C library's headers as well: apt-get install gcc libc6-dev",
                )
            built.replace(path)
    return path


def c_compiler() -> str:
    """Return the machine's own C compiler: CC, or cc, gcc, clang.

    Raises:
        MissingDependencyError: there is none.

    """
    for name in filter(None, (os.environ.get("CC"), "cc", "gcc", "clang")):
        if found := shutil.which(name):
            return found
    raise MissingDependencyError(
        "Counting instructions needs a C compiler.", hint="Install one with: apt-get install gcc libc6-dev"
    )


class Counter:
    """A running total in a file that the plugin writes into."""

    def __init__(self, file: Path) -> None:
        file.write_bytes(bytes(8))
        self._file = file

    @property
    def options(self) -> list[str]:
        """What makes qemu count into this counter."""
        # A comma separates options there, and is written twice to stand for itself.
        library, out = (str(path).replace(",", ",,") for path in (plugin(), self._file))
        return ["-plugin", f"{library},out={out}"]

    def read(self) -> int:
        """Return how many instructions were executed so far."""
        return int(struct.unpack("=Q", self._file.read_bytes())[0])
