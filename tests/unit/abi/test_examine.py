"""What a path can name: files, folders, bundles, and everything that is none of them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgellm.abi import Examination
from edgellm.abi.examine import examine
from edgellm.core import strict
from edgellm.errors import BundleError, InputError, MissingDependencyError, UsageError
from edgellm.runtime.bundle import Bundle
from tests.tiny import TinyModel, edit_manifest, reseal, tiny_bundle
from tests.unit.abi.files import X86_64, pte_bytes, tflite_bytes, write_elf
from tests.unit.cli.command import call, spawn


def problems(result: Examination) -> list[tuple[str, str, str]]:
    return [(f.subject, f.rule, f.level) for f in result.findings if f.level != "ok"]


def test_a_bundle_is_compared_with_the_target_it_was_built_for(embedder: Bundle) -> None:
    result = examine(embedder.path)
    assert (result.target, result.ok, problems(result)) == ("linux-x86_64", True, [])
    assert [(f.subject, f.kind) for f in result.facts] == [("model-fp32.onnx", "onnx")]


def test_a_bundle_can_be_compared_with_another_target(embedder: Bundle) -> None:
    result = examine(embedder.path, target="raspberry-pi-4")
    assert (result.target, result.ok) == ("raspberry-pi-4", True)
    assert result.findings[0].message == "built for linux-x86_64, examined for raspberry-pi-4."


def test_native_files_in_a_bundle_are_examined(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "b")
    (bundle.path / "bin").mkdir()
    write_elf(bundle.path / "bin" / "runner", machine=X86_64)
    (bundle.path / "reports").mkdir()
    write_elf(bundle.path / "reports" / "old")
    assert examine(bundle.path).ok
    result = examine(bundle.path, target="raspberry-pi-4")
    assert problems(result) == [("bin/runner", "architecture", "error")]


def test_a_damaged_artifact_does_not_hide_the_others(tmp_path: Path) -> None:
    result = examine(tiny_bundle(tmp_path / "b", others=("tflite", "executorch")).path)
    assert problems(result) == [
        ("model-fp32.tflite", "readable", "error"), ("model-fp32.executorch", "readable", "error")
    ]  # fmt: skip
    assert [f.subject for f in result.facts] == ["model-fp32.onnx"]
    assert not result.ok


def test_an_artifact_with_a_newer_ir_does_not_pass_though_its_hash_is_right(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "b")
    model = TinyModel.random(80, 8, 0, True)
    (bundle.path / "model-fp32.onnx").write_bytes(model.onnx("embedding", ir_version=11))
    reseal(bundle.path)
    assert ("model-fp32.onnx", "IR version", "error") in problems(examine(bundle.path))


@pytest.mark.parametrize(
    ("change", "rule", "level"),
    [
        (lambda m: m["artifacts"][0].update(delegate="qnn"), "delegate", "error"),
        (lambda m: m["tools"].update(onnxruntime="1.16.3"), "runtime", "warning"),
    ],
)
def test_what_the_manifest_states_is_compared(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], rule: str, level: str
) -> None:
    bundle = tiny_bundle(tmp_path / "b")
    edit_manifest(bundle.path, change)
    assert problems(examine(bundle.path)) == [("model-fp32.onnx", rule, level)]


def test_a_bundle_for_an_unknown_target_asks_for_one(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "b")
    edit_manifest(bundle.path, lambda m: m.update(target="moon-lander"))
    with pytest.raises(UsageError, match="Name one with --target"):
        examine(bundle.path)
    assert examine(bundle.path, target="linux-arm64").ok


def test_a_damaged_manifest_is_a_bundle_error(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(BundleError):
        examine(tmp_path)


def test_a_folder_of_libraries_is_examined_file_by_file(tmp_path: Path) -> None:
    write_elf(tmp_path / "liba.so.1", needed=("libb.so", "libc.so.6"), runpath="$ORIGIN")
    write_elf(tmp_path / "libb.so", align=4096)
    (tmp_path / "liba.so").symlink_to("liba.so.1")
    (tmp_path / "loop").symlink_to(".")
    (tmp_path / "notes.txt").write_text("nothing to examine")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "m.tflite").write_bytes(tflite_bytes([(0, 1)]))
    (tmp_path / "models" / "m.bin").write_bytes(pte_bytes())
    (tmp_path / "empty.pte").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe.so")
    result = examine(tmp_path, target="raspberry-pi-5")
    assert [f.subject for f in result.facts] == ["liba.so.1", "libb.so", "models/m.bin", "models/m.tflite"]
    assert problems(result) == [("empty.pte", "readable", "error"), ("libb.so", "page size", "warning")]


def test_a_damaged_program_without_a_suffix_is_not_passed_over(tmp_path: Path) -> None:
    path = write_elf(tmp_path / "runner")
    path.write_bytes(path.read_bytes()[:100])
    assert problems(examine(tmp_path)) == [("runner", "readable", "error")]


def test_without_a_target_a_file_is_only_read(tmp_path: Path) -> None:
    result = examine(write_elf(tmp_path / "lib.so", machine=X86_64, align=4096))
    assert (result.target, result.ok, result.findings) == (None, True, ())
    assert result.facts[0].values["machine"] == "x86_64"


def test_a_link_to_a_file_is_followed(tmp_path: Path) -> None:
    write_elf(tmp_path / "lib.so.1")
    (tmp_path / "link").symlink_to("lib.so.1")
    assert examine(tmp_path / "link").ok


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("x.so", b"", "is empty"),
        ("x.so", b"!<arch>\n", "is called a library, and is no ELF file"),
        ("x.so", b"\x7fELF", "damaged ELF file: it ends at byte 4"),
        ("x.onnx", b"\x08", "no sound ONNX file"),
        ("x.tflite", b"abcdefghijkl", "'efgh' where 'TFL3' belongs"),
        ("x.pte", b"abcd", "it ends at byte 4"),
        ("x.dylib", b"\xcf\xfa\xed\xfe" + bytes(60), "a Mach-O file, which can't be examined"),
        ("notes.txt", b"hello", "neither a native file nor an artifact"),
    ],
)
def test_a_file_that_can_t_be_examined_says_why(tmp_path: Path, name: str, data: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=reason) as caught:
        examine(tmp_path / name)
    assert str(caught.value).startswith(str(tmp_path / name))
    assert caught.value.hint
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["/dev/zero", "/dev/null", "pipe", "socket", "missing", "dangling", "a\0b", "x" * 300, ""]
)
def test_what_is_no_file_is_refused_and_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    os.mknod("socket", 0o140600)
    Path("dangling").symlink_to("nowhere")
    with pytest.raises(InputError):
        examine(name)


def test_a_folder_with_nothing_in_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no native file and no artifact"):
        examine(tmp_path)


def test_a_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgellm.abi.examine._MOST_FILES", 3)
    for number in range(4):
        (tmp_path / f"{number}.txt").write_bytes(b"x")
    with pytest.raises(InputError, match="has over 3 files"):
        examine(tmp_path)


def test_the_command_prints_facts_findings_and_what_to_do(tmp_path: Path) -> None:
    write_elf(tmp_path / "runner", versions=(("libc.so.6", "GLIBC_2.38", "fmod"),))
    done = spawn("doctor", tmp_path / "runner", "--target", "raspberry-pi-4")
    assert done.code == 6
    assert "machine           aarch64" in done.out
    assert "runner  glibc         ERROR  needs glibc 2.38 (fmod), and raspberry-pi-4 has 2.36." in done.out
    assert "runner, glibc: Build it against glibc 2.36 or older" in done.out
    assert done.out.endswith(f"{tmp_path / 'runner'} for raspberry-pi-4: 1 error.\n")
    assert done.err == ""


def test_the_command_prints_one_json_object(embedder: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    done = call(capsys, "doctor", embedder.path, "--json")
    assert done.code == 0
    data = json.loads(done.out)
    assert list(data) == ["path", "target", "ok", "facts", "findings"]
    assert data == strict.plain(examine(embedder.path))
    assert set(data["findings"][0]) == {"subject", "rule", "level", "message", "hint"}


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["doctor", "missing"], 3), (["doctor", ".", "--target", "moon"], 2), (["doctor", "--target", "linux-arm64"], 2)],
)
def test_the_command_fails_with_the_error_s_own_code(
    arguments: list[str], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    done = call(capsys, *arguments)
    assert (done.code, done.out) == (code, "")
    assert done.err.startswith("edgellm: ")


def test_the_command_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = tiny_bundle(tmp_path / "b")
    copy = shutil.copytree(bundle.path, tmp_path / "copy")
    call(capsys, "doctor", bundle.path)
    bundle.use_all()
    assert {p.name for p in bundle.path.iterdir()} == {p.name for p in copy.iterdir()}


def test_a_device_without_converters_can_examine_all_but_onnx(
    embedder: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingDependencyError, match=r"needs onnx\. Install it with: pip install 'edgellm\[build\]'"):
        examine(embedder.path)
    code = "import edgellm.abi.examine, sys; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    converters = {"ai_edge_litert", "elftools", "executorch", "flatbuffers", "onnx", "onnxruntime", "torch"}
    assert not converters & set(done.stdout.split())
