"""Building the runner: what is refused before anything is built. What is built is tested in integration/."""

from __future__ import annotations

import importlib.util
import json
import os
import threading
import zipfile
from pathlib import Path

import pytest

from edgellm.errors import DeviceError, MissingDependencyError, UsageError
from edgellm.toolchain import downloads, packages, runner, sdk
from edgellm.toolchain.downloads import Download
from edgellm.toolchain.facts import read_runner


def script(folder: Path, name: str, says: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)


def test_every_toolchain_has_a_preset() -> None:
    presets = json.loads((runner.shipped("toolchains") / "runner" / "CMakePresets.json").read_text())
    names = {preset["name"] for preset in presets["configurePresets"] if not preset.get("hidden")}
    assert names == set(runner.toolchain_names()) == {"android-arm64", "linux-arm64", "linux-x86_64"}


def test_an_unknown_toolchain_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Did you mean 'linux-arm64'"):
        runner.build_runner("linux-arm", tmp_path / "out")


@pytest.mark.parametrize("kind", ["a file", "a link", "something else", "a runner and something else"])
def test_what_is_no_runner_is_not_replaced(tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    if kind == "a file":
        out.write_text("mine")
    elif kind == "a link":
        (tmp_path / "real").mkdir()
        out.symlink_to(tmp_path / "real")
    else:
        out.mkdir()
        (out / "letter.txt").write_text("mine")
    if kind == "a runner and something else":
        texts = dict.fromkeys(("toolchain", "version", "executorch", "compiler", "glibc", "glibcxx"), "")
        facts = {**texts, "executable_bytes": 0, "libraries_bytes": 0, "needed": [], "files": []}
        (out / "runner.json").write_text(json.dumps(facts))
        assert read_runner(out).files == ()
    with pytest.raises(UsageError, match=r"is no folder|is left alone"):
        runner.build_runner("linux-x86_64", out)


@pytest.mark.parametrize("variable", ["", "ANDROID_NDK", "ANDROID_NDK_HOME"])
def test_android_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    for name in ("ANDROID_NDK", "ANDROID_NDK_HOME"):
        monkeypatch.delenv(name, raising=False)
    missing = "needs an Android NDK"
    if variable:
        (tmp_path / "ndk/build/cmake").mkdir(parents=True)
        (tmp_path / "ndk/build/cmake/android.toolchain.cmake").touch()
        monkeypatch.setenv(variable, str(tmp_path / "ndk"))
        missing = "needs ExecuTorch's libraries for Android"
    with pytest.raises(MissingDependencyError, match=missing):
        runner.build_runner("android-arm64", tmp_path / "out")


def test_a_missing_compiler_names_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(tmp_path, "cmake", "cmake version 3.28.1")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingDependencyError, match=r"needs aarch64-linux-gnu-g\+\+.*g\+\+-aarch64-linux-gnu"):
        runner.build_runner("linux-arm64", tmp_path / "out")


@pytest.mark.parametrize(("says", "words"), [("cmake version 3.25.1", "is version 3.25"), ("hello", "of no known")])
def test_an_old_cmake_is_refused_with_what_installs_a_newer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str, words: str
) -> None:
    script(tmp_path, "cmake", says)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(runner.sysconfig, "get_path", lambda name: str(tmp_path / "none"))
    with pytest.raises(MissingDependencyError, match=rf"{words}.*edgellm\[native\]"):
        runner.build_runner("linux-x86_64", tmp_path / "out")
    (tmp_path / "cmake").unlink()
    with pytest.raises(MissingDependencyError, match="CMake, which is not installed"):
        runner.build_runner("linux-x86_64", tmp_path / "out")


def test_a_build_that_fails_says_why_and_keeps_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGELLM_CACHE", str(tmp_path / "cache"))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/cmake").write_text(
        '#!/bin/sh\n[ "$1" = --version ] && { echo cmake version 3.28.1; exit; }\n'
        "echo working; echo 'CMake Error: no luck'; exit 1\n"
    )
    (tmp_path / "bin/cmake").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setattr(runner.sysconfig, "get_path", lambda name: str(tmp_path / "none"))
    monkeypatch.setattr(sdk, "json_headers", lambda: (tmp_path, "3"))
    with pytest.raises(DeviceError, match=r"does not build: CMake Error: no luck All of it is in .*\.log"):
        runner.build_runner("linux-x86_64", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert [path.suffix for path in (tmp_path / "cache/runner/builds").iterdir() if path.name[0] != "."] == [".log"]


def test_a_compiler_error_is_found_behind_the_command_line_that_ninja_prints(tmp_path: Path) -> None:
    (tmp_path / "log").write_text(
        "[1/9] Building CXX object x.o\nFAILED: x.o\n/usr/bin/g++ -Wall -Wextra -Werror -o x.o -c x.cpp\n"
        "x.cpp:7:1: error: 'nothing' was not declared in this scope\nninja: build stopped\n"
    )
    assert runner._first_error(tmp_path / "log") == "x.cpp:7:1: error: 'nothing' was not declared in this scope"


def test_without_the_json_headers_the_package_is_named_before_anything_is_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGELLM_CACHE", str(tmp_path / "cache"))
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "nlohmann_json" else found(name, *rest)
    )
    monkeypatch.setattr(sdk, "executorch_arm64", lambda report: pytest.fail("downloaded"))
    with pytest.raises(MissingDependencyError, match=r"nlohmann-json, which is not installed\. .*edgellm\[native\]"):
        runner.build_runner("linux-arm64", tmp_path / "out")


def test_the_pins_name_one_release_each() -> None:
    folder = runner.shipped("toolchains")
    constraints = (folder / "constraints-py311.txt").read_text().splitlines()
    pinned = [
        line for line in (folder / "runner/requirements.txt").read_text().splitlines() if not line.startswith("#")
    ]
    assert [line.split()[0] for line in pinned] == [line for line in constraints if line.startswith("executorch==")]
    for line in (folder / "runner/sysroot-arm64.txt").read_text().splitlines():
        if not line.startswith("#"):
            digest, size, path = line.split()
            assert (len(digest), int(size) > 0, path.startswith("pool/"), path.endswith("_arm64.deb")) == (64,) + (
                True,
            ) * 3


def test_the_sysroot_comes_from_the_machine_s_own_mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGELLM_CACHE", str(tmp_path))
    asked: list[str] = []

    def debs(names: list[str], arch: str) -> list[Download]:
        return [Download("libc6.deb", "https://mirror.example/debian/pool/main/g/x.deb", "0" * 64)]

    def fetch(wanted: list[Download], folder: Path, report: object) -> list[Path]:
        asked.extend(item.url for item in wanted)
        raise DeviceError("libc6 is gone.", hint="Run it again.")

    monkeypatch.setattr(packages, "debs", debs)
    monkeypatch.setattr(downloads, "fetch", fetch)
    with pytest.raises(DeviceError, match=r"libc6 is gone\. --no-sysroot links"):
        sdk.sysroot_arm64()
    assert len(asked) == 6
    assert all(url.startswith("https://mirror.example/debian/pool/main/") for url in asked)
    assert [path.name for path in (tmp_path / "runner").iterdir() if path.is_dir()] == []


def test_two_that_want_the_same_part_fill_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGELLM_CACHE", str(tmp_path))
    filled, both = [], threading.Barrier(2)

    def fill(target: Path) -> None:
        filled.append(target)
        (target / "part").write_text("complete")

    def want() -> None:
        both.wait()
        assert (sdk._unpacked("thing", "v1", fill) / "part").read_text() == "complete"

    threads = [threading.Thread(target=want) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(filled) == 1
    assert sdk._unpacked("thing", "v2", fill) != filled[0]
    assert len(filled) == 2


def test_a_part_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGELLM_CACHE", str(tmp_path))

    def fill(target: Path) -> None:
        (target / "half").touch()
        raise DeviceError("The network is gone.")

    with pytest.raises(DeviceError):
        sdk._unpacked("thing", "v1", fill)
    assert [path for path in (tmp_path / "runner").iterdir() if path.is_dir()] == []


def test_only_what_a_build_needs_is_taken_from_the_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGELLM_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "x.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("executorch/lib/a.so", "executorch/exir/x.py", "executorch/include/a.h", "other/lib/b.so"):
            archive.writestr(name, "x")
    monkeypatch.setattr(packages, "wheels", lambda requirements: [])
    monkeypatch.setattr(downloads, "fetch", lambda wanted, folder, report: [path])
    root, _ = sdk.executorch_arm64()
    found = sorted(item.relative_to(root).as_posix() for item in root.parent.rglob("*") if item.is_file())
    assert found == ["include/a.h", "lib/a.so"]
