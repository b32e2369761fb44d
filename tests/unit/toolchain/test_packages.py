"""Packages: what pip, apt and npm answer becomes downloads, and what they lack is named. Scripts stand in for them."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from edgellm.errors import DeviceError, MissingDependencyError
from edgellm.folders import cache_dir, shipped
from edgellm.toolchain import packages
from edgellm.toolchain.downloads import Download

PYTHON = sys.executable  # tests name another one
A, B = "a" * 64, "b" * 64


def program(path: Path, body: str) -> Path:
    """Write a program in Python."""
    path.write_text(f"#!{PYTHON}\nimport sys\nargs = sys.argv[1:]\n{body}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return where a test puts its apt-get."""
    monkeypatch.setenv("EDGELLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "bin").mkdir()
    return tmp_path / "bin" / "apt-get"


@pytest.fixture
def pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return where a test puts the interpreter whose pip is asked."""
    path = tmp_path / "python"
    monkeypatch.setattr(sys, "executable", str(path))
    return path


def test_apt_s_addresses_become_downloads_in_the_order_asked_for(apt: Path) -> None:
    lines = (
        f"'https://mirror/pool/libfoo_1.2%2bb_arm64.deb' libfoo_1.2+b_arm64.deb 42 SHA256:{A}\n"
        f"'https://mirror/pool/bar_1%3a3_all.deb' bar_1%3a3_all.deb 7 SHA256:{B}\n"
    )
    program(apt, f"if 'download' in args: print({lines!r}); assert 'libfoo:arm64' in args")
    assert packages.debs(["bar", "libfoo"], "arm64") == [
        Download("bar_1%3a3_all.deb", "https://mirror/pool/bar_1%3a3_all.deb", B, 7),
        Download("libfoo_1.2+b_arm64.deb", "https://mirror/pool/libfoo_1.2%2bb_arm64.deb", A, 42),
    ]


def test_apt_keeps_to_the_cache_and_to_bookworm(apt: Path, tmp_path: Path) -> None:
    program(apt, "print(args, open(args[1]).read()); sys.exit(1)")
    with pytest.raises(DeviceError):
        packages.debs(["x"], "arm64")
    config = (tmp_path / "cache/apt/arm64/apt.conf").read_text()
    assert f'Dir::State "{tmp_path}/cache/apt/arm64/state";' in config
    assert 'APT::Default-Release "/^bookworm(-security|-updates)?$/";' in config


def test_a_relative_cache_is_no_trouble_for_apt(apt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = f"'https://mirror/x_1_arm64.deb' x_1_arm64.deb 1 SHA256:{A}"
    program(apt, f"open(args[1])\nif 'download' in args: print({line!r})")  # apt runs in another folder
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGELLM_CACHE", "here")
    assert cache_dir() == tmp_path / "here"
    assert [d.name for d in packages.debs(["x"], "arm64")] == ["x_1_arm64.deb"]
    monkeypatch.setenv("HOME", "/home/x")
    monkeypatch.setenv("EDGELLM_CACHE", "~/there")
    assert cache_dir() == Path("/home/x/there")


def test_backports_do_not_count() -> None:
    """As apt reads it: a regular expression between slashes, looked for in the names of releases."""
    release = packages._RELEASE.strip("/")
    assert [name for name in ("bookworm", "bookworm-security", "bookworm-updates") if re.search(release, name)] == [
        "bookworm", "bookworm-security", "bookworm-updates",
    ]  # fmt: skip
    for name in ("bookworm-backports", "bookworm-backports-sloppy", "bookworm-proposed-updates", "xbookworm", "trixie"):
        assert not re.search(release, name)


def test_without_apt_it_is_named(apt: Path) -> None:
    with pytest.raises(MissingDependencyError, match="needs apt-get"):
        packages.debs(["x"], "arm64")


def test_another_release_than_debian_12_is_named(apt: Path) -> None:
    said = f"E: The value '{packages._RELEASE}' is invalid for APT::Default-Release as such a release is not available"
    program(apt, f"if 'download' in args: sys.exit({said!r})")
    with pytest.raises(MissingDependencyError, match=r"not Debian 12's \(bookworm\)"):
        packages.debs(["x"], "arm64")


def test_without_a_network_apt_s_reason_is_passed_on(apt: Path) -> None:
    program(apt, "sys.exit('E: Failed to fetch the list  Could not connect' if 'update' in args else 'E: no lists')")
    with pytest.raises(DeviceError, match="can't update its lists: Failed to fetch the list"):
        packages.debs(["x"], "arm64")


def test_an_update_that_partly_fails_does_no_harm_where_the_package_is_found(apt: Path) -> None:
    line = f"'https://mirror/x_1_arm64.deb' x_1_arm64.deb 1 SHA256:{A}"
    program(apt, f"if 'update' in args: sys.exit('E: another source is gone')\nprint({line!r})")
    assert [d.name for d in packages.debs(["x"], "arm64")] == ["x_1_arm64.deb"]


def test_a_package_without_a_signed_hash_is_refused(apt: Path) -> None:
    program(apt, "if 'download' in args: print(\"'https://mirror/x_1_arm64.deb' x_1_arm64.deb 1 MD5Sum:abc\")")
    with pytest.raises(DeviceError, match="no signed address for x"):
        packages.debs(["x"], "arm64")


def requirements(tmp_path: Path) -> Path:
    path = tmp_path / "requirements.txt"
    path.write_text(f"numpy==2.0 --hash=sha256:{A}\n")
    return path


def report(digest: str) -> str:
    info = {"url": "https://index/numpy-2.0-cp311%2B.whl#x", "archive_info": {"hashes": {"sha256": digest}}}
    return json.dumps({"install": [{"download_info": info}]})


def test_pip_s_report_becomes_downloads(pip: Path, tmp_path: Path) -> None:
    program(pip, f"assert '--platform=manylinux_2_36_aarch64' in args\nprint({report(A)!r})")
    (found,) = packages.wheels(requirements(tmp_path))
    assert found == Download("numpy-2.0-cp311+.whl", "https://index/numpy-2.0-cp311%2B.whl#x", A)


def test_a_wheel_with_another_hash_is_refused(pip: Path, tmp_path: Path) -> None:
    program(pip, f"print({report(B)!r})")
    with pytest.raises(DeviceError, match=r"a hash that requirements\.txt does not pin"):
        packages.wheels(requirements(tmp_path))


def test_pip_s_reason_is_passed_on(pip: Path, tmp_path: Path) -> None:
    program(pip, "sys.exit('WARNING: x\\nERROR: No matching distribution found for numpy==2.0\\nnotice')")
    with pytest.raises(DeviceError, match="No matching distribution found for numpy"):
        packages.wheels(requirements(tmp_path))


def test_without_pip_it_is_named(pip: Path, tmp_path: Path) -> None:
    program(pip, "sys.exit('/usr/bin/python3: No module named pip')")
    with pytest.raises(MissingDependencyError, match="needs pip"):
        packages.wheels(requirements(tmp_path))


def test_every_wheel_of_the_emulator_is_pinned_with_a_hash() -> None:
    lines = (shipped("toolchains") / "emulator" / "requirements.txt").read_text().splitlines()
    pinned = [line for line in lines if line and not line.startswith("#")]
    assert len(pinned) == 5
    assert all("==" in line and packages._HASH.search(line) for line in pinned)


def test_npm_tells_where_a_tarball_is(apt: Path, tmp_path: Path) -> None:
    npm, address = apt.with_name("npm"), "https://registry.example/@a/b/-/b-1.2.3.tgz"
    program(npm, f"open({str(tmp_path / 'asked')!r}, 'w').write(' '.join(args))\nprint('\"{address}\"')")
    found = packages.npm_tarball("@a/b", "1.2.3", sha256=A, size=7)
    assert found == Download("b-1.2.3.tgz", address, A, 7)
    assert (tmp_path / "asked").read_text() == "view @a/b@1.2.3 dist.tarball --json"
    with pytest.raises(DeviceError, match=r"npm gives no address for b-1\.2\.4\.tgz: it knows no such file"):
        packages.npm_tarball("@a/b", "1.2.4", sha256=A, size=7)


def test_npm_that_fails_or_is_not_there_is_an_error(apt: Path) -> None:
    program(apt.with_name("npm"), "print('npm error code ENOTFOUND', file=sys.stderr)\nsys.exit(1)")
    with pytest.raises(DeviceError, match="npm error code ENOTFOUND"):
        packages.npm_tarball("b", "1.2.3", sha256=A, size=7)
    apt.with_name("npm").unlink()
    with pytest.raises(MissingDependencyError, match="npm, which is not installed"):
        packages.npm_tarball("b", "1.2.3", sha256=A, size=7)
