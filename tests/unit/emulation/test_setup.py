"""Setting up: what is not finished is not there, and what came damaged is never used."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgellm.emulation import leftovers, push, setup, sysroot
from edgellm.emulation.cpus import CPUS
from edgellm.emulation.sysroot import Emulation
from edgellm.errors import DeviceError, MissingDependencyError
from edgellm.toolchain.downloads import Download
from tests.unit.toolchain.test_unpack import deb


class Quiet:
    def step(self, text: str) -> None:
        pass

    def downloading(self, download: Download, done: int) -> None:
        pass


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGELLM_CACHE", str(tmp_path / "cache"))


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
    monkeypatch.setattr(setup, "debs", lambda names, arch: [download])
    monkeypatch.setattr(setup, "wheels", lambda requirements: [])
    monkeypatch.setattr("edgellm.toolchain.downloads.PAUSE_S", 0.01)
    with pytest.raises(DeviceError, match=r"x\.deb could not be downloaded"):
        setup.setup(Quiet())
    assert sysroot.ready() is None
    assert not list((tmp_path / "cache/emulation").glob("*/qemu"))


def test_a_system_whose_python_does_not_run_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = deb(tmp_path / "x.deb", {"usr/lib/x.so": "x"}).read_bytes()
    download = Download("x.deb", (tmp_path / "x.deb").as_uri(), hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(setup, "debs", lambda names, arch: [download])
    monkeypatch.setattr(setup, "wheels", lambda requirements: [])
    with pytest.raises(DeviceError, match=r"could not be unpacked|does not import"):
        setup.setup(Quiet())
    assert sysroot.ready() is None


def test_a_system_root_per_cpu_shows_that_cpu_and_shares_the_rest(tmp_path: Path) -> None:
    for cpu in CPUS.values():
        setup._make_sysroot(tmp_path / "cpus" / cpu.name, cpu)
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


@pytest.fixture
def qemu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a script that is taken for qemu."""
    path = tmp_path / "qemu"
    monkeypatch.setattr(Emulation, "qemu_program", lambda self: ["/bin/sh", str(path)])
    return path


@pytest.mark.parametrize("said", ["qemu-aarch64 version 10.0.2 (Debian 1:10.0.2+ds-2~bpo12+1)", "hello", ""])
def test_another_qemu_is_refused(tmp_path: Path, qemu: Path, said: str) -> None:
    qemu.write_text(f"echo '{said}'")
    with pytest.raises(DeviceError, match=r"wants qemu 7\.2, and apt gave another"):
        setup._try_out(Emulation(tmp_path), list(CPUS.values()), Quiet())
    qemu.write_text("echo 'qemu-aarch64 version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)'")
    setup._try_out(Emulation(tmp_path), list(CPUS.values()), Quiet())


def test_a_system_that_hangs_is_named_with_its_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, qemu: Path) -> None:
    qemu.write_text('[ "$1" = --version ] && { echo qemu-aarch64 version 7.2.1; exit; }\nexec sleep 60')
    monkeypatch.setattr(setup, "TRIAL_S", 1.0)
    with pytest.raises(DeviceError, match=r"Python on cortex-a72 did not end in 1 s"):
        setup._try_out(Emulation(tmp_path), [CPUS["cortex-a72"]], Quiet())


@pytest.mark.parametrize(("system", "machine"), [("Linux", "riscv64"), ("Darwin", "arm64"), ("Darwin", "x86_64")])
def test_where_it_can_t_run_it_is_not_ready_and_says_why(
    monkeypatch: pytest.MonkeyPatch, system: str, machine: str
) -> None:
    monkeypatch.setattr(os, "uname", lambda: os.uname_result((system, "here", "1", "1", machine)))
    assert sysroot.ready() is None
    assert "runs on Linux on x86_64 or aarch64" in sysroot.lacking()
    with pytest.raises(DeviceError, match="runs on Linux on x86_64 or aarch64"):
        sysroot.require()


def test_what_nobody_used_for_a_month_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "cache/emulation"
    current, old, young, busy = (root / (letter * 24) for letter in "abcd")
    others = [root / "downloads", root / "pushed", root / "e", root / "work/young"]
    gone = [old, root / f"{'e' * 24}.part", root / f"runner-{'f' * 24}", root / "work/old"]
    for folder in (current, young, busy, *others, *gone):
        folder.mkdir(parents=True)
        (folder / "file").touch()
    month_ago = time.time() - leftovers.UNUSED_S - 60
    for folder in (current, busy, *others[:3], *gone):
        os.utime(folder, (month_ago, month_ago))
    from filelock import FileLock

    with FileLock(busy.with_suffix(".lock")):
        leftovers.tidy(current)
    assert not [path for path in gone if path.exists()]
    assert not old.with_suffix(".part").exists()
    assert all((path / "file").exists() for path in (current, young, busy, *others))


def test_a_setup_tidies_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tmp_path / "cache/emulation" / ("a" * 24)
    old.mkdir(parents=True)
    os.utime(old, (0, 0))

    def offline(names: object, arch: str) -> list[Download]:
        raise DeviceError("The network is gone.")

    monkeypatch.setattr(setup, "debs", offline)
    with pytest.raises(DeviceError, match="network is gone"):
        setup.setup(Quiet())
    assert not old.exists()


def test_a_system_that_is_used_stays_young(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    os.utime(tmp_path, (0, 0))
    monkeypatch.setattr(sysroot, "ready", lambda: Emulation(tmp_path))
    sysroot.require()
    assert tmp_path.stat().st_mtime > time.time() - 60
