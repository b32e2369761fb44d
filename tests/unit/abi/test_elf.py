"""Facts of ELF files: of real ones they are what pyelftools says, of hand-made ones what was put in."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from elftools.elf.elffile import ELFFile

from edgellm.abi.elf import ElfFacts, read_elf
from edgellm.abi.native import examine_native
from edgellm.abi.reader import opened
from edgellm.errors import InputError
from tests.unit.abi.files import ANDROID_LOADER, write_elf


def facts_of(path: Path) -> ElfFacts:
    with opened(path) as reader:
        return read_elf(reader)


def real_files() -> Iterator[Path]:
    yield Path(sys.executable).resolve()
    yield next(Path(np.__file__).parent.rglob("_multiarray_umath*.so"))
    for package, pattern in (("onnx", "*.so"), ("onnxruntime", "*pybind11*.so"), ("executorch", "libexecutorch_*.so")):
        spec = importlib.util.find_spec(package)  # imports nothing
        assert spec is not None
        yield from sorted(
            path for folder in spec.submodule_search_locations or () for path in Path(folder).rglob(pattern)
        )


@pytest.mark.parametrize("path", list(real_files()), ids=lambda path: path.name)
def test_a_real_file_is_read_as_pyelftools_reads_it(path: Path) -> None:
    facts = facts_of(path)
    with path.open("rb") as stream:
        other = ELFFile(stream)
        dynamic = other.get_section_by_name(".dynamic")
        assert facts.machine == {"EM_X86_64": "x86_64", "EM_AARCH64": "aarch64"}[other["e_machine"]]
        assert facts.bits == other.elfclass
        assert facts.needed == tuple(tag.needed for tag in dynamic.iter_tags("DT_NEEDED"))
        rpath = [getattr(t, t.entry.d_tag[3:].lower()) for t in dynamic.iter_tags()
                 if t.entry.d_tag in ("DT_RUNPATH", "DT_RPATH")]  # fmt: skip
        assert facts.rpath == tuple(part for entry in rpath for part in entry.split(":"))
        assert facts.alignment == min(s["p_align"] for s in other.iter_segments("PT_LOAD"))
        interpreter = [s.get_interp_name() for s in other.iter_segments("PT_INTERP")]
        assert facts.interpreter == (interpreter[0] if interpreter else None)
        stack = [s["p_flags"] for s in other.iter_segments("PT_GNU_STACK")]
        assert facts.exec_stack == (bool(stack[0] & 1) if stack else None)
        needs = other.get_section_by_name(".gnu.version_r")
        expected = {(need.name, aux.name) for need, all_of in needs.iter_versions() for aux in all_of}
        assert {(need.library, need.version) for need in facts.versions} == expected
        table, versions = other.get_section_by_name(".dynsym"), other.get_section_by_name(".gnu.version")
        names = {s.name for s in table.iter_symbols()}
        assert {need.symbol for need in facts.versions} <= names
        index = {aux["vna_other"]: aux.name for _, all_of in needs.iter_versions() for aux in all_of}
        bound = {(index.get(versions.get_symbol(i)["ndx"]), s.name) for i, s in enumerate(table.iter_symbols())}
        assert {(need.version, need.symbol) for need in facts.versions if need.symbol} <= bound
    assert any(need.symbol for need in facts.versions)


def test_a_compiled_library_and_program_are_read(tmp_path: Path) -> None:
    (tmp_path / "x.c").write_text('#include <stdio.h>\nint hello(void) { return puts("hello"); }\n')
    (tmp_path / "main.c").write_text("int hello(void);\nint main(void) { return hello() < 0; }\n")
    library = ["-shared", "-fPIC", "-Wl,-soname,libx.so.1", "-Wl,-z,max-page-size=16384", "-o", "libx.so.1", "x.c"]
    program = ["-Wl,-rpath,$ORIGIN:/opt/lib", "-z", "execstack", "-o", "main", "main.c", "libx.so.1"]
    for arguments in (library, program):
        subprocess.run(["cc", *arguments], cwd=tmp_path, check=True)
    made = facts_of(tmp_path / "libx.so.1")
    assert (made.kind, made.soname, made.alignment, made.interpreter) == ("shared object", "libx.so.1", 16384, None)
    assert ("libc.so.6", "puts") in {(need.library, need.symbol) for need in made.versions}
    assert made.exec_stack is False
    main = facts_of(tmp_path / "main")
    assert (main.kind, main.needed[0], main.rpath) == ("executable", "libx.so.1", ("$ORIGIN", "/opt/lib"))
    assert main.interpreter is not None
    assert main.exec_stack is True


def test_a_file_without_sections_says_all_that_a_loader_goes_by(tmp_path: Path) -> None:
    path = write_elf(
        tmp_path / "lib.so", interpreter=ANDROID_LOADER, needed=("libc.so", "libm.so"), runpath="$ORIGIN", align=4096,
        versions=(("libc.so", "LIBC", "read"), ("libm.so", "LIBM", "sin")), stack=7, android_api=29,
    )  # fmt: skip
    facts = facts_of(path)
    assert (facts.machine, facts.bits, facts.kind, facts.fixed) == ("aarch64", 64, "executable", False)
    assert facts.interpreter == ANDROID_LOADER
    assert (facts.needed, facts.rpath) == (("libc.so", "libm.so"), ("$ORIGIN",))
    assert [(v.library, v.version, v.symbol) for v in facts.versions] == [
        ("libc.so", "LIBC", "read"), ("libm.so", "LIBM", "sin"),
    ]  # fmt: skip
    assert (facts.alignment, facts.exec_stack, facts.android_api) == (4096, True, 29)


@pytest.mark.parametrize(
    ("patch", "expected"),
    [
        ({4: 1}, ("aarch64", 32, True)), ({5: 2, 18: 0, 19: 183, 16: 0, 17: 3}, ("aarch64", 64, False)),
        ({18: 40}, ("arm", 64, True)), ({18: 250}, ("machine 250", 64, True)),
    ],
)  # fmt: skip
def test_other_architectures_are_named(tmp_path: Path, patch: dict[int, int], expected: tuple[str, int, bool]) -> None:
    path = write_elf(tmp_path / "lib.so")
    data = bytearray(path.read_bytes())
    for where, value in patch.items():
        data[where] = value
    path.write_bytes(data)
    facts = facts_of(path)
    assert (facts.machine, facts.bits, facts.little) == expected


@pytest.mark.parametrize(
    ("where", "value", "reason"),
    [
        (56, b"\xff\xff", "its header names 65535 segments"),
        (54, b"\x10\x00", "segments of 16 bytes"),
        (32, b"\xff" * 8, "it ends at byte"),
        (40, b"\xff" * 7 + b"\x00" + bytes(12) + b"\x40\x00\xff\xff", "it ends at byte"),
        (64 + 32, b"\xff" * 7, "a segment should go on to"),
        (4, b"\x07", "names no word size"),
    ],
)
def test_a_header_that_lies_is_one_line(tmp_path: Path, where: int, value: bytes, reason: str) -> None:
    path = write_elf(tmp_path / "lib.so")
    data = bytearray(path.read_bytes())
    data[where : where + len(value)] = value
    path.write_bytes(data)
    with pytest.raises(InputError, match=reason) as caught:
        examine_native(path, "lib.so", None)
    assert "\n" not in str(caught.value)


def test_tables_that_lead_nowhere_are_damage(tmp_path: Path) -> None:
    path = write_elf(tmp_path / "lib.so")
    data = path.read_bytes()
    strings = data.index(b"\x05\0\0\0\0\0\0\0", data.index(b"GLIBC"))
    path.write_bytes(data[: strings + 8] + b"\xff" * 8 + data[strings + 16 :])
    with pytest.raises(InputError, match="lies in no segment"):
        examine_native(path, "lib.so", None)
