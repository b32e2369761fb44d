"""What the native runner is built from, in the cache: ExecuTorch's headers and libraries, a JSON header, a C library.

Everything is downloaded once, checked by hash, and unpacked into a folder that gets its name when it is complete.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import platform
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from edgellm.errors import DeviceError, MissingDependencyError, UsageError
from edgellm.folders import cache_dir, shipped
from edgellm.toolchain import downloads, packages
from edgellm.toolchain.downloads import Download, Report
from edgellm.toolchain.unpack import unpack_deb, unpack_wheel

_WHEEL_PARTS = ("executorch/include/", "executorch/lib/", "executorch/share/")


def folder() -> Path:
    """Return where the runner's parts and builds are kept."""
    return cache_dir() / "runner"


def executorch_here() -> tuple[Path, str]:
    """Return the installed ExecuTorch package and its version, without importing it.

    Raises:
        MissingDependencyError: it is not installed.
        UsageError: this machine is no x86-64 Linux.

    """
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise UsageError(
            f"linux-x86_64 is built with this machine's own compiler, and this is {platform.system()} "
            f"{platform.machine()}."
        )
    spec = importlib.util.find_spec("executorch")
    places = list(spec.submodule_search_locations or ()) if spec else []
    if not places:
        raise MissingDependencyError(
            "The runner is linked with ExecuTorch's libraries, and the package is not installed.",
            hint="Install it with: pip install 'edgellm[executorch]'",
        )
    return Path(places[0]), importlib.metadata.version("executorch")


def executorch_arm64(report: Report | None = None) -> tuple[Path, str]:
    """Return ExecuTorch's package for aarch64 Linux, unpacked as far as a build needs it, and its version.

    Raises:
        DeviceError: the network or the disk failed.

    """
    requirements = shipped("toolchains") / "runner" / "requirements.txt"
    pinned = requirements.read_text(encoding="utf-8")
    version = pinned.partition("executorch==")[2].split()[0]

    def fill(target: Path) -> None:
        found = packages.wheels(requirements)
        for path in downloads.fetch(found, folder() / "downloads", report):
            unpack_wheel(path, target, lambda name: name.startswith(_WHEEL_PARTS))

    return _unpacked(f"executorch-{version}-aarch64", pinned, fill) / "executorch", version


def json_headers() -> tuple[Path, str]:
    """Return the folder with nlohmann/json.hpp, from the package that carries it, and its version.

    Raises:
        MissingDependencyError: it is not installed.

    """
    spec = importlib.util.find_spec("nlohmann_json")
    places = list(spec.submodule_search_locations or ()) if spec else []
    if not places:
        raise MissingDependencyError(
            "The runner reads JSON with nlohmann-json, which is not installed.",
            hint="Install it with: pip install 'edgellm[native]'",
        )
    return Path(places[0]) / "include", importlib.metadata.version("nlohmann-json")


def sysroot_arm64(report: Report | None = None) -> Path:
    """Return a root with the C and C++ libraries of the oldest aarch64 Linux that the runner is for.

    Raises:
        DeviceError: the network or the disk failed.
        MissingDependencyError: this machine has no apt-get or dpkg-deb.

    """
    pins = (shipped("toolchains") / "runner" / "sysroot-arm64.txt").read_text(encoding="utf-8")
    rows = [line.split() for line in pins.splitlines() if line and not line.startswith("#")]

    def fill(target: Path) -> None:
        # apt says which mirror this machine uses; the packages themselves are pinned, as its lists end with a release.
        mirror = packages.debs(["libc6"], "arm64")[0].url.partition("/pool/")[0]
        wanted = [
            Download(path.rpartition("/")[2], f"{mirror}/{path}", digest, int(size)) for digest, size, path in rows
        ]
        try:
            found = downloads.fetch(wanted, folder() / "downloads", report)
        except DeviceError as error:
            raise DeviceError(
                str(error.args[0]), hint="--no-sysroot links the cross compiler's own, newer C library instead."
            ) from None
        for path in found:
            unpack_deb(path, target)

    return _unpacked("sysroot-arm64", pins, fill)


def _unpacked(name: str, made_of: str, fill: Callable[[Path], None]) -> Path:
    """Return the folder that `fill` fills, once; another process that wants it waits."""
    from filelock import FileLock

    target = folder() / f"{name}-{hashlib.sha256(made_of.encode()).hexdigest()[:12]}"
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(f".{target.name}.lock")):
        if not target.is_dir():
            work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
            try:
                fill(work)
                work.rename(target)
            finally:
                shutil.rmtree(work, ignore_errors=True)
    return target
