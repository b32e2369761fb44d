"""The facts about a built runner: read from its files, and held against them afterwards."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from edgellm.errors import DeviceError, UsageError
from edgellm.toolchain.facts import EXECUTABLE, NativeFile, intact, read_native, read_runner, state_facts
from tests.unit.abi.files import write_elf

LIBC, LIBCXX = "libc.so.6", "libstdc++.so.6"


@pytest.fixture
def stated(tmp_path: Path) -> Path:
    """A folder as a build leaves it: a program, a library that it brings, one for apps, a header."""
    program = [(LIBC, "GLIBC_2.9", "puts"), (LIBC, "GLIBC_2.27", "powf"), (LIBCXX, "GLIBCXX_3.4.9", "write")]
    write_elf(tmp_path / EXECUTABLE, needed=("libown.so", LIBCXX, LIBC), versions=program)
    own = [(LIBC, "GLIBC_2.3.4", "memcpy"), (LIBCXX, "GLIBCXX_3.4.22", "move"), (LIBCXX, "CXXABI_1.3.13", "throw")]
    write_elf(tmp_path / "libown.so", needed=(LIBC, "libm.so.6"), versions=own)
    write_elf(tmp_path / "libedgellm.so")
    (tmp_path / "edgellm.h").write_text("/* no binary */")
    state_facts(tmp_path, toolchain="linux-arm64", version="1", executorch="2", compiler="g++ 3")
    return tmp_path


def test_facts_sum_up_what_the_files_say(stated: Path) -> None:
    facts = read_runner(stated)
    assert (facts.path, facts.toolchain, facts.version, facts.executorch) == (stated, "linux-arm64", "1", "2")
    assert (facts.glibc, facts.glibcxx) == ("2.27", "3.4.22")
    assert facts.needed == (LIBC, "libm.so.6", LIBCXX)
    assert facts.executable_bytes == (stated / EXECUTABLE).stat().st_size
    assert facts.libraries_bytes == (stated / "libown.so").stat().st_size
    assert [file.path for file in facts.files] == [EXECUTABLE, "edgellm.h", "libedgellm.so", "libown.so"]
    program = facts.files[0]
    assert (program.needed, program.glibc, program.glibcxx) == (("libown.so", LIBCXX, LIBC), "2.27", "3.4.9")


def test_a_file_that_is_no_binary_has_a_size_and_a_hash_alone(tmp_path: Path) -> None:
    text = tmp_path / "edgellm.h"
    text.write_text("/*")
    assert read_native(text) == NativeFile("edgellm.h", 2, hashlib.sha256(b"/*").hexdigest(), (), None, None)


def test_a_real_program_is_read() -> None:
    facts = read_native(Path("/bin/sh").resolve())
    assert LIBC in facts.needed
    assert facts.glibc
    assert facts.glibc.startswith("2.")
    assert facts.glibcxx is None


def test_relative_relocations_need_the_glibc_that_brought_them(tmp_path: Path) -> None:
    versions = [(LIBC, "GLIBC_2.17", "puts"), (LIBC, "GLIBC_ABI_DT_RELR", "puts")]
    assert read_native(write_elf(tmp_path / "lib.so", versions=versions)).glibc == "2.36"


@pytest.mark.parametrize("size", [5, 70, 200])
def test_a_binary_that_is_cut_off_is_no_runner(stated: Path, size: int) -> None:
    data = (stated / "libown.so").read_bytes()
    (stated / "libown.so").write_bytes(data[:size])
    with pytest.raises(DeviceError, match=r"libown\.so is a damaged ELF file: it ends at byte"):
        state_facts(stated, toolchain="linux-arm64", version="1", executorch="2", compiler="g++ 3")
    assert not intact(stated)


@pytest.mark.parametrize("fault", ["nothing", "gone", "empty", "altered", "no facts", "a folder"])
def test_a_runner_is_intact_while_its_files_are_as_built(stated: Path, fault: str) -> None:
    header = stated / "edgellm.h"
    if fault in ("gone", "a folder"):
        header.unlink()
    if fault == "a folder":
        header.mkdir()
    elif fault == "empty":
        header.write_text("")
    elif fault == "altered":
        header.write_text("/* no Binary */")
    elif fault == "no facts":
        (stated / "runner.json").unlink()
    assert intact(stated) == (fault == "nothing")


@pytest.mark.parametrize("text", ["", "[]", '{"files": 5}', '{"files": [{"path": "x"}]}'])
def test_facts_that_can_not_be_read_are_no_runner(tmp_path: Path, text: str) -> None:
    (tmp_path / "runner.json").write_text(text)
    with pytest.raises(UsageError, match="holds no runner"):
        read_runner(tmp_path)
