"""The counting plugin compiles with the machine's C compiler, and what is missing for that is named."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

from edgellm.emulation import counter
from edgellm.errors import DeviceError, MissingDependencyError


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGELLM_CACHE", str(tmp_path / "a,b"))


def test_it_compiles_once_and_states_the_api_of_qemu_7() -> None:
    path = counter.plugin()
    before = path.stat().st_mtime_ns
    assert counter.plugin() == path
    assert path.stat().st_mtime_ns == before
    # What only qemu provides stays unbound, so that the file can be opened here.
    library = ctypes.CDLL(str(path), mode=1)
    assert ctypes.c_int.in_dll(library, "qemu_plugin_version").value == 1


def test_options_escape_the_commas_of_paths_and_the_counter_begins_at_zero(tmp_path: Path) -> None:
    counting = counter.Counter(tmp_path / "c,d")
    flag, value = counting.options
    assert flag == "-plugin"
    assert value == f"{counter.plugin()}".replace(",", ",,") + f",out={tmp_path}/c,,d"
    assert counting.read() == 0


def test_without_a_compiler_it_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(MissingDependencyError, match="apt-get install gcc libc6-dev"):
        counter.plugin()


def test_a_compiler_that_fails_is_quoted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bad = tmp_path / "cc"
    bad.write_text("#!/bin/sh\necho 'x.c:1: fatal error: fcntl.h: No such file' >&2\nexit 1\n")
    bad.chmod(0o755)
    monkeypatch.setenv("CC", str(bad))
    with pytest.raises(DeviceError, match="No such file"):
        counter.plugin()
