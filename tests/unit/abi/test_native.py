"""Native files against targets: every fault a loader would stop at is found, and a sound file has none."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from edgellm.abi import Finding
from edgellm.abi.native import examine_native
from edgellm.core.target import Target
from edgellm.targets import load_target
from tests.unit.abi.files import ANDROID_LOADER, GLIBC_LOADER, X86_64, write_elf

PI5, ANDROID, IOS = (load_target(n) for n in ("raspberry-pi-5", "android-arm64", "ios-arm64"))
PI4 = dataclasses.replace(load_target("raspberry-pi-4"), abi="linux-gnu-2.31")
BIONIC: dict[str, Any] = {
    "needed": ("libc.so", "libm.so", "liblog.so"), "versions": (("libc.so", "LIBC", "read"),), "align": 16384,
    "android_api": 24,
}  # fmt: skip


def found(path: Path, target: Target | None, **options: Any) -> dict[str, Finding]:
    """Return the findings that are not ok, by rule."""
    write_elf(path, **options)
    return {f.rule: f for f in examine_native(path, path.name, target)[1] if f.level != "ok"}


def test_a_sound_file_has_no_finding(tmp_path: Path) -> None:
    assert found(tmp_path / "runner", PI4, interpreter=GLIBC_LOADER) == {}
    assert found(tmp_path / "lib.so", PI5, needed=("libstdc++.so.6", "libc.so.6")) == {}
    assert found(tmp_path / "static", PI4, kind=2, needed=(), versions=()) == {}
    assert found(tmp_path / "libapp.so", ANDROID, **BIONIC) == {}
    assert found(tmp_path / "app", ANDROID, interpreter=ANDROID_LOADER, **BIONIC) == {}


def test_the_rules_that_hold_are_named_too(tmp_path: Path) -> None:
    write_elf(tmp_path / "runner", interpreter=GLIBC_LOADER)
    rules = [f.rule for f in examine_native(tmp_path / "runner", "runner", PI4)[1]]
    assert rules == ["architecture", "interpreter", "glibc", "libraries", "page size"]


def test_a_binary_for_another_architecture_is_an_error_and_the_only_one(tmp_path: Path) -> None:
    problems = found(tmp_path / "runner", PI4, machine=X86_64, interpreter="/lib64/ld-linux-x86-64.so.2", align=4096)
    assert list(problems) == ["architecture"]
    assert problems["architecture"].level == "error"
    assert problems["architecture"].message == "built for 64-bit x86_64, and raspberry-pi-4 is 64-bit aarch64."
    assert problems["architecture"].hint == "Build it with the toolchain linux-arm64."


def test_a_glibc_symbol_that_is_too_new_is_named(tmp_path: Path) -> None:
    versions = (("libc.so.6", "GLIBC_2.17", "memcpy"), ("libm.so.6", "GLIBC_2.38", "fmod"))
    problem = found(tmp_path / "lib.so", PI4, versions=versions)["glibc"]
    assert problem.level == "error"
    assert problem.message == "needs glibc 2.38 (fmod), and raspberry-pi-4 has 2.31."
    assert "glibc 2.31 or older" in problem.hint
    assert found(tmp_path / "lib.so", PI4, versions=(("libc.so.6", "GLIBC_2.31", "x"),)) == {}


@pytest.mark.parametrize(("version", "needs"), [("GLIBC_ABI_DT_RELR", "2.36"), ("GLIBC_2.100", "2.100")])
def test_versions_are_compared_as_numbers(tmp_path: Path, version: str, needs: str) -> None:
    problem = found(tmp_path / "lib.so", PI4, versions=(("libc.so.6", version, "x"),))["glibc"]
    assert f"needs glibc {needs}" in problem.message


def test_private_symbols_of_glibc_are_a_warning(tmp_path: Path) -> None:
    problem = found(tmp_path / "lib.so", PI4, versions=(("libc.so.6", "GLIBC_PRIVATE", "__x"),))["glibc"]
    assert problem.level == "warning"


@pytest.mark.parametrize(
    ("version", "level"), [("GLIBCXX_3.4.30", "error"), ("CXXABI_1.3.13", "error"), ("GLIBCXX_3.4.28", "")]
)
def test_libstdcxx_is_as_old_as_the_glibc(tmp_path: Path, version: str, level: str) -> None:
    options = {"needed": ("libstdc++.so.6",), "versions": (("libstdc++.so.6", version, "_ZSt4cout"),)}
    problems = found(tmp_path / "lib.so", PI4, **options)
    assert [p.level for p in problems.values()] == ([level] if level else [])
    (tmp_path / "libstdc++.so.6").write_bytes(b"")
    assert found(tmp_path / "lib.so", PI4, runpath="$ORIGIN", **options) == {}


def test_another_c_library_is_an_error(tmp_path: Path) -> None:
    musl = found(
        tmp_path / "a", PI4, interpreter="/lib/ld-musl-aarch64.so.1", needed=("libc.musl-aarch64.so.1",), versions=()
    )
    assert (musl["interpreter"].level, musl["glibc"].level) == ("error", "error")
    assert found(tmp_path / "b.so", PI4, **BIONIC)["glibc"].message.startswith("needs libc.so,")
    glibc = found(tmp_path / "c.so", ANDROID)
    assert glibc["Android API"].message == "was built for glibc, and Android has another C library."


def test_a_library_with_small_pages_does_not_load_on_android(tmp_path: Path) -> None:
    problem = found(tmp_path / "libapp.so", ANDROID, **{**BIONIC, "align": 4096})["page size"]
    assert problem.level == "error"
    assert "aligned to 4096 bytes" in problem.message
    assert problem.hint == "Link with -Wl,-z,max-page-size=16384."


def test_small_pages_are_a_warning_on_a_pi_5_and_fine_on_a_pi_4(tmp_path: Path) -> None:
    assert found(tmp_path / "lib.so", PI5, align=4096)["page size"].level == "warning"
    assert found(tmp_path / "lib.so", PI4, align=4096) == {}


def test_android_refuses_newer_levels_and_fixed_addresses(tmp_path: Path) -> None:
    newer = found(tmp_path / "a.so", ANDROID, **{**BIONIC, "android_api": 30})["Android API"]
    assert newer.message == "was built for API level 30, and android-arm64 begins at 24."
    assert "-fPIE" in found(tmp_path / "b", ANDROID, kind=2, interpreter=ANDROID_LOADER, **BIONIC)["interpreter"].hint


def test_libraries_that_nothing_brings_are_named(tmp_path: Path) -> None:
    needed = ("libfoo.so.1", "libc.so.6")
    problem = found(tmp_path / "lib.so", PI4, needed=needed)["libraries"]
    assert (problem.level, problem.message[:18]) == ("warning", "needs libfoo.so.1,")
    (tmp_path / "libfoo.so.1").write_bytes(b"")
    assert "does not look there" in found(tmp_path / "lib.so", PI4, needed=needed)["libraries"].message
    assert found(tmp_path / "lib.so", PI4, needed=needed, runpath="${ORIGIN}") == {}
    assert found(tmp_path / "lib.so", PI4, needed=needed, runpath="$ORIGIN/../lib")["libraries"].level == "warning"


def test_android_gives_an_app_the_ndk_s_libraries_and_its_own_folder(tmp_path: Path) -> None:
    options = {**BIONIC, "needed": ("libc.so", "libc++_shared.so")}
    assert found(tmp_path / "lib.so", ANDROID, **options)["libraries"].level == "error"
    (tmp_path / "libc++_shared.so").write_bytes(b"")
    assert found(tmp_path / "lib.so", ANDROID, **options) == {}


@pytest.mark.parametrize(("flags", "words"), [(7, "asks for"), (None, "does not rule out")])
def test_an_executable_stack_is_a_warning_everywhere(tmp_path: Path, flags: int | None, words: str) -> None:
    for target in (None, PI4):
        problem = found(tmp_path / "lib.so", target, stack=flags)["stack"]
        assert (problem.level, problem.message[: len(words)]) == ("warning", words)


@pytest.mark.parametrize(
    ("path", "named"),
    [("/home/me/lib", "/home/me/lib"), ("$ORIGIN:", "the current folder"), ("$ORIGINAL", "$ORIGINAL"), ("lib", "lib")],
)
def test_an_rpath_outside_the_file_s_folder_is_a_warning(tmp_path: Path, path: str, named: str) -> None:
    problem = found(tmp_path / "lib.so", None, runpath=path)["rpath"]
    assert f"looks for libraries in {named}," in problem.message


def test_ios_loads_no_elf(tmp_path: Path) -> None:
    assert list(found(tmp_path / "lib.so", IOS)) == ["architecture"]


def test_the_abi_of_the_target_decides(tmp_path: Path) -> None:
    newer = dataclasses.replace(PI4, abi="linux-gnu-2.38")
    assert found(tmp_path / "lib.so", newer, versions=(("libc.so.6", "GLIBC_2.38", "x"),)) == {}
