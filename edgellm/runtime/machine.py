"""Facts about the machine that figures were measured on."""

from __future__ import annotations

import functools
import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

_FEATURES = (
    # x86: what int8 kernels are chosen by
    "avx2", "avx512f", "avx512bw", "avx_vnni", "avx512_vnni", "amx_int8", "amx_tile",
    # Arm, as /proc/cpuinfo names them
    "asimd", "asimdhp", "asimddp", "i8mm", "sve", "sve2", "bf16",
)  # fmt: skip


EMULATED = "EDGELLM_EMULATED"
"""Set to 1 in the environment of workers that an emulator runs: they can't tell."""

_PARTS = {"0xd03": "Cortex-A53", "0xd08": "Cortex-A72", "0xd0b": "Cortex-A76"}
"""Arm's part numbers, where the kernel gives no name."""

_STARVED = (
    "MemoryError", "bad_alloc", "annot allocate memory", "emory allocation", "failed to map segment", "ut of memory",
)  # fmt: skip
"""What Python, C++, the C library, OpenBLAS, the dynamic linker and engines say then."""


@dataclass(frozen=True)
class Machine:
    """What a latency depends on beside the artifact.

    Attributes:
        cpu: model name, or the part number where the kernel gives no name.
        arch: as `uname -m`.
        cores: logical cores this process may use; under an emulator those of the CPU model.
        features: instruction set extensions that int8 kernels use.
        governor: frequency governor of the first core; None where there is none to read, and under an emulator.
        load: load average of the last minute at the time of asking; None where unknown, and under an emulator.
        system: operating system and its release.
        python: version.
        emulated: whether an emulator runs this process.

    """

    cpu: str
    arch: str
    cores: int
    features: tuple[str, ...]
    governor: str | None
    load: float | None
    system: str
    python: str
    emulated: bool = False

    def __str__(self) -> str:
        load = "unknown" if self.load is None else self.load
        return f"{self.hardware}, governor {self.governor or 'unknown'}, load {load}"

    @property
    def hardware(self) -> str:
        """What is the same at any moment."""
        return f"{self.cpu}, {self.arch}, {self.cores} cores, {' '.join(self.features) or 'no int8 extensions'}"


def machine() -> Machine:
    """Return the facts about this machine, now."""
    cpu, features = _cpuinfo()
    emulated = os.environ.get(EMULATED) == "1"
    known = hasattr(os, "getloadavg") and not emulated  # an emulator shows the host's
    return Machine(
        cpu=cpu,
        arch=platform.machine(),
        cores=cores(),
        features=features,
        governor=None if emulated else _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        load=round(os.getloadavg()[0], 2) if known else None,
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        emulated=emulated,
    )


def cpu_identity() -> str:
    """Return what decides which kernels an engine picks here: architecture, CPU and its features."""
    cpu, features = _cpuinfo()
    return f"{platform.machine()} {cpu} {' '.join(features)}"


def cores() -> int:
    """Return how many logical cores this process may use; under an emulator, how many its CPU model has.

    The emulator shows a /proc/cpuinfo of its own, but the host's affinity.
    """
    if os.environ.get(EMULATED) == "1":
        lines = (_read("/proc/cpuinfo") or "").splitlines()
        if shown := sum(line.partition(":")[0].strip() == "processor" for line in lines):
            return shown
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def peak_rss_bytes() -> int:
    """Return the largest resident set this process has had, in bytes.

    VmHWM, because ru_maxrss survives exec and so may be the parent's.
    """
    for line in (_read("/proc/self/status") or "").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@functools.cache
def _cpuinfo() -> tuple[str, tuple[str, ...]]:
    fields: dict[str, str] = {}
    for line in (_read("/proc/cpuinfo") or "").splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    name = fields.get("model name") or fields.get("Model") or ""
    if not name and "CPU part" in fields:
        part = fields["CPU part"]
        arm = _PARTS.get(part) if fields.get("CPU implementer") == "0x41" else None
        name = arm or f"implementer {fields.get('CPU implementer')} part {part}"
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    return name or platform.processor() or "unknown CPU", tuple(f for f in _FEATURES if f in flags)


def out_of_memory(text: str) -> bool:
    """Return whether an engine's or a process's last words say that memory ran out; none has an error of its own."""
    return any(sign in text for sign in _STARVED)


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
