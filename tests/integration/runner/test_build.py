"""What a build of the native runner is made of, states about itself, and leaves alone."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from edgellm.runtime import Bundle
from edgellm.toolchain import runner as toolchain
from tests.integration.conftest import ROOT, edgellm

pytestmark = pytest.mark.integration


def test_the_build_states_its_facts(built: dict[str, Any], program: Path) -> None:
    assert built == {**json.loads((program.parent / "runner.json").read_text()), "path": str(program.parent)}
    assert (built["toolchain"], built["executorch"]) == ("linux-x86_64", "1.5.1")
    assert {path.name for path in program.parent.iterdir()} == {item["path"] for item in built["files"]} | {
        "runner.json"
    }
    assert not [name for name in built["needed"] if "torch" in name or "python" in name]
    assert built["executable_bytes"] == program.stat().st_size < 1_000_000
    dynamic = subprocess.run(["readelf", "-dW", str(program)], capture_output=True, text=True, check=True).stdout
    assert [line.split()[-1] for line in dynamic.splitlines() if "RUNPATH" in line or "RPATH" in line] == ["[$ORIGIN]"]
    library = str(program.parent / "libedgellm.so")
    flags = subprocess.run(["readelf", "-dW", library], capture_output=True, text=True, check=True).stdout
    assert "NODELETE" in flags  # libexecutorch.so keeps a pointer to its function that logs
    assert str(ROOT).encode() not in program.read_bytes()


def test_a_folder_that_is_no_runner_is_left_alone(tmp_path: Path, built: dict[str, Any]) -> None:
    (tmp_path / "letter.txt").write_text("Dear all")
    done = edgellm("runner", "build", "--target", "linux-x86_64", "--out", str(tmp_path))
    assert (done.returncode, (tmp_path / "letter.txt").read_text()) == (2, "Dear all")
    assert "is left alone" in done.stderr


def test_a_runner_is_replaced_and_the_cache_serves_the_copy(built: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "runner"
    for _ in range(2):
        again = toolchain.build_runner("linux-x86_64", out)
        assert [dataclasses.asdict(file) for file in again.files] == [
            {**item, "needed": tuple(item["needed"])} for item in built["files"]
        ]
    assert [path.name for path in tmp_path.iterdir()] == ["runner"]


def test_android_needs_an_ndk_and_says_so_in_one_line(tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("ANDROID_NDK")}
    done = edgellm("runner", "build", "--target", "android-arm64", "--out", str(tmp_path / "x"), env=env)
    assert done.returncode == 4
    assert len(done.stderr.splitlines()) == 1
    assert "needs an Android NDK, and neither ANDROID_NDK nor ANDROID_NDK_HOME names one" in done.stderr


def test_sha256_is_as_fips_180_states_it(tmp_path: Path) -> None:
    source = ROOT / "toolchains" / "runner"
    test = tmp_path / "test"
    sources = [str(source / "tests" / "sha256_test.cpp"), str(source / "src" / "sha256.cpp")]
    subprocess.run(["g++", "-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror",
                    f"-I{source / 'src'}", *sources, "-o", str(test)], check=True)  # fmt: skip
    assert subprocess.run([str(test)], check=False).returncode == 0


def test_only_the_functions_of_the_header_are_exported(program: Path) -> None:
    library = program.parent / "libedgellm.so"
    done = subprocess.run(["nm", "-D", "--defined-only", str(library)], capture_output=True, text=True, check=True)
    exported = {line.split()[-1] for line in done.stdout.splitlines()}
    header = (program.parent / "edgellm.h").read_text()
    assert exported
    assert all(name.startswith("edgellm_") and f"{name}(" in header for name in exported)


def test_the_folder_works_wherever_it_is_put(program: Path, demo_bundle: Bundle, tmp_path: Path) -> None:
    moved = tmp_path / "a folder" / "with spaces"
    shutil.copytree(program.parent, moved)
    env = {"PATH": "/nowhere"}
    command = [str(moved / program.name), "golden", str(demo_bundle.path), "--cases", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env, cwd="/")
    assert done.returncode == 0, done.stderr
    loaded = subprocess.run(["ldd", str(moved / program.name)], capture_output=True, text=True, check=True).stdout
    found = [line.split("=> ")[1].split(" (")[0] for line in loaded.splitlines() if "executorch" in line]
    assert len(found) == 5
    assert all(Path(path).parent == moved for path in found)
