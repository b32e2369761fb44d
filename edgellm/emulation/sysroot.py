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

A setup removes what nobody used for 30 days: folders of other keys, and what killed workers left (`leftovers`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edgellm.emulation.cpus import CPUS, Cpu, cpu_model
from edgellm.emulation.leftovers import tidy
from edgellm.emulation.push import compile_tree
from edgellm.errors import DeviceError, EdgellmError, MissingDependencyError
from edgellm.folders import cache_dir, shipped
from edgellm.toolchain.downloads import Download, fetch
from edgellm.toolchain.packages import debian_arch, debs, wheels
from edgellm.toolchain.unpack import unpack_deb, unpack_wheel

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

TRIAL_S = 300.0
"""Seconds that the first emulated import of everything may take."""

_QEMU_VERSION = "7.2"
"""Whose plugins the counter is written for; other builds of Debian's have none."""
_MODULES = ("numpy", "tokenizers", "onnxruntime", "ai_edge_litert.interpreter")
_LAYOUT = 1
_MARKER = "complete.json"
_LOADERS = {
    "amd64": "lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
    "arm64": "lib/aarch64-linux-gnu/ld-linux-aarch64.so.1",
}


class Progress(Protocol):
    """Hears how a setup goes on."""

    def step(self, text: str) -> None:
        """Hear what begins."""
        ...

    def downloading(self, download: Download, done: int) -> None:
        """Hear how many bytes of a file are here."""
        ...


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
        loader = root / _LOADERS[_host_arch()]
        libraries = f"{loader.parent}:{root / 'usr' / loader.parent.relative_to(root)}"
        return [str(loader), "--library-path", libraries, str(root / "usr/bin/qemu-aarch64")]


def ready() -> Emulation | None:
    """Return the emulator if it is set up; cheap, and without the network. None as well where it can't run."""
    try:
        folder = _folder()
    except EdgellmError:
        return None
    emulation = Emulation(folder)
    needed = [folder / _MARKER, folder / "qemu/usr/bin/qemu-aarch64", emulation.site / "numpy"]
    needed += [emulation.sysroot(cpu) / "proc/cpuinfo" for cpu in CPUS.values()]
    return emulation if all(path.exists() for path in needed) else None


def lacking() -> str:
    """Return what makes the emulator ready, or why nothing does on this machine; empty if it is ready."""
    if ready():
        return ""
    try:
        _folder()
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
        _folder()
        raise MissingDependencyError("The emulator is not set up.", hint=f"Set it up with: {SETUP_COMMAND}")
    with contextlib.suppress(OSError):
        os.utime(found.folder)
    return found


def setup(progress: Progress, cpus: Sequence[str] = ()) -> int | None:
    """Download and unpack what the emulator is made of, unless it is there.

    Args:
        progress: hears how it goes on.
        cpus: CPU models to try it out on; all if empty, and none if it was there.

    Returns:
        how many bytes came over the network in this run; None if it was there.

    Raises:
        UsageError: there is no such CPU model.
        MissingDependencyError: apt-get, dpkg-deb or pip is missing, or apt's sources are not Debian 12's.
        DeviceError: the network or the disk failed, or a download is not what its hash says.

    """
    from filelock import FileLock

    chosen = [cpu_model(name) for name in dict.fromkeys(cpus)]
    folder = _folder()
    folder.parent.mkdir(parents=True, exist_ok=True)
    tidy(folder)
    with FileLock(folder.with_suffix(".lock")):
        if found := ready():
            _try_out(found, chosen, progress)
            return None
        fetched: dict[str, int] = {}
        packages = _fetch(progress, fetched)
        try:
            _build(folder, packages, progress, chosen or list(CPUS.values()))
        except OSError as error:
            raise DeviceError(
                f"The emulator could not be unpacked in {folder.parent}: {error.strerror or error}.",
                hint="See that there is room and the folder can be written, then run it again.",
            ) from None
        return sum(fetched.values())


def _host_arch() -> str:
    arch = debian_arch(os.uname().machine)
    if arch not in _LOADERS or os.uname().sysname != "Linux":
        raise DeviceError(
            f"The emulator runs on Linux on x86_64 or aarch64, and this is {os.uname().sysname} on {arch}.",
            hint="Use a container with Debian 12.",
        )
    return arch


def _requirements() -> Path:
    return shipped("toolchains") / "emulator" / "requirements.txt"


def _folder() -> Path:
    cpus = [cpu.cpuinfo for cpu in CPUS.values()]
    parts = [_LAYOUT, _host_arch(), GUEST, QEMU, cpus, _requirements().read_text(encoding="utf-8")]
    return cache_dir() / "emulation" / hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def _fetch(progress: Progress, fetched: dict[str, int]) -> dict[str, list[Path]]:
    """Return the downloaded files by where they belong; `fetched` gets the bytes that came for each."""
    progress.step("asking apt and pip for packages")
    wanted = {
        "qemu": debs(QEMU, _host_arch()),
        "base": debs(GUEST, "arm64"),
        "site": wheels(_requirements()),
    }
    begun: dict[str, int] = {}

    def report(download: Download, done: int) -> None:
        fetched[download.name] = done - begun.setdefault(download.name, done)
        progress.downloading(download, done)

    progress.step(f"downloading {sum(map(len, wanted.values()))} packages")
    folder = cache_dir() / "emulation" / "downloads"
    return {place: fetch(downloads, folder, report) for place, downloads in wanted.items()}


def _build(folder: Path, packages: Mapping[str, list[Path]], progress: Progress, cpus: Sequence[Cpu]) -> None:
    """Make the emulator's folder from downloaded packages."""
    work = folder.with_suffix(".part")
    shutil.rmtree(work, ignore_errors=True)  # of one that was killed: the lock is held
    shutil.rmtree(folder, ignore_errors=True)
    progress.step("unpacking")
    for path in packages["qemu"]:
        unpack_deb(path, work / "qemu", lambda name: name == "usr/bin/qemu-aarch64" or _is_library(name))
    for path in packages["base"]:
        unpack_deb(path, work / "base", lambda name: "/gconv/" not in name)
    for path in packages["site"]:
        unpack_wheel(path, work / "site")
    for cpu in CPUS.values():
        _make_sysroot(work / "cpus" / cpu.name, cpu)
    progress.step("compiling Python modules")
    compile_tree(work / "base" / "usr/lib/python3.11")
    compile_tree(work / "site")
    names = {place: [path.name for path in paths] for place, paths in packages.items()}
    marker = {"packages": [f"{place}/{name}" for place in names for name in names[place]]}
    (work / _MARKER).write_text(json.dumps(marker, indent=1), encoding="utf-8")
    _try_out(Emulation(work), cpus, progress)
    work.rename(folder)


def _try_out(emulation: Emulation, cpus: Sequence[Cpu], progress: Progress) -> None:
    """Import what workers import, so that packages that don't fit each other never become a finished emulator.

    Raises:
        DeviceError: something does not import, or qemu is another version than the counter is for.

    """
    said = _try([*emulation.qemu_program(), "--version"], "qemu")
    if not said.stdout.startswith(f"qemu-aarch64 version {_QEMU_VERSION}."):
        raise DeviceError(
            f"The emulator wants qemu {_QEMU_VERSION}, and apt gave another: "
            f"{(said.stdout or said.stderr).strip().partition(chr(10))[0] or 'it says nothing'}.",
            hint="See that apt's sources are Debian 12's and no preferences prefer another release, remove "
            f"{emulation.folder} and run it again.",
        )
    for cpu in cpus:
        progress.step(f"trying it out on {cpu.name}")
        program = [emulation.python(cpu), "-S", "-c", f"import {', '.join(_MODULES)}"]
        done = _try(emulation.qemu(cpu) + program, f"its Python on {cpu.name}", PYTHONPATH=str(emulation.site))
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f"it ended with code {done.returncode}"]
            raise DeviceError(
                f"The emulator's Python on {cpu.name} does not import what workers need: {lines[-1]}.",
                hint="See that apt's sources are Debian 12's, of one age.",
            )


def _try(command: list[str], what: str, **environment: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, errors="replace", check=False, timeout=TRIAL_S
        )
    except subprocess.TimeoutExpired:
        raise DeviceError(
            f"The emulator does not work: {what} did not end in {TRIAL_S:g} s.",
            hint="Run it again when the machine has less to do.",
        ) from None


def _make_sysroot(root: Path, cpu: Cpu) -> None:
    """Make the prefix that qemu looks under for a CPU model."""
    root.mkdir(parents=True)
    for name in ("lib", "usr"):
        (root / name).symlink_to(Path("../../base") / name)
    files = {"proc/cpuinfo": cpu.cpuinfo}
    # Libraries count cores here, and in cpuinfo; both must say the same.
    files |= {f"sys/devices/system/cpu/{name}": f"0-{cpu.cores - 1}\n" for name in ("online", "possible", "present")}
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")


def _is_library(name: str) -> bool:
    return ".so" in Path(name).name and "/gconv/" not in name
