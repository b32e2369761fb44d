"""The emulator's files in the cache: qemu for this machine, a Debian 12 for aarch64, and the wheels a device has.

    <cache>/emulation/<key>/qemu/         qemu-aarch64 and the libraries it needs here, its loader among them
    <cache>/emulation/<key>/base/         Python 3.11 and the C and C++ libraries for aarch64
    <cache>/emulation/<key>/site/         the wheels
    <cache>/emulation/<key>/cpus/<name>/  a system root per CPU model: links to base, and the files that describe a CPU
    <cache>/emulation/<key>/complete.json what all that was made of
    <cache>/emulation/work/               a folder per worker, while it runs

The key is a hash of what is asked for, the folder appears whole or not at all, and two that set up at once take turns.
Nothing needs root, neither here nor when something runs: qemu-user runs one process, and looks under a prefix for every
file that exists there (its -L).

`edgellm.emulation.setup` makes them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from edgellm.emulation.cpus import CPUS, Cpu
from edgellm.errors import DeviceError, EdgellmError, MissingDependencyError
from edgellm.folders import cache_dir, shipped
from edgellm.toolchain.packages import debian_arch

SETUP_COMMAND = "edgellm device setup emulator"
GUEST = (
    "libc6", "libgcc-s1", "libstdc++6", "libgomp1", "zlib1g", "libbz2-1.0", "liblzma5", "libcrypt1", "libexpat1",
    "libffi8", "libssl3", "libuuid1", "python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib",
)  # fmt: skip
"""Packages of the emulated system."""
QEMU = (
    "qemu-user", "libc6", "libcapstone4", "libffi8", "libgcc-s1", "libglib2.0-0", "libgmp10", "libgnutls30",
    "libhogweed6", "libidn2-0", "libnettle8", "libnuma1", "libp11-kit0", "libpcre2-8-0", "libtasn1-6",
    "libunistring2", "liburing2", "zlib1g",
)  # fmt: skip
"""qemu and all it links to, C library included: it runs the same on any distribution."""

MARKER = "complete.json"
"""Written last: without it a folder is not finished."""

_LAYOUT = 1
_LOADERS = {
    "amd64": "lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
    "arm64": "lib/aarch64-linux-gnu/ld-linux-aarch64.so.1",
}


@dataclass(frozen=True)
class Emulation:
    """A finished emulator on this machine."""

    folder: Path

    @property
    def site(self) -> Path:
        """The folder with the wheels, for the emulated module path."""
        return self.folder / "site"

    def sysroot(self, cpu: Cpu) -> Path:
        """Return the system root of a CPU model."""
        return self.folder / "cpus" / cpu.name

    def python(self, cpu: Cpu) -> str:
        """Return the path of the emulated Python."""
        return str(self.sysroot(cpu) / "usr/bin/python3.11")

    def qemu(self, cpu: Cpu, options: list[str] | None = None) -> list[str]:
        """Return the beginning of a command line that runs an aarch64 program on a CPU model."""
        return [*self.qemu_program(), "-cpu", cpu.name, "-L", str(self.sysroot(cpu)), *(options or ())]

    def qemu_program(self) -> list[str]:
        """Return the command line that starts qemu itself."""
        root = self.folder / "qemu"
        loader = root / _LOADERS[host_arch()]
        libraries = f"{loader.parent}:{root / 'usr' / loader.parent.relative_to(root)}"
        return [str(loader), "--library-path", libraries, str(root / "usr/bin/qemu-aarch64")]


def ready() -> Emulation | None:
    """Return the emulator if it is set up; cheap, and without the network. None as well where it can't run."""
    try:
        folder = system_folder()
    except EdgellmError:
        return None
    emulation = Emulation(folder)
    needed = [folder / MARKER, folder / "qemu/usr/bin/qemu-aarch64", emulation.site / "numpy"]
    needed += [emulation.sysroot(cpu) / "proc/cpuinfo" for cpu in CPUS.values()]
    return emulation if all(path.exists() for path in needed) else None


def lacking() -> str:
    """Return what makes the emulator ready, or why nothing does on this machine; empty if it is ready."""
    if ready():
        return ""
    try:
        system_folder()
    except EdgellmError as error:
        return str(error)
    return SETUP_COMMAND


def require() -> Emulation:
    """Return the emulator, and note that it is used.

    Raises:
        MissingDependencyError: it is not set up; the hint is the command that does it.
        DeviceError: it can't run on this machine.

    """
    found = ready()
    if found is None:
        system_folder()
        raise MissingDependencyError("The emulator is not set up.", hint=f"Set it up with: {SETUP_COMMAND}")
    with contextlib.suppress(OSError):
        os.utime(found.folder)
    return found


def host_arch() -> str:
    """Return Debian's name of this machine's architecture.

    Raises:
        DeviceError: the emulator does not run on this system or architecture.

    """
    arch = debian_arch(os.uname().machine)
    if arch not in _LOADERS or os.uname().sysname != "Linux":
        raise DeviceError(
            f"The emulator runs on Linux on x86_64 or aarch64, and this is {os.uname().sysname} on {arch}.",
            hint="Use a container with Debian 12.",
        )
    return arch


def requirements() -> Path:
    """Return the file that pins the wheels."""
    return shipped("toolchains") / "emulator" / "requirements.txt"


def system_folder() -> Path:
    """Return where the emulator of this version is, or would be. Raises as `host_arch`."""
    cpus = [cpu.cpuinfo for cpu in CPUS.values()]
    parts = [_LAYOUT, host_arch(), GUEST, QEMU, cpus, requirements().read_text(encoding="utf-8")]
    return cache_dir() / "emulation" / hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]
