"""Files to examine, made from nothing: ELF by `struct`, so that every architecture is at hand, flatbuffers by builder."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import flatbuffers

AARCH64, X86_64 = 183, 62
GLIBC_LOADER = "/lib/ld-linux-aarch64.so.1"
ANDROID_LOADER = "/system/bin/linker64"


def write_elf(
    path: Path,
    *,
    machine: int = AARCH64,
    kind: int = 3,
    interpreter: str | None = None,
    needed: Sequence[str] = ("libc.so.6",),
    runpath: str | None = None,
    versions: Sequence[tuple[str, str, str]] = (("libc.so.6", "GLIBC_2.17", "memcpy"),),
    align: int = 65536,
    stack: int | None = 6,
    android_api: int | None = None,
) -> Path:
    """Write a 64-bit little-endian ELF file with program headers and no sections.

    Args:
        path: where to.
        machine, kind: e_machine and e_type.
        interpreter: PT_INTERP.
        needed, runpath: DT_NEEDED, DT_RUNPATH.
        versions: library, version and symbol, one DT_VERNEED entry each.
        align: of the one LOAD segment.
        stack: flags of PT_GNU_STACK; None leaves it out.
        android_api: level in the NDK's note.

    """
    strings = b"\0"
    place: dict[str, int] = {}
    for text in [*needed, *(part for version in versions for part in version), *([runpath] if runpath else [])]:
        if text not in place:
            place[text] = len(strings)
            strings += text.encode() + b"\0"
    symbols = bytes(24) + b"".join(struct.pack("<IBBHQQ", place[s], 0x12, 0, 0, 0, 0) for _, _, s in versions)
    indexes = struct.pack(f"<{len(versions) + 1}H", 0, *range(2, len(versions) + 2))
    needs = b"".join(
        struct.pack("<HHIII", 1, 1, place[library], 16, 32 if i < len(versions) - 1 else 0)
        + struct.pack("<IHHII", 0, 0, i + 2, place[version], 0)
        for i, (library, version, _) in enumerate(versions)
    )
    note = struct.pack("<III8sI", 8, 4, 1, b"Android\0", android_api or 0)
    parts = {
        "interp": (interpreter or "").encode() + b"\0",
        "symbols": symbols,  # in front of the strings, as linkers do
        "strings": strings,
        "indexes": indexes,
        "needs": needs,
        "note": note,
    }
    count = 2 + (interpreter is not None) + (stack is not None) + (android_api is not None)
    where: dict[str, int] = {}
    body = b""
    for name, data in parts.items():
        body += bytes(-len(body) % 8)
        where[name] = 64 + 56 * count + len(body)
        body += data
    body += bytes(-len(body) % 8)
    tags = [(1, place[name]) for name in needed] + ([(29, place[runpath])] if runpath else [])
    tags += [(5, where["strings"]), (6, where["symbols"]), (10, len(strings)), (0x6FFFFFF0, where["indexes"])]
    if versions:
        tags += [(0x6FFFFFFE, where["needs"]), (0x6FFFFFFF, len(versions))]
    dynamic = b"".join(struct.pack("<QQ", *tag) for tag in [*tags, (0, 0)])
    start = 64 + 56 * count + len(body)
    end = start + len(dynamic)

    def segment(number: int, offset: int, size: int, flags: int = 4, align: int = 8) -> bytes:
        return struct.pack("<IIQQQQQQ", number, flags, offset, offset, offset, size, size, align)

    headers = segment(1, 0, end, 5, align) + segment(2, start, len(dynamic))
    if interpreter is not None:
        headers += segment(3, where["interp"], len(parts["interp"]))
    if stack is not None:
        headers += segment(0x6474E551, 0, 0, stack, 16)
    if android_api is not None:
        headers += segment(4, where["note"], len(note))
    header = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", kind, machine, 1, 0, 64, 0, 0, 64, 56, count, 64, 0, 0)
    path.write_bytes(header + headers + body + dynamic)
    path.chmod(0o755)
    return path


def tflite_bytes(operators: Sequence[tuple[int, int] | tuple[int, int, str]], *, schema: int = 3) -> bytes:
    """Return a TFLite file with these operator codes (builtin code, version, custom name) and a graph without any."""
    build = flatbuffers.Builder(256)
    codes = []
    for code, version, *custom in operators:
        name = build.CreateString(custom[0]) if custom else None
        build.StartObject(4)
        build.PrependInt8Slot(0, min(code, 127), 0)
        if name is not None:
            build.PrependUOffsetTRelativeSlot(1, name, 0)
        build.PrependInt32Slot(2, version, 1)
        build.PrependInt32Slot(3, code, 0)
        codes.append(build.EndObject())
    code_list, nothing = _offsets(build, codes), _offsets(build, [])
    build.StartObject(5)
    for slot in range(4):
        build.PrependUOffsetTRelativeSlot(slot, nothing, 0)
    graphs = _offsets(build, [build.EndObject()])
    build.StartObject(3)
    buffers = _offsets(build, [build.EndObject()])
    build.StartObject(8)
    build.PrependUint32Slot(0, schema, 0)
    build.PrependUOffsetTRelativeSlot(1, code_list, 0)
    build.PrependUOffsetTRelativeSlot(2, graphs, 0)
    build.PrependUOffsetTRelativeSlot(4, buffers, 0)
    build.Finish(build.EndObject(), file_identifier=b"TFL3")
    return bytes(build.Output())


def pte_bytes(
    operators: Sequence[tuple[str, str]] = (("aten::add", "out"),),
    delegates: Sequence[str] = ("XnnpackBackend",),
    *,
    schema: int = 0,
    identifier: bytes = b"ET12",
) -> bytes:
    """Return an ExecuTorch program with one method that names these operators and delegates."""
    build = flatbuffers.Builder(256)
    items = []
    for name, overload in operators:
        first, second = build.CreateString(name), build.CreateString(overload)
        build.StartObject(2)
        build.PrependUOffsetTRelativeSlot(0, first, 0)
        build.PrependUOffsetTRelativeSlot(1, second, 0)
        items.append(build.EndObject())
    operator_list = _offsets(build, items)
    items = []
    for name in delegates:
        text = build.CreateString(name)
        build.StartObject(3)
        build.PrependUOffsetTRelativeSlot(0, text, 0)
        items.append(build.EndObject())
    delegate_list, method = _offsets(build, items), build.CreateString("forward")
    build.StartObject(9)
    build.PrependUOffsetTRelativeSlot(0, method, 0)
    build.PrependUOffsetTRelativeSlot(6, operator_list, 0)
    build.PrependUOffsetTRelativeSlot(7, delegate_list, 0)
    plans = _offsets(build, [build.EndObject()])
    build.StartObject(8)
    build.PrependUint32Slot(0, schema, 0)
    build.PrependUOffsetTRelativeSlot(1, plans, 0)
    build.Finish(build.EndObject(), file_identifier=identifier)
    return bytes(build.Output())


def _offsets(build: flatbuffers.Builder, items: Sequence[int]) -> int:
    build.StartVector(4, len(items), 4)
    for item in reversed(items):
        build.PrependUOffsetTRelative(item)
    return int(build.EndVector())
