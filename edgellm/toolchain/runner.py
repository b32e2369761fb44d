"""Builds the native runner (`toolchains/runner`) with CMake, for this machine or another.

A build is kept in the cache under a hash of everything it is made from; the folder that a user names is a copy, which
works wherever it is put.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path

from edgellm.errors import DeviceError, MissingDependencyError, UsageError, unknown
from edgellm.folders import shipped
from edgellm.toolchain import facts, sdk
from edgellm.toolchain.downloads import Report
from edgellm.toolchain.facts import FACTS, RunnerBuild, intact, read_runner, state_facts

_CMAKE = (3, 28)
"""Older ones write $ORIGIN wrongly, says executorch-config.cmake."""
_NDK_VARIABLES = ("ANDROID_NDK", "ANDROID_NDK_HOME")


@dataclass(frozen=True)
class _Recipe:
    """What CMake is told."""

    toolchain: str
    cmake: str
    compiler: str
    executorch: Path
    executorch_version: str
    sysroot: Path | None
    headers: Path
    headers_version: str


def toolchain_names() -> list[str]:
    """Return what a runner can be built for, sorted."""
    return sorted(path.stem for path in shipped("toolchains").glob("*.cmake"))


def build_runner(
    toolchain: str, out: Path, *, version: str | None = None, sysroot: bool = True, report: Report | None = None
) -> RunnerBuild:
    """Build the native runner and put it into `out`.

    Args:
        toolchain: one of `toolchain_names()`.
        out: a new or empty folder, or a runner to replace.
        version: that the runner states; edgellm's own if left out.
        sysroot: whether linux-arm64 is linked with an old C library (glibc 2.31) in place of the cross compiler's own.
        report: told how downloads come along.

    Raises:
        UsageError: there is no such toolchain, or `out` holds something else.
        MissingDependencyError: a compiler, CMake, the NDK or ExecuTorch is missing; the hint says what to install.
        DeviceError: a download or the compiler failed.

    """
    if toolchain not in toolchain_names():
        raise unknown("toolchain", toolchain, toolchain_names())
    _check_out(out)
    said = version or _own_version()
    recipe = _prepare(toolchain, sysroot, report)
    _publish(_built(recipe, said, report), out)
    return read_runner(out)


def cached_runner(toolchain: str, report: Report | None = None) -> Path:
    """Return the folder of a runner in the cache, built first if need be; nobody may change it. Raises as `build_runner`."""
    return _built(_prepare(toolchain, True, report), _own_version(), report)


def _prepare(toolchain: str, sysroot: bool, report: Report | None) -> _Recipe:
    """Find everything before anything is built; what this machine lacks is said before a download begins."""
    if toolchain == "android-arm64":
        _refuse_android()
    program = _cmake()
    headers, headers_version = sdk.json_headers()
    old: Path | None = None
    if toolchain == "linux-arm64":
        compiler = _compiler("aarch64-linux-gnu-g++", "g++-aarch64-linux-gnu")
        root, release = sdk.executorch_arm64(report)
        old = sdk.sysroot_arm64(report) if sysroot else None
    else:
        compiler = _compiler("g++", "g++")
        root, release = sdk.executorch_here()
    return _Recipe(toolchain, program, compiler, root, release, old, headers, headers_version)


def _refuse_android() -> None:
    """Say what an Android build lacks. It is tier 3: the toolchain file is there, and nothing has run."""
    if not any(
        Path(os.environ.get(name) or "-", "build/cmake/android.toolchain.cmake").is_file() for name in _NDK_VARIABLES
    ):
        raise MissingDependencyError(
            "Building for android-arm64 needs an Android NDK, and neither ANDROID_NDK nor ANDROID_NDK_HOME names one.",
            hint="Install one and set ANDROID_NDK to its folder; the Android runner is tier 3, nothing of it was ever built.",
        )
    raise MissingDependencyError(
        "Building for android-arm64 needs ExecuTorch's libraries for Android, which no package holds.",
        hint="It is not supported yet: toolchains/android-arm64.cmake is where one would start.",
    )


def _compiler(name: str, package: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise MissingDependencyError(f"The runner needs {name}.", hint=f"Install it with: apt-get install {package}")
    return found


def _cmake() -> str:
    """Return a CMake that is new enough: the one beside this Python, or the system's."""
    asked = "Install it with: pip install 'edgellm[native]'"
    program = shutil.which("cmake", path=sysconfig.get_path("scripts")) or shutil.which("cmake")
    if program is None:
        raise MissingDependencyError("The runner is built with CMake, which is not installed.", hint=asked)
    match = re.search(r"version (\d+)\.(\d+)", _output([program, "--version"]))
    if match is None or (int(match[1]), int(match[2])) < _CMAKE:
        said = match[0] if match else "of no known version"
        raise MissingDependencyError(f"The runner needs CMake 3.28 or newer; {program} is {said}.", hint=asked)
    return program


def _built(recipe: _Recipe, version: str, report: Report | None) -> Path:
    """Return the cached build of a recipe, making it first if need be; another process that wants it waits."""
    from filelock import FileLock

    compiler = _output([recipe.compiler, "--version"]).splitlines()[0]
    folder = sdk.folder() / "builds" / f"{recipe.toolchain}-{_key(recipe, compiler, version)}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if not intact(folder):
            shutil.rmtree(folder, ignore_errors=True)
            with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as work:
                staged = Path(work, "out")
                _run_cmake(recipe, version, Path(work), staged, folder.with_suffix(".log"))
                release = recipe.executorch_version.partition("+")[0]
                state_facts(staged, toolchain=recipe.toolchain, version=version, executorch=release, compiler=compiler)
                staged.rename(folder)
    return folder


def _key(recipe: _Recipe, compiler: str, version: str) -> str:
    """Return a hash of everything a build is made from."""
    root = shipped("toolchains")
    digest = hashlib.sha256()
    made_of = [recipe.toolchain, recipe.executorch_version, str(recipe.sysroot and recipe.sysroot.name), compiler]
    made_of.append(recipe.headers_version)
    digest.update(json.dumps([*made_of, version, _output([recipe.cmake, "--version"])]).encode())
    sources = [root / f"{recipe.toolchain}.cmake", *(path for path in (root / "runner").rglob("*") if path.is_file())]
    for path in sorted([*sources, Path(__file__), Path(facts.__file__)]):
        digest.update(json.dumps([path.name, hashlib.sha256(path.read_bytes()).hexdigest()]).encode())
    return digest.hexdigest()[:24]


def _run_cmake(recipe: _Recipe, version: str, work: Path, out: Path, log: Path) -> None:
    source = shipped("toolchains")
    build = work / "build"
    ninja = shutil.which("ninja", path=sysconfig.get_path("scripts")) or shutil.which("ninja")
    configure = [
        recipe.cmake, "-S", str(source / "runner"), "-B", str(build),
        *(("-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}") if ninja else ()),
        f"-DCMAKE_TOOLCHAIN_FILE={source / recipe.toolchain}.cmake",
        f"-DCMAKE_CXX_COMPILER={recipe.compiler}",
        "-DCMAKE_BUILD_TYPE=MinSizeRel",
        f"-DEDGELLM_VERSION={version}",
        f"-Dexecutorch_DIR={recipe.executorch / 'share' / 'cmake'}",
        f"-DNLOHMANN_INCLUDE_DIR={recipe.headers}",
        *((f"-DEDGELLM_SYSROOT={recipe.sysroot}",) if recipe.sysroot else ()),
    ]  # fmt: skip
    steps: list[list[str]] = [
        configure,
        [recipe.cmake, "--build", str(build), "--parallel", str(os.cpu_count() or 1)],
        [recipe.cmake, "--install", str(build), "--prefix", str(out), "--strip"],
    ]
    # Flags of the caller's own projects have no place in a build that is cached.
    flags = (
        "CFLAGS", "CXXFLAGS", "CPPFLAGS", "LDFLAGS", "CMAKE_GENERATOR", "CMAKE_TOOLCHAIN_FILE", "DESTDIR", "CPATH",
        "C_INCLUDE_PATH", "CPLUS_INCLUDE_PATH", "LIBRARY_PATH", "COMPILER_PATH", "CMAKE_C_COMPILER_LAUNCHER",
        "CMAKE_CXX_COMPILER_LAUNCHER",
    )  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if name not in flags}
    with log.open("w", encoding="utf-8") as file:
        for step in steps:
            if subprocess.run(step, stdout=file, stderr=subprocess.STDOUT, env=environment, check=False).returncode:
                raise DeviceError(f"The runner does not build: {_first_error(log)}", hint=f"All of it is in {log}.")
    log.unlink()


def _first_error(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    # Not any "error": the compiler's command line, which comes first, holds -Werror.
    errors = [line for line in lines if re.search(r"\berror: |CMake Error|undefined reference|cannot find -l", line)]
    return (errors or lines[-1:] or ["CMake said nothing"])[0][:300]


def _check_out(out: Path) -> None:
    """Check that a runner may be written to `out`: a new folder, an empty one, or a runner to replace."""
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise UsageError(f"{out} exists and is no folder.", hint="Choose another --out.")
    if not out.is_dir() or not any(out.iterdir()):
        return
    try:
        listed = {file.path for file in read_runner(out).files} | {FACTS}
    except UsageError:
        listed = set()
    if {path.name for path in out.iterdir()} - listed:
        raise UsageError(f"{out} holds something that is no runner, and is left alone.", hint="Choose another --out.")


def _publish(folder: Path, out: Path) -> None:
    """Copy a build beside `out`, and swap the two by renaming."""
    out = out.absolute()
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as work:
        new, old = Path(work, "new"), Path(work, "old")
        shutil.copytree(folder, new)
        _check_out(out)
        _swap(new, out, old)


def _swap(new: Path, out: Path, old: Path) -> None:
    replaces = out.exists()
    if replaces:
        out.rename(old)
    try:
        new.rename(out)
    except OSError:
        if replaces:
            old.rename(out)
        raise


def _own_version() -> str:

    return importlib.metadata.version("edgellm")


def _output(command: list[str]) -> str:
    """Return what a tool says."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise MissingDependencyError(f"{command[0]} does not run: {error}.") from None
