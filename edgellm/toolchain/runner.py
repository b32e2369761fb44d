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
from dataclasses import asdict, dataclass
from pathlib import Path

from edgellm.errors import DeviceError, MissingDependencyError, UsageError, unknown
from edgellm.folders import shipped
from edgellm.toolchain import binaries, sdk
from edgellm.toolchain.binaries import NativeFile
from edgellm.toolchain.downloads import Report

EXECUTABLE = "edgellm-runner"
FACTS = "runner.json"

_CMAKE = (3, 28)
"""Older ones write $ORIGIN wrongly, says executorch-config.cmake."""
_NDK_VARIABLES = ("ANDROID_NDK", "ANDROID_NDK_HOME")


@dataclass(frozen=True)
class RunnerBuild:
    """A built runner.

    Attributes:
        path: its folder.
        toolchain: what it was built for.
        version: edgellm's.
        executorch: version of the runtime it is linked with.
        compiler: what built it.
        glibc: newest symbol version of the C library that any of its files asks for; None where there is no glibc.
        glibcxx: the same of the C++ library.
        executable_bytes: size of the program.
        libraries_bytes: size of the libraries beside it that it needs.
        needed: libraries that the device has to have.
        files: all of it but `runner.json`.

    """

    path: Path
    toolchain: str
    version: str
    executorch: str
    compiler: str
    glibc: str | None
    glibcxx: str | None
    executable_bytes: int
    libraries_bytes: int
    needed: tuple[str, ...]
    files: tuple[NativeFile, ...]


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


def read_runner(folder: Path) -> RunnerBuild:
    """Return the facts about a built runner.

    Raises:
        UsageError: the folder holds none.

    """
    try:
        data = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        files = tuple(NativeFile(**{**item, "needed": tuple(item["needed"])}) for item in data.pop("files"))
        return RunnerBuild(path=folder, files=files, **{**data, "needed": tuple(data["needed"])})
    except (OSError, ValueError, KeyError, TypeError):
        raise UsageError(f"{folder} holds no runner.", hint="'edgellm runner build' makes one.") from None


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
        if not _intact(folder):
            shutil.rmtree(folder, ignore_errors=True)
            with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as work:
                staged = Path(work, "out")
                _run_cmake(recipe, version, Path(work), staged, folder.with_suffix(".log"))
                _state_facts(recipe, version, compiler, staged)
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
    for path in sorted([*sources, Path(__file__)]):
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


def _state_facts(recipe: _Recipe, version: str, compiler: str, folder: Path) -> None:
    """Write `runner.json`."""
    files = tuple(binaries.read(path) for path in sorted(folder.iterdir()))
    own = {file.path for file in files}
    program = next(file for file in files if file.path == EXECUTABLE)
    # libedgellm.so is for apps: the program holds the same code.
    libraries = [file for file in files if file.needed and file.path not in (EXECUTABLE, "libedgellm.so")]
    facts = RunnerBuild(
        path=folder,
        toolchain=recipe.toolchain,
        version=version,
        executorch=recipe.executorch_version.partition("+")[0],
        compiler=compiler,
        glibc=binaries.newest(file.glibc for file in files),
        glibcxx=binaries.newest(file.glibcxx for file in files),
        executable_bytes=program.bytes,
        libraries_bytes=sum(file.bytes for file in libraries),
        needed=tuple(sorted({name for file in files for name in file.needed} - own)),
        files=files,
    )
    data = asdict(facts)
    del data["path"]
    (folder / FACTS).write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


def _intact(folder: Path) -> bool:
    """Return whether a folder holds a runner whose files are as they were built."""
    try:
        facts = read_runner(folder)
        return all(binaries.read(folder / file.path) == file for file in facts.files)
    except (OSError, UsageError, DeviceError):
        return False


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
