"""What a vendor's compiler says of an artifact that it compiled for an NPU. Its times are estimates, never measurements."""

from __future__ import annotations

import re
from dataclasses import dataclass

_ETHOS_U = re.compile(r"ethos-(u55|u65|u85)-([0-9]+)")

_DEFAULTS = {
    "u55": ("Ethos_U55_High_End_Embedded", "Shared_Sram"),
    "u65": ("Ethos_U65_Client_Server", "Dedicated_Sram_384KB"),
    "u85": ("Ethos_U85_SYS_DRAM_Mid", "Dedicated_Sram_384KB"),
}
"""Family to the system and the memory mode that Vela itself assumes, named so that they stand in every report."""


@dataclass(frozen=True)
class Accelerator:
    """An Ethos-U and the system around it, in Vela's names; clock and memories decide what Vela estimates.

    Attributes:
        name: family and size in multipliers, as Vela's `--accelerator-config` takes it: "ethos-u85-512".
        system: a `System_Config` of Vela's `Arm/vela.ini`: clock, bandwidth and latency of the memories.
        memory_mode: a `Memory_Mode` of the same file: which memory holds weights and which holds activations.

    """

    name: str
    system: str
    memory_mode: str

    @staticmethod
    def of(name: str, system: str = "", memory_mode: str = "") -> Accelerator:
        """Return the accelerator of that name; what is left empty is what Vela assumes for its family.

        Raises:
            ValueError: it is no Ethos-U.

        """
        match = _ETHOS_U.fullmatch(name)
        if match is None:
            raise ValueError(f"delegates: '{name}' is none of ethos-u55-<macs>, ethos-u65-<macs>, ethos-u85-<macs>")
        usual = _DEFAULTS[match[1]]
        return Accelerator(name, system or usual[0], memory_mode or usual[1])

    @property
    def matmul_bits(self) -> int:
        """Widest activations that it multiplies with each other: 16 on Ethos-U85, 8 on Ethos-U55 and Ethos-U65."""
        return 16 if self.name.startswith("ethos-u85-") else 8


@dataclass(frozen=True)
class CpuOperator:
    """An operator that the NPU does not run.

    Attributes:
        operator: TFLite's name of it.
        output: name of the tensor that it writes.
        cause: what the compiler gives as the reason.

    """

    operator: str
    output: str
    cause: str


@dataclass(frozen=True)
class NpuReport:
    """What was compiled, where its operators run, and what the vendor's compiler estimates.

    Nothing here was measured on hardware. Bytes are those that the compiler planned.

    Attributes:
        compiler: name and version: "Vela 5.2.0".
        accelerator: it was compiled for.
        partitions: commands that the CPU hands to the NPU in one inference; 1 where it goes there once.
        npu_operators: operators of the quantized model that the NPU runs.
        cpu_operators: those that stay on the CPU, in order.
        sram_bytes, dram_bytes, flash_bytes: what the NPU's part needs of each memory, as the memory mode assigns them:
            activations, and weights as they are compressed for the NPU.
        file_bytes: of the compiled file, constants of CPU operators (embedding tables) included; it lies in flash.
        macs: multiply-accumulates of one inference on the NPU.
        clock_mhz: of the NPU, as the system assumes.
        estimated_ms: the compiler's estimate of one inference on the NPU alone. CPU operators are not in it.

    """

    compiler: str
    accelerator: Accelerator
    partitions: int
    npu_operators: int
    cpu_operators: tuple[CpuOperator, ...]
    sram_bytes: int
    dram_bytes: int
    flash_bytes: int
    file_bytes: int
    macs: int
    clock_mhz: float
    estimated_ms: float
