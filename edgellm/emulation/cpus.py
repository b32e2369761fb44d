"""CPU models that the emulator stands in for, each with the /proc/cpuinfo that Linux shows on it.

ONNX Runtime and LiteRT choose kernels by the part number and the features there; the host's own would crash them.

What qemu does not imitate: its cortex-a53 and cortex-a72 execute the cryptographic instructions (AES, PMULL, SHA-1,
SHA-2), and its HWCAP says so, while the chips of a Raspberry Pi 3 and 4 lack them. Code that uses those runs here and
dies there. Only /proc/cpuinfo tells the truth about them.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgellm.errors import UsageError, unknown

_ARM = 0x41


@dataclass(frozen=True)
class Cpu:
    """A CPU model.

    Attributes:
        name: as qemu's -cpu and as the unit of a device: "cortex-a72".
        board: what has it, in people's words.
        part: its part number in MIDR_EL1 (Arm's technical reference manual of the core).
        variant, revision: of the silicon on that board.
        cores: how many the board has.
        features: the Features line of Linux on that board.

    """

    name: str
    board: str
    part: int
    variant: int
    revision: int
    cores: int
    features: str

    @property
    def cpuinfo(self) -> str:
        """The text of /proc/cpuinfo, as arm64 Linux formats it (arch/arm64/kernel/cpuinfo.c)."""
        return "".join(
            f"processor\t: {core}\n"
            "BogoMIPS\t: 108.00\n"
            f"Features\t: {self.features}\n"
            f"CPU implementer\t: {_ARM:#x}\n"
            "CPU architecture: 8\n"
            f"CPU variant\t: {self.variant:#x}\n"
            f"CPU part\t: {self.part:#05x}\n"
            f"CPU revision\t: {self.revision}\n\n"
            for core in range(self.cores)
        )


CPUS = {
    cpu.name: cpu
    for cpu in (
        Cpu("cortex-a53", "Raspberry Pi 3", 0xD03, 0, 4, 4, "fp asimd evtstrm crc32 cpuid"),
        Cpu("cortex-a72", "Raspberry Pi 4", 0xD08, 0, 3, 4, "fp asimd evtstrm crc32 cpuid"),
        Cpu(
            "cortex-a76",
            "Raspberry Pi 5",
            0xD0B,
            4,
            1,
            4,
            "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp",
        ),
    )
}
"""By name. The chips of the first two boards lack the cryptographic extensions, which qemu gives them (see above)."""


def cpu_model(name: str) -> Cpu:
    """Return the CPU model called `name`.

    Raises:
        UsageError: it is unknown, or it is `max`.

    """
    if name == "max":
        raise UsageError(
            "The CPU 'max' is refused: qemu 7.2 computes XNNPACK's int8 kernels wrong under it, without any error.",
            hint=f"Choose a real one: {', '.join(sorted(CPUS))}.",
        )
    if name not in CPUS:
        raise unknown("emulated CPU", name, CPUS)
    return CPUS[name]
