"""The device seam: names, what is ready, and files there and back."""

from __future__ import annotations

import json
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
