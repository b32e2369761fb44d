"""Installing: a compiler that is missing is listed with what to install, and the rest is done."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgellm.emulation import install as installing
from edgellm.emulation.sysroot import Emulation
from edgellm.errors import MissingDependencyError
from edgellm.toolchain.downloads import Download, Report


class Steps:
    def __init__(self) -> None:
        self.told: list[object] = []

    def step(self, text: str) -> None:
        self.told.append(text)

    def downloading(self, download: Download, done: int) -> None:
        self.told.append((download.name, done))


@pytest.fixture(autouse=True)
def parts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Stand in for what is downloaded and built."""
    monkeypatch.setenv("EDGELLM_CACHE", str(tmp_path))
    (tmp_path / "emulation").mkdir()
    (tmp_path / "emulation/file").write_bytes(bytes(3_000_000))
    monkeypatch.setattr(installing, "setup", lambda progress, cpus: 40_000_000)
    monkeypatch.setattr(installing, "require", lambda: Emulation(tmp_path / "emulation"))
    monkeypatch.setattr(installing, "plugin", lambda: tmp_path)

    def runner(report: Report) -> Path:
        wheel = Download("x.whl", "https://x", "0")
        for done in (1_000_000, 6_000_000):
            report(wheel, done)
        return tmp_path

    monkeypatch.setattr(installing, "native_runner", runner)


def test_downloads_of_all_parts_are_told_and_counted_without_what_was_here() -> None:
    steps = Steps()
    done = installing.install(steps)
    assert done.downloaded_mb == 45.0
    assert done.disk_mb == 3.0
    assert not done.already
    assert done.missing == ()
    assert ("x.whl", 6_000_000) in steps.told
    assert any("checking the native runner" in str(text) for text in steps.told)


def test_missing_compilers_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking(*args: object) -> Path:
        raise MissingDependencyError("This needs a compiler.", hint="Install it with: apt-get install it")

    monkeypatch.setattr(installing, "plugin", lacking)
    monkeypatch.setattr(installing, "native_runner", lacking)
    monkeypatch.setattr(installing, "setup", lambda progress, cpus: None)
    done = installing.install(Steps())
    assert done.already
    assert done.downloaded_mb == 0
    assert [line.partition(":")[0] for line in done.missing] == ["bench on emulated CPUs", "ExecuTorch"]
    assert all("apt-get install it" in line for line in done.missing)
