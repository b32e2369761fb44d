"""Unpacking: nothing lands outside of the folder, whatever an archive says, and nothing is left out in silence."""

from __future__ import annotations

import io
import os
import shutil
import stat
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from edgellm.errors import DeviceError, MissingDependencyError
from edgellm.toolchain.unpack import unpack_deb, unpack_wheel


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


def member(name: str, kind: bytes = tarfile.REGTYPE, aim: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, aim
    return made


def unpack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *members: tarfile.TarInfo) -> Path:
    """Unpack a .deb of these members, as dpkg-deb would hand them over; files hold their own names."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for each in members:
            content = each.name.encode() if each.isreg() else b""
            each.size = len(content)
            tar.addfile(each, io.BytesIO(content))
    (tmp_path / "archive").write_bytes(archive.getvalue())
    tool = tmp_path / "dpkg-deb"
    tool.write_text(f"#!/bin/sh\nexec cat {tmp_path}/archive\n")
    tool.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda name: str(tool))
    unpack_deb(tmp_path / "x.deb", tmp_path / "out")
    return tmp_path / "out"


def wheel(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w") as made:
        for name in names:
            made.writestr(name, name)
    return path


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


def test_a_deb_unpacks_files_and_links_and_no_documents(tmp_path: Path) -> None:
    content = {"usr/bin/x": "x", "lib/y.so.1": "y", "lib/y.so": "-> y.so.1", "usr/share/doc/x/z": "z"}
    unpack_deb(deb(tmp_path / "x.deb", content), tmp_path / "out")
    assert files(tmp_path / "out") == ["lib/y.so", "lib/y.so.1", "usr/bin/x"]
    assert (tmp_path / "out/lib/y.so").read_text() == "y"


def test_a_deb_unpacks_what_is_wanted_and_nothing_else(tmp_path: Path) -> None:
    content = {"usr/share/dict/words": "a", "usr/bin/x": "x"}
    unpack_deb(deb(tmp_path / "x.deb", content), tmp_path / "out", lambda name: name.endswith("words"))
    assert files(tmp_path / "out") == ["usr/share/dict/words"]


@pytest.mark.parametrize("name", ["../up", "a/../../up", "/etc/up"])
def test_nothing_is_unpacked_outside_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    with pytest.raises(DeviceError, match="outside its folder"):
        unpack(tmp_path, monkeypatch, member(name))
    with pytest.raises(DeviceError, match="outside its folder"):
        unpack_wheel(wheel(tmp_path / "x.whl", name), tmp_path / "out")


@pytest.mark.parametrize("aim", ["/lib/libm.so.6", "../../lib/libm.so.6"])
def test_a_link_of_a_sysroot_stays_inside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, aim: str) -> None:
    link = member("./usr/lib/libm.so", tarfile.SYMTYPE, aim)
    out = unpack(tmp_path, monkeypatch, member("./lib/libm.so.6"), link)
    assert os.readlink(out / "usr/lib/libm.so") == "../../lib/libm.so.6"
    assert (out / "usr/lib/libm.so").read_text() == "./lib/libm.so.6"


@pytest.mark.parametrize("aim", ["..", "../../outside", "a/../../../outside"])
def test_a_link_that_leads_outside_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, aim: str) -> None:
    with pytest.raises(DeviceError, match="links to a file outside its folder"):
        unpack(tmp_path, monkeypatch, member("d" if aim == ".." else "lib/d", tarfile.SYMTYPE, aim))


@pytest.mark.parametrize("name", ["d/file", "d/deep/file", "d/folder"])
def test_nothing_is_written_through_a_link_that_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/d").symlink_to(tmp_path / "outside")
    kind = tarfile.DIRTYPE if name.endswith("folder") else tarfile.REGTYPE
    with pytest.raises(DeviceError, match="through a link that leads outside"):
        unpack(tmp_path, monkeypatch, member(name, kind))
    with pytest.raises(DeviceError, match="through a link that leads outside"):
        unpack_wheel(wheel(tmp_path / "x.whl", name), tmp_path / "out")
    assert not list((tmp_path / "outside").iterdir())


def test_a_chain_of_links_leads_nowhere_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each aim is harmless by its letters, but a/b/root is the root, and what is above that is outside."""
    up, out = member("a/b/root", tarfile.SYMTYPE, "../.."), member("up", tarfile.SYMTYPE, "a/b/root/..")
    with pytest.raises(DeviceError, match="through a link that leads outside its folder: 'up'"):
        unpack(tmp_path, monkeypatch, up, out, member("up/file"))
    assert not (tmp_path / "file").exists()


def test_a_file_takes_the_place_of_a_link_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "out").mkdir()
    for name in ("f", "m.py"):
        (tmp_path / "out" / name).symlink_to(tmp_path / "precious")
    out = unpack(tmp_path, monkeypatch, member("f"))
    unpack_wheel(wheel(tmp_path / "x.whl", "m.py"), out)
    assert (tmp_path / "precious").read_text() == "precious"
    assert ((out / "f").read_text(), (out / "m.py").read_text()) == ("f", "m.py")


def test_a_hard_link_is_a_copy_and_one_to_nowhere_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = unpack(tmp_path, monkeypatch, member("./a/one"), member("./b/two", tarfile.LNKTYPE, "./a/one"))
    assert (out / "b/two").read_text() == "./a/one"
    with pytest.raises(DeviceError, match=r"a file that was not unpacked: 'c' to '\./gone'"):
        unpack(tmp_path, monkeypatch, member("c", tarfile.LNKTYPE, "./gone"))
    with pytest.raises(DeviceError, match="outside its folder"):
        unpack(tmp_path, monkeypatch, member("c", tarfile.LNKTYPE, "../archive"))


@pytest.mark.parametrize("kind", [tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE])
def test_a_device_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: bytes) -> None:
    with pytest.raises(DeviceError, match="no file, folder or link: 'dev/x'"):
        unpack(tmp_path, monkeypatch, member("dev/x", kind))


def test_a_wheel_s_modules_are_unpacked_wherever_it_keeps_them(tmp_path: Path) -> None:
    names = ("x/y.py", "x-1.data/purelib/p.py", "x-1.data/platlib/q.so", "x-1.data/scripts/x", "x-1.dist-info/RECORD")
    unpack_wheel(wheel(tmp_path / "x.whl", *names), tmp_path / "out")
    assert files(tmp_path / "out") == ["p.py", "q.so", "x-1.dist-info/RECORD", "x/y.py"]
    unpack_wheel(tmp_path / "x.whl", tmp_path / "part", lambda name: name.startswith("x/"))
    assert files(tmp_path / "part") == ["x/y.py"]


def test_a_link_in_a_wheel_is_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("x/libx.so")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "x.whl", "w") as made:
        made.writestr(link, "libx.so.1")
    with pytest.raises(DeviceError, match=r"x\.whl holds a link"):
        unpack_wheel(tmp_path / "x.whl", tmp_path / "out")


def test_a_damaged_deb_or_wheel_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.deb").write_bytes(b"!<arch>\nnothing")
    with pytest.raises(DeviceError, match=r"x\.deb can't be unpacked"):
        unpack_deb(tmp_path / "x.deb", tmp_path)
    (tmp_path / "x.whl").write_bytes(b"nothing")
    with pytest.raises(DeviceError, match=r"x\.whl can't be unpacked"):
        unpack_wheel(tmp_path / "x.whl", tmp_path)


def test_without_dpkg_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingDependencyError, match="needs dpkg-deb"):
        unpack_deb(tmp_path / "x.deb", tmp_path)
