"""Makes the emulator's files: downloads packages, unpacks them, and tries out that they fit each other.

A setup removes what nobody used for 30 days: folders of other keys, and what killed workers left (`leftovers`).
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from edgellm.emulation.cpus import CPUS, Cpu, cpu_model
from edgellm.emulation.leftovers import tidy
from edgellm.emulation.push import compile_tree
from edgellm.emulation.sysroot import GUEST, MARKER, QEMU, Emulation, host_arch, ready, requirements, system_folder
from edgellm.errors import DeviceError
from edgellm.folders import cache_dir
from edgellm.toolchain.downloads import Download, fetch
from edgellm.toolchain.packages import debs, wheels
from edgellm.toolchain.unpack import runs, unpack_deb, unpack_wheel

TRIAL_S = 300.0
"""Seconds that the first emulated import of everything may take."""

_QEMU_VERSION = "7.2"
"""Whose plugins the counter is written for; other builds of Debian's have none."""
_MODULES = ("numpy", "tokenizers", "onnxruntime", "ai_edge_litert.interpreter")


class Progress(Protocol):
    """Hears how a setup goes on."""

    def step(self, text: str) -> None:
        """Hear what begins."""
        ...

    def downloading(self, download: Download, done: int) -> None:
        """Hear how many bytes of a file are here."""
        ...


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
    folder = system_folder()
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


def _fetch(progress: Progress, fetched: dict[str, int]) -> dict[str, list[Path]]:
    """Return the downloaded files by where they belong; `fetched` gets the bytes that came for each."""
    progress.step("asking apt and pip for packages")
    wanted = {
        "qemu": debs(QEMU, host_arch()),
        "base": debs(GUEST, "arm64"),
        "site": wheels(requirements()),
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
        unpack_deb(path, work / "base", lambda name: runs(name) and "/gconv/" not in name)
    for path in packages["site"]:
        unpack_wheel(path, work / "site")
    for cpu in CPUS.values():
        _make_sysroot(work / "cpus" / cpu.name, cpu)
    progress.step("compiling Python modules")
    compile_tree(work / "base" / "usr/lib/python3.11")
    compile_tree(work / "site")
    names = {place: [path.name for path in paths] for place, paths in packages.items()}
    marker = {"packages": [f"{place}/{name}" for place in names for name in names[place]]}
    (work / MARKER).write_text(json.dumps(marker, indent=1), encoding="utf-8")
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
