"""Setting up: what is not finished is not there, and what came damaged is never used."""

from __future__ import annotations

import hashlib
import io
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from edgellm.emulation import push, sysroot
from edgellm.emulation.cpus import CPUS
from edgellm.emulation.unpack import unpack_deb, unpack_wheel
from edgellm.errors import DeviceError, MissingDependencyError
from edgellm.toolchain.downloads import Download


class Quiet:
    def step(self, text: str) -> None:
        pass

    def downloading(self, download: Download, done: int) -> None:
        pass


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGELLM_CACHE", str(tmp_path / "cache"))


def deb(path: Path, files: dict[str, str]) -> Path:
    """Write a .deb with these files; "-> x" is a link to x."""
    root = path.with_suffix(".root")
    (root / "DEBIAN").mkdir(parents=True)
    (root / "DEBIAN/control").write_text("Package: x\nVersion: 1\nArchitecture: all\nMaintainer: x\nDescription: x\n")
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if text.startswith("-> "):
            (root / name).symlink_to(text[3:])
        else:
            (root / name).write_text(text)
    subprocess.run(["dpkg-deb", "--build", "--root-owner-group", root, path], check=True, capture_output=True)
    return path


def test_it_is_not_ready_until_it_is_finished() -> None:
    assert sysroot.ready() is None
    with pytest.raises(MissingDependencyError, match="edgellm device setup emulator"):
        sysroot.require()


def test_a_truncated_package_never_becomes_a_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = deb(tmp_path / "x.deb", {"usr/lib/x.so": "x" * 5000})
    content = whole.read_bytes()
    cut = tmp_path / "cut.deb"
    cut.write_bytes(content[:-100])
    download = Download("x.deb", cut.as_uri(), hashlib.sha256(content).hexdigest(), len(content))
    monkeypatch.setattr(sysroot, "debs", lambda names, arch: [download])
    monkeypatch.setattr(sysroot, "wheels", lambda requirements: [])
    monkeypatch.setattr("edgellm.toolchain.downloads.PAUSE_S", 0.01)
    with pytest.raises(DeviceError, match=r"x\.deb could not be downloaded"):
        sysroot.setup(Quiet())
    assert sysroot.ready() is None
    assert not list((tmp_path / "cache/emulation").glob("*/qemu"))


def test_a_system_whose_python_does_not_run_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = deb(tmp_path / "x.deb", {"usr/lib/x.so": "x"}).read_bytes()
    download = Download("x.deb", (tmp_path / "x.deb").as_uri(), hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(sysroot, "debs", lambda names, arch: [download])
    monkeypatch.setattr(sysroot, "wheels", lambda requirements: [])
    with pytest.raises(DeviceError, match=r"could not be unpacked|does not import"):
        sysroot.setup(Quiet())
    assert sysroot.ready() is None


def test_a_deb_unpacks_files_and_links_and_no_documents(tmp_path: Path) -> None:
    files = {"usr/bin/x": "x", "lib/y.so.1": "y", "lib/y.so": "-> y.so.1", "usr/share/doc/x/z": "z", "no": "n"}
    unpack_deb(deb(tmp_path / "x.deb", files), tmp_path / "out", lambda name: name != "no")
    found = sorted(p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*") if not p.is_dir())
    assert found == ["lib/y.so", "lib/y.so.1", "usr/bin/x"]
    assert (tmp_path / "out/lib/y.so").read_text() == "y"


@pytest.mark.parametrize("member", ["../up", "a/../../up", "/etc/up"])
def test_nothing_is_unpacked_outside_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, member: str) -> None:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.addfile(tarfile.TarInfo(member))
    (tmp_path / "archive").write_bytes(archive.getvalue())
    tool = tmp_path / "dpkg-deb"
    tool.write_text(f"#!/bin/sh\nexec cat {tmp_path}/archive\n")
    tool.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda name: str(tool))
    with pytest.raises(DeviceError, match="outside its folder"):
        unpack_deb(tmp_path / "x.deb", tmp_path / "out")
    wheel = tmp_path / "x.whl"
    with zipfile.ZipFile(wheel, "w") as made:
        made.writestr(member, "x")
    with pytest.raises(DeviceError, match="outside its folder"):
        unpack_wheel(wheel, tmp_path / "out")


def test_a_damaged_deb_or_wheel_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.deb").write_bytes(b"!<arch>\nnothing")
    with pytest.raises(DeviceError, match=r"x\.deb can't be unpacked"):
        unpack_deb(tmp_path / "x.deb", tmp_path)
    (tmp_path / "x.whl").write_bytes(b"nothing")
    with pytest.raises(DeviceError, match=r"x\.whl can't be unpacked"):
        unpack_wheel(tmp_path / "x.whl", tmp_path)


def test_a_system_root_per_cpu_shows_that_cpu_and_shares_the_rest(tmp_path: Path) -> None:
    for cpu in CPUS.values():
        sysroot._make_sysroot(tmp_path / "cpus" / cpu.name, cpu)
    (tmp_path / "base/usr/bin").mkdir(parents=True)
    for cpu in CPUS.values():
        root = tmp_path / "cpus" / cpu.name
        assert (root / "proc/cpuinfo").read_text() == cpu.cpuinfo
        assert (root / "sys/devices/system/cpu/possible").read_text() == "0-3\n"
        assert (root / "usr/bin").samefile(tmp_path / "base/usr/bin")


def test_the_pushed_runtime_is_what_a_device_needs_and_nothing_else() -> None:
    folder = push.pushed_runtime()
    assert push.pushed_runtime() == folder
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*.py")}
    assert {"edgellm/__init__.py", "edgellm/runtime/worker.py", "edgellm/tasks/feature_extraction.py"} <= names
    assert not [name for name in names if name.startswith(("edgellm/backends", "edgellm/stages", "edgellm/cli"))]
    code = "import sys; sys.path.insert(0, sys.argv[1]); import edgellm.runtime.worker as w; print(w.__file__)"
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, str(folder)], capture_output=True, text=True, check=True, cwd="/"
    )
    assert done.stdout.startswith(str(folder))


def test_a_changed_runtime_is_pushed_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "edgellm"
    shutil.copytree(push._PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(push, "_PACKAGE", package)
    before = push.pushed_runtime()
    with (package / "errors.py").open("a") as file:
        file.write("# changed\n")
    assert push.pushed_runtime() != before
