"""CPU models: their /proc/cpuinfo reads as the board's, and the one that computes wrong is refused."""

from __future__ import annotations

import pytest

from edgellm.emulation.cpus import CPUS, Cpu, cpu_model
from edgellm.errors import UsageError
from edgellm.runtime import machine as machines


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> machines.Machine:
    """What the runtime makes of a CPU's cpuinfo."""
    cpu: Cpu = request.param
    files = {"/proc/cpuinfo": cpu.cpuinfo}
    monkeypatch.setattr(machines, "_read", files.get)
    monkeypatch.setenv(machines.EMULATED, "1")
    machines._cpuinfo.cache_clear()
    try:
        return machines.machine()
    finally:
        machines._cpuinfo.cache_clear()


@pytest.mark.parametrize("shown", CPUS.values(), ids=CPUS, indirect=True)
def test_the_runtime_names_the_cpu_and_claims_no_load(shown: machines.Machine, request: pytest.FixtureRequest) -> None:
    assert shown.cpu.lower() == request.node.callspec.id
    assert shown.emulated
    assert shown.load is None
    assert shown.cores == 4
    assert shown.governor is None


def test_only_the_raspberry_pi_5_has_dot_products() -> None:
    assert [name for name, cpu in CPUS.items() if "asimddp" in cpu.features] == ["cortex-a76"]


@pytest.mark.parametrize(("name", "part"), [("cortex-a53", "0xd03"), ("cortex-a72", "0xd08"), ("cortex-a76", "0xd0b")])
def test_cpuinfo_has_a_block_per_core_with_the_part_number(name: str, part: str) -> None:
    blocks = [
        {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in block.splitlines())}
        for block in cpu_model(name).cpuinfo.strip().split("\n\n")
    ]
    assert [block["processor"] for block in blocks] == ["0", "1", "2", "3"]
    assert {block["CPU part"] for block in blocks} == {part}
    assert {block["CPU implementer"] for block in blocks} == {"0x41"}


def test_max_is_refused_with_the_reason() -> None:
    with pytest.raises(UsageError, match=r"int8 kernels wrong.*cortex-a76"):
        cpu_model("max")


def test_an_unknown_cpu_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="Did you mean 'cortex-a72'"):
        cpu_model("cortex-72")
