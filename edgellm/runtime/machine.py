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


@dataclass(frozen=True)
class Machine:
    """What a latency depends on beside the artifact.

    Attributes:
        cpu: model name, or the part number where the kernel gives no name.
        arch: as `uname -m`.
        cores: logical cores this process may use.
        features: instruction set extensions that int8 kernels use.
        governor: frequency governor of the first core; None where there is none to read.
        load: load average of the last minute at the time of asking; None where unknown.
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
        return (
            f"{self.cpu}, {self.arch}, {self.cores} cores, {' '.join(self.features) or 'no int8 extensions'}, "
            f"governor {self.governor or 'unknown'}, load {'unknown' if self.load is None else self.load}"
        )


def machine() -> Machine:
    """Return the facts about this machine, now."""
    cpu, features = _cpuinfo()
    return Machine(
        cpu=cpu,
        arch=platform.machine(),
        cores=cores(),
        features=features,
        governor=_read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        load=round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
    )


def cpu_identity() -> str:
    """Return what decides which kernels an engine picks here: architecture, CPU and its features."""
    cpu, features = _cpuinfo()
    return f"{platform.machine()} {cpu} {' '.join(features)}"


def cores() -> int:
    """Return how many logical cores this process may use."""
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
        name = f"implementer {fields.get('CPU implementer')} part {fields['CPU part']}"
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    return name or platform.processor() or "unknown CPU", tuple(f for f in _FEATURES if f in flags)


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
