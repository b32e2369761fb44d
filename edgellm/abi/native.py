"""Does a native file fit a target? What a dynamic loader would refuse on the device, found without one."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from edgellm.abi import Fact, FileFacts, Finding, Level
from edgellm.abi.elf import ElfFacts, newest_need, read_elf
from edgellm.abi.reader import DamagedError, opened
from edgellm.core.target import Target, platform
from edgellm.core.versions import Release, dotted
from edgellm.errors import InputError

_INTERPRETERS = {
    ("linux-gnu", "aarch64"): "/lib/ld-linux-aarch64.so.1",
    ("linux-gnu", "x86_64"): "/lib64/ld-linux-x86-64.so.2",
    ("android", "aarch64"): "/system/bin/linker64",
    ("android", "x86_64"): "/system/bin/linker64",
}

_GLIBC_AND_GCC = frozenset((
    "libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1", "libresolv.so.2", "libutil.so.1",
    "libanl.so.1", "libnsl.so.1", "libgcc_s.so.1", "libstdc++.so.6", "libatomic.so.1", "ld-linux-aarch64.so.1",
    "ld-linux-x86-64.so.2",
))  # fmt: skip
"""What every system with that glibc has: the C and C++ part of the manylinux policies' lists (PEP 600)."""

_NDK = frozenset((
    "libc.so", "libm.so", "libdl.so", "liblog.so", "libandroid.so", "libz.so", "libEGL.so", "libGLESv1_CM.so",
    "libGLESv2.so", "libGLESv3.so", "libjnigraphics.so", "libOpenSLES.so", "libOpenMAXAL.so", "libaaudio.so",
    "libamidi.so", "libbinder_ndk.so", "libcamera2ndk.so", "libmediandk.so", "libnativehelper.so",
    "libnativewindow.so", "libneuralnetworks.so", "libstdc++.so", "libsync.so", "libvulkan.so",
))  # fmt: skip
"""What Android lets an app link to: developer.android.com/ndk/guides/stable_apis. libc++_shared.so is the app's own."""

_LIBSTDCXX: tuple[tuple[Release, Release, Release], ...] = (
    ((2, 17), (3, 4, 19), (1, 3, 7)),
    ((2, 24), (3, 4, 22), (1, 3, 10)),
    ((2, 27), (3, 4, 24), (1, 3, 11)),
    ((2, 31), (3, 4, 28), (1, 3, 12)),
    ((2, 34), (3, 4, 29), (1, 3, 13)),
    ((2, 35), (3, 4, 30), (1, 3, 13)),
    ((2, 39), (3, 4, 33), (1, 3, 15)),
)
"""glibc to the newest GLIBCXX and CXXABI that a system of its age has: auditwheel's manylinux-policy.json, aarch64."""


def examine_native(path: Path, subject: str, target: Target | None) -> tuple[FileFacts, list[Finding]]:
    """Return facts and findings of one native file.

    Raises:
        InputError: it can't be read, or is damaged.

    """
    with opened(path) as reader:
        try:
            facts = read_elf(reader)
        except DamagedError as error:
            raise InputError(f"{path} is a damaged ELF file: {error}.", hint="Copy or build it again.") from None
    beside = _beside(path, facts)
    values: dict[str, Fact] = {
        "kind": facts.kind,
        "machine": facts.machine,
        "bits": facts.bits,
        "interpreter": facts.interpreter,
        "needed": facts.needed,
        "beside": tuple(name for name in facts.needed if name in beside),
        "rpath": facts.rpath,
        "glibc": _newest(facts, "GLIBC"),
        "GLIBCXX": _newest(facts, "GLIBCXX"),
        "CXXABI": _newest(facts, "CXXABI"),
        "alignment": facts.alignment,
        "executable stack": facts.exec_stack,
        "Android API": facts.android_api,
    }
    rules = [*_everywhere(facts)]
    if target is not None:
        rules = [*_on_target(facts, target, beside), *rules]
    found = [Finding(subject, *rule) for rule in rules]
    return FileFacts(subject, "native", values), found


_Rule = tuple[str, Level, str, str]


def _on_target(facts: ElfFacts, target: Target, beside: dict[str, bool]) -> Iterator[_Rule]:
    system, version = platform(target.abi)
    if system == "ios":
        yield "architecture", "error", "an ELF file, and iOS loads Mach-O.", "Build it with Apple's toolchain."
        return
    made = f"{facts.bits}-bit {facts.machine}" + ("" if facts.little else ", big-endian")
    if (facts.machine, facts.bits, facts.little) != (target.arch, 64, True):
        yield (
            "architecture", "error", f"built for {made}, and {target.name} is 64-bit {target.arch}.",
            f"Build it with the toolchain {target.toolchain}.",
        )  # fmt: skip
        return  # what else it needs says nothing about this target
    yield "architecture", "ok", f"{made}.", ""
    if facts.kind not in ("executable", "shared object"):
        return
    yield from _loader(facts, target, system)
    if system == "linux-gnu":
        yield from _glibc(facts, target, version)
        if facts.versions and not beside.get("libstdc++.so.6"):
            yield from _libstdcxx(facts, target, version)
    else:
        yield from _bionic(facts, target, version)
    yield from _libraries(facts, target, system, beside)
    yield _alignment(facts, target, system)


def _loader(facts: ElfFacts, target: Target, system: str) -> Iterator[_Rule]:
    expected = _INTERPRETERS[system, target.arch]
    if facts.interpreter is not None and facts.interpreter != expected:
        yield (
            "interpreter", "error", f"asks for the loader {facts.interpreter}, and {target.name} has {expected}.",
            "It was built for another C library; build it with the target's toolchain.",
        )  # fmt: skip
    elif facts.interpreter is not None:
        yield "interpreter", "ok", f"{expected}.", ""
    if system == "android" and facts.fixed:
        yield (
            "interpreter", "error", "loads at a fixed address, which Android refuses since version 5.",
            "Compile with -fPIE and link with -pie.",
        )  # fmt: skip


def _glibc(facts: ElfFacts, target: Target, version: Release) -> Iterator[_Rule]:
    foreign = [name for name in facts.needed if name in ("libc.so", "libc++_shared.so") or name.startswith("libc.musl")]
    if foreign:
        yield (
            "glibc", "error", f"needs {foreign[0]}, so it was built for another C library than glibc.",
            "Build it with the target's toolchain.",
        )  # fmt: skip
        return
    newest, symbol = newest_need(facts, "GLIBC")
    if newest > version:
        yield (
            "glibc", "error", f"needs glibc {dotted(newest)} ({symbol}), and {target.name} has {dotted(version)}.",
            f"Build it against glibc {dotted(version)} or older, in a sysroot or container of that age.",
        )  # fmt: skip
    elif any(need.version == "GLIBC_PRIVATE" for need in facts.versions):
        yield (
            "glibc", "warning", "uses private symbols of glibc, which fit one exact version of it.",
            "Link to public functions only.",
        )  # fmt: skip
    elif newest:
        yield "glibc", "ok", f"needs {dotted(newest)}; {target.name} has {dotted(version)}.", ""


def _libstdcxx(facts: ElfFacts, target: Target, version: Release) -> Iterator[_Rule]:
    row = max((row for row in _LIBSTDCXX if row[0] <= version), default=None)
    for prefix, column in (("GLIBCXX", 1), ("CXXABI", 2)):
        newest, symbol = newest_need(facts, prefix)
        limit = row[column] if row else ()
        if newest and row and newest > limit:
            yield (
                "libstdc++", "error",
                f"needs {prefix}_{dotted(newest)} ({symbol}), and systems with glibc {dotted(version)} have "
                f"{prefix}_{dotted(limit)}.",
                "Link with -static-libstdc++, ship libstdc++.so.6 beside it, or build with an older GCC.",
            )  # fmt: skip
        elif newest and row:
            yield "libstdc++", "ok", f"needs {prefix}_{dotted(newest)}; the target has _{dotted(limit)}.", ""


def _bionic(facts: ElfFacts, target: Target, version: Release) -> Iterator[_Rule]:
    symbols = [need.version for need in facts.versions if need.version.startswith("GLIBC_")]
    if symbols or "libc.so.6" in facts.needed:
        yield (
            "Android API", "error", "was built for glibc, and Android has another C library.",
            "Build it with the NDK.",
        )  # fmt: skip
    elif facts.android_api is not None and facts.android_api > version[0]:
        yield (
            "Android API", "error", f"was built for API level {facts.android_api}, and {target.name} begins at {version[0]}.",
            f"Build it with ANDROID_PLATFORM=android-{version[0]}.",
        )  # fmt: skip
    elif facts.android_api is not None:
        yield "Android API", "ok", f"built for level {facts.android_api}; {target.name} begins at {version[0]}.", ""


def _libraries(facts: ElfFacts, target: Target, system: str, beside: dict[str, bool]) -> Iterator[_Rule]:
    given = _NDK if system == "android" else _GLIBC_AND_GCC
    missing = [name for name in facts.needed if name not in given and name not in beside]
    # An app's native libraries are one folder that Android searches; elsewhere only RPATH finds a neighbour.
    lost = (
        []
        if system == "android"
        else [name for name in facts.needed if name not in given and beside.get(name) is False]
    )
    if missing and system == "android":
        yield (
            "libraries", "error", f"needs {', '.join(missing)}, which Android gives to no app and which is not beside it.",
            "Ship it in the same folder, or link it statically.",
        )  # fmt: skip
    elif missing:
        yield (
            "libraries", "warning", f"needs {', '.join(missing)}, which is not beside it and not part of glibc or GCC.",
            "Ship it in the same folder, link it statically, or have the device install it.",
        )  # fmt: skip
    if lost:
        yield (
            "libraries", "warning", f"{', '.join(lost)} lies beside it, and it does not look there.",
            "Link with -Wl,-rpath,'$ORIGIN'.",
        )  # fmt: skip
    if not missing and not lost:
        system_names = [name for name in facts.needed if name not in beside]
        yield "libraries", "ok", f"{', '.join(system_names) or 'none'} from the system.", ""


def _alignment(facts: ElfFacts, target: Target, system: str) -> _Rule:
    if facts.alignment >= target.page_bytes:
        return "page size", "ok", f"LOAD segments aligned to {facts.alignment} bytes.", ""
    return (
        "page size", "error" if system == "android" else "warning",
        f"LOAD segments aligned to {facts.alignment} bytes, and kernels of {target.name} may use pages of "
        f"{target.page_bytes}: there it does not load.",
        f"Link with -Wl,-z,max-page-size={target.page_bytes}.",
    )  # fmt: skip


def _everywhere(facts: ElfFacts) -> Iterator[_Rule]:
    """Yield what no target wants."""
    if facts.bits != 64 or not facts.little or facts.kind not in ("executable", "shared object"):
        return
    if facts.exec_stack is not False:
        asks = "asks for" if facts.exec_stack else "does not rule out"
        yield (
            "stack", "warning", f"{asks} an executable stack, which Android, SELinux and glibc 2.41 refuse.",
            "Link with -Wl,-z,noexecstack; assembler files need a .note.GNU-stack section.",
        )  # fmt: skip
    outside = [path for path in facts.rpath if not re.match(r"\$ORIGIN(/|$)|\$\{ORIGIN\}(/|$)", path)]
    if outside:
        named = ", ".join(path or "the current folder" for path in outside)
        yield (
            "rpath", "warning", f"looks for libraries in {named}, which is a folder of the build machine or anyone's.",
            "Link with an RPATH below $ORIGIN, or remove it with patchelf.",
        )  # fmt: skip


def _newest(facts: ElfFacts, prefix: str) -> str | None:
    version, _ = newest_need(facts, prefix)
    return dotted(version) if version else None


def _beside(path: Path, facts: ElfFacts) -> dict[str, bool]:
    """Return the needed libraries that ship with the file: in its folder or where RPATH leads from it.

    The value tells whether the loader finds it there.
    """
    folders = [re.sub(r"^\$(ORIGIN|\{ORIGIN\})", str(path.parent), part) for part in facts.rpath if "ORIGIN" in part]
    found = {}
    for name in facts.needed:
        if name != PurePosixPath(name).name or name in ("", ".", ".."):
            continue
        # os.path, not Path: names from a file may be longer than any name can be.
        if any(os.path.isfile(os.path.join(folder, name)) for folder in folders):
            found[name] = True
        elif os.path.isfile(path.parent / name):
            found[name] = False
    return found
