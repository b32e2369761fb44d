"""Facts of an ELF file, as its loader sees them: from the program headers, never from sections, which may be stripped.

After the System V ABI, its AArch64 and x86-64 supplements, and the symbol versions of the Linux Standard Base.
"""

from __future__ import annotations

import array
import re
import sys
from dataclasses import dataclass

from edgellm.abi.reader import DamagedError, Reader
from edgellm.core.versions import Release, release

MAGIC = b"\x7fELF"

_MACHINES = {3: "i386", 8: "mips", 20: "ppc", 21: "ppc64", 40: "arm", 62: "x86_64", 183: "aarch64", 243: "riscv"}
_TYPES = {1: "object file", 2: "executable", 3: "shared object", 4: "core dump"}
_LOAD, _DYNAMIC, _INTERP, _NOTE, _GNU_STACK = 1, 2, 3, 4, 0x6474E551
_NULL, _NEEDED, _STRTAB, _SYMTAB, _SONAME, _RPATH, _RUNPATH = 0, 1, 5, 6, 14, 15, 29
_VERSYM, _VERNEED, _VERNEEDNUM = 0x6FFFFFF0, 0x6FFFFFFE, 0x6FFFFFFF
_TABLES = (4, _STRTAB, 7, 17, 23, 0x6FFFFEF5, _VERSYM, _VERNEED)
"""Tags of what a linker may put behind the symbol table: hashes, strings, relocations, versions."""
_GLIBC_FEATURES = {"GLIBC_ABI_DT_RELR": (2, 36)}
"""Versions without a number, and the glibc that came with them."""
_MOST_SEGMENTS, _MOST_TAGS, _MOST_VERSIONS, _MOST_SYMBOLS = 1024, 16_384, 65_536, 1_000_000


@dataclass(frozen=True)
class SymbolVersion:
    """A version that a file needs of a library, and one symbol it needs it for (empty where none was found)."""

    library: str
    version: str
    symbol: str


@dataclass(frozen=True)
class ElfFacts:
    """What a loader goes by.

    Attributes:
        kind: "executable", "shared object", ... ; a position-independent executable is a shared object with an
            interpreter, and is called executable.
        machine: as in a target triple.
        bits: 32 or 64. Of a 32-bit or big-endian file nothing else is read.
        little: little-endian.
        fixed: loads at a fixed address (not position-independent).
        interpreter: the dynamic loader it asks for; None for libraries and static executables.
        soname: the name it goes by as a library.
        needed: libraries, in order.
        rpath: where it looks for them first, DT_RUNPATH and DT_RPATH alike.
        versions: versioned symbols it needs.
        alignment: smallest of its LOAD segments, in bytes; 0 without any.
        exec_stack: whether it asks for an executable stack; None where it does not say.
        android_api: API level of the NDK that built it; None elsewhere.

    """

    kind: str
    machine: str
    bits: int
    little: bool
    fixed: bool = False
    interpreter: str | None = None
    soname: str | None = None
    needed: tuple[str, ...] = ()
    rpath: tuple[str, ...] = ()
    versions: tuple[SymbolVersion, ...] = ()
    alignment: int = 0
    exec_stack: bool | None = None
    android_api: int | None = None


@dataclass(frozen=True)
class _Segment:
    kind: int
    flags: int
    offset: int
    address: int
    size: int
    align: int


def read_elf(reader: Reader) -> ElfFacts:
    """Return the facts of a file that begins with `MAGIC`.

    Raises:
        DamagedError: it is cut off, or its tables lead nowhere.

    """
    bits, order = reader.unpack("BB", 4)
    if bits not in (1, 2) or order not in (1, 2):
        raise DamagedError("its header names no word size or byte order")
    little = order == 1
    kind, machine = (value if little else value >> 8 | (value & 255) << 8 for value in reader.unpack("HH", 16))
    name = _TYPES.get(kind, f"file of type {kind}")
    arch = _MACHINES.get(machine, f"machine {machine}")
    if bits == 1 or not little:
        return ElfFacts(name, arch, 32 * bits, little)
    segments = _segments(reader)
    loads = [s for s in segments if s.kind == _LOAD]
    interpreter = next((reader.text(s.offset, min(s.size, 4096)) for s in segments if s.kind == _INTERP), None)
    stack = next((s for s in segments if s.kind == _GNU_STACK), None)
    dynamic = next((s for s in segments if s.kind == _DYNAMIC), None)
    tags = _tags(reader, dynamic) if dynamic else []
    found = dict(tags)
    strings = _file_offset(loads, found[_STRTAB]) if _STRTAB in found else 0

    def names(*wanted: int) -> tuple[str, ...]:
        if strings == 0:
            return ()
        return tuple(reader.text(strings + value) for tag, value in tags if tag in wanted)

    paths = (part for path in names(_RPATH, _RUNPATH) for part in path.split(":"))
    return ElfFacts(
        kind="executable" if interpreter else name,
        machine=arch,
        bits=64,
        little=True,
        fixed=kind == 2,
        interpreter=interpreter,
        soname=next(iter(names(_SONAME)), None),
        needed=names(_NEEDED),
        rpath=tuple(paths),
        versions=_versions(reader, loads, found, strings) if strings else (),
        alignment=min((s.align for s in loads), default=0),
        exec_stack=None if stack is None else bool(stack.flags & 1),
        android_api=_android_api(reader, segments),
    )


def newest_need(facts: ElfFacts, prefix: str) -> tuple[Release, str]:
    """Return the newest version that starts with `prefix`, and a symbol it is needed for; () without one."""
    newest: tuple[Release, str] = ((), "")
    for need in facts.versions:
        number = re.fullmatch(rf"{prefix}_([0-9]+(\.[0-9]+)+)", need.version)
        version = release(number[1]) if number else _GLIBC_FEATURES.get(need.version) if prefix == "GLIBC" else None
        if version is not None and version > newest[0]:
            newest = (version, need.symbol or need.version)
    return newest


def _segments(reader: Reader) -> list[_Segment]:
    (start,), (sections,) = reader.unpack("Q", 32), reader.unpack("Q", 40)
    width, count, section_width, section_count = reader.unpack("HHHH", 54)
    if count > _MOST_SEGMENTS or (count and width != 56):
        raise DamagedError(f"its header names {count} segments of {width} bytes")
    # Sections are not read, but where they are announced and missing, the end of the file is missing.
    if sections and sections + section_width * section_count > reader.size:
        reader.at(sections, section_width * section_count)
    found = []
    for where in range(start, start + width * count, 56):
        kind, flags, offset, address, _, size, _, align = reader.unpack("IIQQQQQQ", where)
        segment = _Segment(kind, flags, offset, address, size, align)
        if kind in (_LOAD, _DYNAMIC, _INTERP, _NOTE) and offset + size > reader.size:
            raise DamagedError(f"it ends at byte {reader.size}, and a segment should go on to {offset + size}")
        found.append(segment)
    return found


def _tags(reader: Reader, dynamic: _Segment) -> list[tuple[int, int]]:
    """Return the entries of the dynamic table up to its end mark."""
    found = []
    for where in range(dynamic.offset, dynamic.offset + min(dynamic.size, 16 * _MOST_TAGS) - 15, 16):
        tag, value = reader.unpack("QQ", where)
        if tag == _NULL:
            break
        found.append((tag, value))
    return found


def _file_offset(loads: list[_Segment], address: int) -> int:
    for segment in loads:
        if segment.address <= address < segment.address + segment.size:
            return address - segment.address + segment.offset
    raise DamagedError(f"address {address:#x} of a table lies in no segment")


def _versions(reader: Reader, loads: list[_Segment], tags: dict[int, int], strings: int) -> tuple[SymbolVersion, ...]:
    """Return the versions of DT_VERNEED, each with a symbol of the dynamic symbol table that is bound to it."""
    if _VERNEED not in tags:
        return ()
    needs: list[tuple[str, str, int]] = []
    where = _file_offset(loads, tags[_VERNEED])
    for _ in range(min(tags.get(_VERNEEDNUM, 0), _MOST_VERSIONS)):
        _, count, file, first, following = reader.unpack("HHIII", where)
        library, entry = reader.text(strings + file), where + first
        for _ in range(count):
            _, _, index, name, step = reader.unpack("IHHII", entry)
            needs.append((library, reader.text(strings + name), index & 0x7FFF))
            entry += step
            if step == 0 or len(needs) > _MOST_VERSIONS:
                break
        where += following
        if following == 0:
            break
    symbols = _symbols(reader, loads, tags, strings, {index for _, _, index in needs})
    return tuple(SymbolVersion(library, version, symbols.get(index, "")) for library, version, index in needs)


def _symbols(
    reader: Reader, loads: list[_Segment], tags: dict[int, int], strings: int, wanted: set[int]
) -> dict[int, str]:
    """Return the first symbol of each version index."""
    if _VERSYM not in tags or _SYMTAB not in tags:
        return {}
    table = _file_offset(loads, tags[_SYMTAB])
    # The table's length is nowhere in the dynamic table: it ends where the next one begins.
    following = [tags[tag] for tag in _TABLES if tags.get(tag, 0) > tags[_SYMTAB]]
    count = min((min(following, default=0) - tags[_SYMTAB]) // 24, _MOST_SYMBOLS)
    if count <= 0:
        return {}
    indexes = array.array("H", reader.at(_file_offset(loads, tags[_VERSYM]), 2 * count))
    if sys.byteorder == "big":
        indexes.byteswap()
    first: dict[int, int] = {}
    for number, index in enumerate(indexes):
        if index in wanted:
            first.setdefault(index, number)
    return {index: reader.text(strings + reader.number("I", table + 24 * number)) for index, number in first.items()}


def _android_api(reader: Reader, segments: list[_Segment]) -> int | None:
    """Return the API level from the note that the NDK's crtbegin puts into every file (bionic's `crtbrand`)."""
    for segment in segments:
        where, end = segment.offset, segment.offset + segment.size
        while segment.kind == _NOTE and where + 12 <= end:
            name, size, kind = reader.unpack("III", where)
            data = where + 12 + (name + 3 & ~3)
            if (name, kind) == (8, 1) and size >= 4 and reader.at(where + 12, 8) == b"Android\0":
                return reader.number("I", data)
            where = data + (size + 3 & ~3)
    return None
