"""What is known about a built runner: the facts in its `runner.json`, and whether its files are still the ones built."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from edgellm.abi.elf import MAGIC, ElfFacts, newest_need, read_elf
from edgellm.abi.reader import DamagedError, opened
from edgellm.core.versions import dotted, release
from edgellm.errors import DeviceError, EdgellmError, UsageError
from edgellm.runtime.bundle import sha256_file

EXECUTABLE = "edgellm-runner"
FACTS = "runner.json"


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


def state_facts(folder: Path, *, toolchain: str, version: str, executorch: str, compiler: str) -> None:
    """Write `runner.json` about the files in `folder`; the words are those of `RunnerBuild`.

    Raises:
        DeviceError: what was built is damaged.

    """
    files = tuple(read_native(path) for path in sorted(folder.iterdir()))
    own = {file.path for file in files}
    program = next(file for file in files if file.path == EXECUTABLE)
    # libedgellm.so is for apps: the program holds the same code.
    libraries = [file for file in files if file.needed and file.path not in (EXECUTABLE, "libedgellm.so")]
    facts = RunnerBuild(
        path=folder,
        toolchain=toolchain,
        version=version,
        executorch=executorch,
        compiler=compiler,
        glibc=_newest(file.glibc for file in files),
        glibcxx=_newest(file.glibcxx for file in files),
        executable_bytes=program.bytes,
        libraries_bytes=sum(file.bytes for file in libraries),
        needed=tuple(sorted({name for file in files for name in file.needed} - own)),
        files=files,
    )
    data = asdict(facts)
    del data["path"]
    (folder / FACTS).write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


def intact(folder: Path) -> bool:
    """Return whether a folder holds a runner whose files are as they were built."""
    try:
        return all(read_native(folder / file.path) == file for file in read_runner(folder).files)
    except (OSError, EdgellmError):
        return False


def read_native(path: Path) -> NativeFile:
    """Return the facts about one file.

    Raises:
        InputError: it is missing, unreadable or empty.
        DeviceError: it begins as an ELF file and goes on as none.

    """
    elf: ElfFacts | None = None
    with opened(path) as reader:
        if reader.at(0, min(len(MAGIC), reader.size)) == MAGIC:
            try:
                elf = read_elf(reader)
            except DamagedError as error:
                raise DeviceError(
                    f"{path.name} is a damaged ELF file: {error}.",
                    hint="See that the disk has room, then build it again.",
                ) from None
    return NativeFile(
        path=path.name,
        bytes=path.stat().st_size,
        sha256=sha256_file(path),
        needed=elf.needed if elf else (),
        glibc=_needed(elf, "GLIBC"),
        glibcxx=_needed(elf, "GLIBCXX"),
    )


def _needed(elf: ElfFacts | None, prefix: str) -> str | None:
    version = newest_need(elf, prefix)[0] if elf else ()
    return dotted(version) if version else None


def _newest(versions: Iterable[str | None]) -> str | None:
    """Return the newest of versions such as "2.27"; None if there is none."""
    return max((version for version in versions if version), key=release, default=None)
