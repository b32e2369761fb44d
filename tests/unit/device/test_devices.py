"""The device seam: names, what is ready, and files there and back."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgellm.cli.device import device, devices
from edgellm.device import device_kinds, open_device
from edgellm.device import devices as find
from edgellm.device.emulator import Emulator
from edgellm.device.host import Host
from edgellm.emulation.cpus import cpu_model
from edgellm.emulation.sysroot import Emulation
from edgellm.errors import DeviceError, MissingDependencyError, UsageError
from edgellm.runtime.machine import machine


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGELLM_CACHE", str(tmp_path / "cache"))


def test_kinds_are_the_files() -> None:
    assert device_kinds() == ["emulator", "host"]


def test_the_host_is_ready_and_emulated_cpus_say_what_makes_them_so() -> None:
    host, *emulated = find()
    assert (host.name, host.ready, host.hint, host.emulated) == ("host", True, "", False)
    assert [info.name for info in emulated] == ["emulator:cortex-a53", "emulator:cortex-a72", "emulator:cortex-a76"]
    assert {(info.ready, info.hint, info.emulated) for info in emulated} == {
        (False, "edgellm device setup emulator", True)
    }


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("emulater:cortex-a72", "Did you mean 'emulator:cortex-a72'"),
        ("pixel", "Choices: emulator:cortex-a53"),
        ("host:0", "No device 'host:0'"),
        ("emulator:cortex-a77", "Did you mean 'cortex-a7"),
        ("emulator:max", "int8 kernels wrong"),
        ("emulator", "needs a CPU model behind a colon"),
        ("", "No device ''"),
        ("emulator.py", "No device"),
    ],
)
def test_a_name_that_is_none_says_what_there_is(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        open_device(name)


def test_an_emulator_that_is_not_set_up_says_how() -> None:
    with pytest.raises(MissingDependencyError, match="edgellm device setup emulator"):
        open_device("emulator:cortex-a72")


def test_the_host_does_not_count() -> None:
    with pytest.raises(UsageError, match="does not count instructions"):
        open_device("host").start("onnx", counting=True)


@pytest.mark.parametrize("here", [Host(), Emulator(cpu_model("cortex-a72"), Emulation(Path("/nowhere")))])
def test_files_go_there_and_back(here: Host | Emulator, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    here.pull(here.push(tmp_path / "file"), tmp_path / "back")
    assert (tmp_path / "back").read_text() == "text"
    with pytest.raises(DeviceError, match="can't be brought from"):
        here.pull(str(tmp_path / "gone"), tmp_path / "back")


def test_a_check_names_an_unknown_format() -> None:
    with pytest.raises(UsageError, match="No format 'onix'"):
        open_device("host").check(["onix"])


def test_the_commands_list_devices_and_refuse_what_can_t_be_set_up() -> None:
    listed = CliRunner().invoke(devices, ["--json"])
    assert [entry["name"] for entry in json.loads(listed.stdout)["devices"]] == [info.name for info in find()]
    assert "not ready: edgellm device setup emulator" in CliRunner().invoke(devices).stdout
    refused = CliRunner().invoke(device, ["setup", "emulator", "--cpu", "max"])
    assert isinstance(refused.exception, UsageError)


@pytest.mark.parametrize(("system", "arch"), [("Linux", "riscv64"), ("Darwin", "arm64")])
def test_where_nothing_can_be_emulated_devices_are_listed_all_the_same(
    monkeypatch: pytest.MonkeyPatch, system: str, arch: str
) -> None:
    monkeypatch.setattr(os, "uname", lambda: os.uname_result((system, "here", "1", "1", arch)))
    host, *emulated = find()
    assert (host.name, host.ready) == ("host", True)
    assert [info.name for info in emulated] == ["emulator:cortex-a53", "emulator:cortex-a72", "emulator:cortex-a76"]
    for info in emulated:
        assert (info.emulated, info.ready) == (True, False)
        assert "runs on Linux on x86_64 or aarch64" in info.hint
    assert "not ready: The emulator runs on Linux" in CliRunner().invoke(devices).stdout
    with pytest.raises(UsageError, match="Did you mean 'emulator:cortex-a72'"):
        open_device("emulater:cortex-a72")
    with pytest.raises(DeviceError, match="runs on Linux"):
        open_device("emulator:cortex-a72")


def emulator() -> Emulator:
    return Emulator(cpu_model("cortex-a72"), Emulation(Path("/nowhere")))


def test_a_device_names_its_cpu() -> None:
    assert emulator().cpu == "cortex-a72"
    assert Host().cpu == machine().cpu


def test_a_check_for_counting_finds_what_is_missing_beforehand(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not count instructions"):
        Host().check(["onnx"], counting=True)
    emulator().check(["onnx"], counting=True)
    assert list((tmp_path / "cache/emulation").glob("counter-*.so"))
    monkeypatch.setenv("EDGELLM_CACHE", str(tmp_path / "other"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    emulator().check(["onnx"])
    with pytest.raises(MissingDependencyError, match="Counting instructions needs a C compiler"):
        emulator().check(["onnx"], counting=True)


def test_the_limit_of_emulated_requests_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGELLM_DEVICE_TIMEOUT", raising=False)
    assert emulator()._timeout == 300
    monkeypatch.setenv("EDGELLM_DEVICE_TIMEOUT", "1200")
    assert emulator()._timeout == 1200
    # The emulated worker waits for the native runner, and must not give up before.
    assert emulator()._environment()["EDGELLM_DEVICE_TIMEOUT"] == "1200"
    monkeypatch.setenv("EDGELLM_DEVICE_TIMEOUT", "soon")
    with pytest.raises(UsageError, match="EDGELLM_DEVICE_TIMEOUT is 'soon'"):
        emulator()
