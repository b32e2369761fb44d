"""Packaging: `--out` holds the old bundle or the new one, whole, and nothing that is no bundle is ever touched."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgellm.core import strict
from edgellm.errors import UsageError
from edgellm.runtime.bundle import Bundle
from edgellm.stages import put
from edgellm.stages.package import GIVEN_GOLDEN, check_out, list_files, publish, write_card, write_manifest
from tests.tiny import edit_manifest, tiny_bundle


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """Return a published bundle with a report."""
    path = tmp_path / "home" / "bundle"
    tiny_bundle(path, max_tokens=16)
    (path / "reports").mkdir()
    (path / "reports" / "latency.json").write_text("{}")
    return path


@pytest.fixture
def new(tmp_path: Path) -> Path:
    return tiny_bundle(tmp_path / "work", max_tokens=24).path


def snapshot(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("kind", ["new", "new, deep", "empty", "bundle"])
def test_a_bundle_may_be_written_to(tmp_path: Path, old: Path, new: Path, kind: str) -> None:
    out = {"new": tmp_path / "x", "new, deep": tmp_path / "x/y/z", "empty": tmp_path / "e", "bundle": old}[kind]
    if kind == "empty":
        out.mkdir()
    check_out(out)
    assert publish(new, out).manifest.max_tokens == 24
    assert snapshot(out) == snapshot(new)
    Bundle.open(out).use_all()
    assert [p.name for p in out.parent.iterdir() if ".partial" in p.name] == []


@pytest.mark.parametrize(
    "kind", ["folder", "hidden file", "file", "link", "broken link", "below a file", "other manifest"]
)
def test_anything_else_is_refused_and_left_alone(tmp_path: Path, old: Path, kind: str) -> None:
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("precious")
    elif kind == "link":
        out.symlink_to(old)
    elif kind == "broken link":
        out.symlink_to(tmp_path / "gone")
    elif kind == "below a file":
        (tmp_path / "file").write_text("precious")
        out = tmp_path / "file" / "out"
    else:
        out.mkdir()
        name, text = {
            "folder": ("thesis.txt", "precious"),
            "hidden file": (".git", "precious"),
            "other manifest": ("manifest.json", '{"name": "a browser extension"}'),
        }[kind]
        (out / name).write_text(text)
    before = snapshot(tmp_path)
    with pytest.raises(UsageError, match="Choose another --out"):
        check_out(out)
    assert snapshot(tmp_path) == before


def test_a_folder_that_can_not_be_written_to_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(UsageError, match=f"{tmp_path} can't be written to"):
        check_out(tmp_path / "a" / "b")


def test_an_identical_bundle_keeps_its_reports_and_its_files(old: Path, tmp_path: Path) -> None:
    twin = tiny_bundle(tmp_path / "twin", max_tokens=16).path
    inodes = {p: p.stat().st_ino for p in old.rglob("*")}
    publish(twin, old)
    assert {p: p.stat().st_ino for p in old.rglob("*")} == inodes
    assert (old / "reports" / "latency.json").is_file()


def test_an_identical_but_damaged_bundle_is_replaced(old: Path, tmp_path: Path) -> None:
    twin = tiny_bundle(tmp_path / "twin", max_tokens=16).path
    (old / "model-fp32.onnx").write_bytes(b"damaged")
    publish(twin, old)
    Bundle.open(old).use_all()


def test_what_can_t_be_read_as_a_bundle_is_not_replaced(old: Path, new: Path) -> None:
    edit_manifest(old, lambda data: data.update(schema_version=99, new_key=1))
    with pytest.raises(UsageError, match="left alone"):
        check_out(old)


def test_a_file_beside_the_bundle_s_own_is_not_lost(old: Path, new: Path) -> None:
    (old / "thesis.txt").write_text("precious")
    before = snapshot(old)
    with pytest.raises(UsageError, match="left alone"):
        publish(new, old)
    assert snapshot(old) == before


def test_reports_about_a_replaced_bundle_are_kept_beside_the_new_one(old: Path, new: Path) -> None:
    (old / "reports").mkdir(exist_ok=True)
    (old / "reports" / "pi.json").write_text("measured")
    publish(new, old)
    (kept,) = old.parent.glob("bundle.reports-*")
    assert (kept / "pi.json").read_text() == "measured"
    assert not (old / "reports").exists()


def test_without_room_the_old_bundle_stays_and_nothing_else(
    old: Path, new: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = snapshot(old.parent)
    need = sum(path.stat().st_size for path in new.iterdir())
    usage: Any = shutil.disk_usage(old)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=need - 1))
    with pytest.raises(OSError, match="MB are needed") as caught:
        publish(new, old)
    assert caught.value.errno == errno.ENOSPC
    assert snapshot(old.parent) == before


@pytest.mark.parametrize("step", ["copyfile", "fsync", "exchange"])
def test_a_failure_on_the_way_leaves_the_old_bundle_and_nothing_else(
    old: Path, new: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    before = snapshot(old.parent)

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    where, name = {"copyfile": (shutil, "copyfile"), "fsync": (os, "fsync"), "exchange": (put, "_exchange")}[step]
    monkeypatch.setattr(where, name, fail)
    with pytest.raises(OSError, match="Input/output error"):
        publish(new, old)
    assert snapshot(old.parent) == before
    assert not [p.name for p in old.parent.iterdir() if p.name.startswith(".")]


def test_what_appears_at_out_during_the_build_is_not_overwritten(
    tmp_path: Path, new: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "home" / "out"
    flush = put._flush

    def meanwhile(path: Path) -> None:
        flush(path)
        out.mkdir(exist_ok=True)
        (out / "thesis.txt").write_text("precious")

    monkeypatch.setattr(put, "_flush", meanwhile)
    with pytest.raises(UsageError, match="left alone"):
        publish(new, out)
    assert snapshot(out.parent) == {"out/thesis.txt": b"precious"}


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_the_exchange_leaves_no_trace_with_and_without_the_system_s_help(
    old: Path, new: Path, monkeypatch: pytest.MonkeyPatch, platform: str
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    publish(new, old)
    assert snapshot(old) == snapshot(new)
    assert not [p.name for p in old.parent.iterdir() if p.name.startswith(".")]


def test_a_failed_second_rename_puts_the_old_bundle_back(old: Path, new: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = snapshot(old.parent)
    rename = Path.rename

    def sometimes(self: Path, target: Path) -> Path:
        if self.name.startswith(".bundle.partial") and "-old" not in self.name:
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(Path, "rename", sometimes)
    with pytest.raises(OSError, match="Input/output error"):
        publish(new, old)
    assert snapshot(old.parent) == before


KILLED = """
import os, signal, sys
from pathlib import Path
from edgellm.stages import package, put
folder, out, after = sys.argv[1:]
flush, rename, done = put._flush, Path.rename, []
def dying(path):
    flush(path)
    done.append(path)
    if len(done) == 2 and after == "copies":
        os.kill(os.getpid(), signal.SIGKILL)
def renaming(self, target):
    rename(self, target)
    if after == "rename":
        os.kill(os.getpid(), signal.SIGKILL)
if after == "rename":
    sys.platform = "darwin"
put._flush, Path.rename = dying, renaming
package.publish(Path(folder), Path(out))
"""


def kill(new: Path, old: Path, after: str) -> None:
    done = subprocess.run([sys.executable, "-P", "-c", KILLED, str(new), str(old), after], check=False)
    assert done.returncode == -signal.SIGKILL


def test_a_killed_build_damages_nothing_and_the_next_one_sweeps_up(old: Path, new: Path) -> None:
    before = snapshot(old)
    kill(new, old, "copies")
    assert snapshot(old) == before
    assert len(list(old.parent.iterdir())) == 2
    publish(new, old)
    assert snapshot(old) == snapshot(new)
    assert not [p.name for p in old.parent.iterdir() if p.name.startswith(".")]


def test_killed_between_two_renames_the_old_bundle_lives_until_a_new_one_does(
    old: Path, new: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = snapshot(old)
    kill(new, old, "rename")
    assert before in [snapshot(folder) for folder in old.parent.iterdir()]

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfile", full)
        with pytest.raises(OSError, match="full"):
            publish(new, old)
    assert before in [snapshot(folder) for folder in old.parent.iterdir()]
    publish(new, old)
    assert snapshot(old) == snapshot(new)


def test_a_partial_folder_of_a_living_build_is_left_alone(old: Path, new: Path) -> None:
    other = old.parent / f".bundle.partial-{os.getppid()}"
    other.mkdir()
    publish(new, old)
    assert other.is_dir()


def test_files_are_listed_without_manifest_and_reports(old: Path) -> None:
    (old / "sub").mkdir()
    (old / "sub" / "reports").write_text("x")
    assert [entry.path for entry in list_files(old)] == [
        "README.md", "golden.jsonl", "model-fp32.onnx", "sub/reports", "tokenizer.json",
    ]  # fmt: skip


def test_the_same_manifest_gives_the_same_bytes(embedder: Bundle, tmp_path: Path) -> None:
    write_manifest(tmp_path, embedder.manifest)
    first = (tmp_path / "manifest.json").read_bytes()
    write_manifest(tmp_path, embedder.manifest)
    assert (tmp_path / "manifest.json").read_bytes() == first
    assert json.loads(first) == strict.plain(embedder.manifest)


def test_the_card_says_what_was_measured_how_to_run_it_and_whose_texts_it_holds(
    embedder: Bundle, tmp_path: Path
) -> None:
    write_card(tmp_path, embedder.manifest)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    for part in (
        "# tiny for linux-x86_64", "up to 32 tokens", "| `model-fp32.onnx` | onnx | fp32 | cpu |", "1.0000",
        "no measurement on the target device", "pip install 'edgellm[onnx]'", "edgellm run .", "Golden cases:",
        "(Apache-2.0), no user's", "ab" * 32, "not stated by its source", "onnx 1.23.0",
    ):  # fmt: skip
        assert part in card, part


def test_the_card_does_not_call_given_texts_its_own(embedder: Bundle, tmp_path: Path) -> None:
    given = f"{GIVEN_GOLDEN} 2 texts of letters.txt, which the bundle holds."
    write_card(tmp_path, dataclasses.replace(embedder.manifest, notes=(given,)))
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "Golden cases: texts that were given to the build, under a licence that it does not know" in card
    assert "Apache-2.0" not in card
