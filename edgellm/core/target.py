"""A target: what is built for. Data only; `edgellm.targets` reads it from TOML."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from edgellm.core.npu import Accelerator
from edgellm.core.scheme import FORMATS, SCHEMES, backend_of
from edgellm.core.versions import Release, oldest

RUNTIMES = {
    "executorch": ("executorch",),
    "onnx": ("onnxruntime",),
    "qnn": ("onnxruntime-qnn",),
    "tflite": ("ai-edge-litert", "tflite-runtime"),
}
"""Format to the engine packages that run it on a device."""

CPU_FEATURES = {
    "aarch32": ("mve",),
    "aarch64": ("bf16", "dotprod", "fp16", "i8mm", "neon", "sve", "sve2"),
    "x86_64": ("amx_int8", "avx2", "avx512bw", "avx512f", "avx512_vnni", "avx_vnni", "f16c", "fma"),
}
"""Instruction set to the extensions that a target may declare: those that int8 and fp16 kernels are chosen by."""

_ABI = re.compile(r"(?:(linux-gnu)-([0-9]+\.[0-9]+)|(android)-([0-9]+)|(ios)-([0-9]+\.[0-9]+)|(bare-metal)-([0-9]+))")


@dataclass(frozen=True)
class OnnxLevel:
    """What the target's ONNX Runtime reads.

    Attributes:
        ir_version: stamped into the file; an older runtime refuses a newer one.
        opset: operator set version of the default domain.

    """

    ir_version: int
    opset: int


@dataclass(frozen=True)
class HtpLevel:
    """Which Hexagon Tensor Processor the target has.

    Attributes:
        soc_model: the number by which Qualcomm's SDK calls the SoC; a context binary is for one.
        arch: version of the Hexagon architecture.

    """

    soc_model: int
    arch: int


@dataclass(frozen=True)
class EthosU:
    """Which Arm Ethos-U the target has, and the system around it, in the names of Arm's compiler Vela.

    Attributes:
        accelerator: family and size: "ethos-u85-512".
        system: a `System_Config` of Vela's: clock and memories, which decide its estimates.
        memory_mode: which memory holds weights and which activations.

    """

    accelerator: str
    system: str = ""
    memory_mode: str = ""


@dataclass(frozen=True)
class Target:
    """One row of `targets/`. The file name is the name.

    Attributes:
        name: as given to `--target`.
        summary: one line for people.
        tier: 1 executed in CI (where there is no such CPU, on an emulated one), 2 built in CI, 3 neither.
        arch: instruction set, as in a target triple.
        abi: the deployment ABI: "linux-gnu-<glibc>", "android-<API level>", "ios-<version>", the
            oldest there is, or "bare-metal-<version of the architecture's ABI>".
        cpu: what the figures of this target are about.
        cpu_features: instruction set extensions that may be relied on.
        formats: in order of preference.
        delegates: format to the delegate that runs it.
        scheme: the default scheme.
        schemes: format to its own default scheme, where that is another.
        seq_len: token counts that are served where the user names none; edgellm's own if empty.
        toolchain: name of the CMake toolchain that cross-compiles native code for it.
        runtimes: engine package to the versions expected on the device.
        onnx: IR and opset of ONNX artifacts.
        page_bytes: largest memory page of its kernels; native code has to be aligned to it.
        devices: names of devices that stand for it: the gate of a build with `--verify-on-device` runs there.
        htp: the NPU that "qnn" artifacts are compiled for.
        npu: the Ethos-U that "tflite" artifacts are compiled for.

    """

    name: str
    summary: str
    tier: Literal[1, 2, 3]
    arch: Literal["aarch32", "aarch64", "x86_64"]
    abi: str
    cpu: str
    cpu_features: tuple[str, ...]
    formats: tuple[str, ...]
    delegates: dict[str, str]
    scheme: str
    toolchain: str
    runtimes: dict[str, str]
    onnx: OnnxLevel = OnnxLevel(9, 20)
    page_bytes: int = 4096
    devices: tuple[str, ...] = ()
    schemes: dict[str, str] = field(default_factory=dict)
    seq_len: tuple[int, ...] = ()
    htp: HtpLevel | None = None
    npu: EthosU | None = None

    def __post_init__(self) -> None:
        if not self.formats:
            raise ValueError("formats: at least one format is needed")
        for fmt in self.formats:
            if fmt not in FORMATS:
                raise ValueError(f"formats: no format '{fmt}', choose from {', '.join(FORMATS)}")
            if fmt not in self.delegates:
                raise ValueError(f"delegates: no delegate for format '{fmt}'")
        if len(set(self.formats)) != len(self.formats):
            raise ValueError("formats: a format is named twice")
        for name in (self.scheme, *self.schemes.values()):
            if name not in SCHEMES:
                raise ValueError(f"scheme: no scheme '{name}', choose from {', '.join(SCHEMES)}")
        for fmt in self.schemes:
            if fmt not in self.formats:
                raise ValueError(f"schemes: '{fmt}' is none of the target's formats")
        if list(self.seq_len) != sorted(set(self.seq_len)) or any(n < 1 for n in self.seq_len):
            raise ValueError("seq_len: lengths are positive and ascend")
        if ("ethos-u" in self.delegates.values()) != (self.npu is not None):
            raise ValueError("npu: the accelerator of delegate 'ethos-u', and only that, has to be named")
        if self.npu is not None:
            Accelerator.of(self.npu.accelerator, self.npu.system, self.npu.memory_mode)
        if ("qnn" in self.formats) != (self.htp is not None):
            raise ValueError("htp: the SoC that format 'qnn' is compiled for, and only that, has to be named")
        if not 18 <= self.onnx.opset <= 23:
            raise ValueError(f"onnx: opset {self.onnx.opset} is outside 18 to 23, which the exporter writes")
        if not 8 <= self.onnx.ir_version <= 11:
            raise ValueError(f"onnx: ir_version {self.onnx.ir_version} is outside 8 to 11")
        for package, bounds in self.runtimes.items():
            known = sorted(name for names in RUNTIMES.values() for name in names)
            if package not in known:
                raise ValueError(f"runtimes: no engine package '{package}', choose from {', '.join(known)}")
            try:
                oldest(bounds)
            except ValueError as error:
                raise ValueError(f"runtimes.{package}: {error}") from None
        for feature in self.cpu_features:
            if feature not in CPU_FEATURES[self.arch]:
                choices = ", ".join(CPU_FEATURES[self.arch])
                raise ValueError(f"cpu_features: {self.arch} has no '{feature}', choose from {choices}")
        if self.page_bytes not in (4096, 16384, 65536):
            raise ValueError(f"page_bytes: {self.page_bytes} is none of 4096, 16384, 65536")

    def scheme_of(self, fmt: str) -> str:
        """Return the default scheme of a format."""
        return self.schemes.get(fmt, self.scheme)

    def backend(self, fmt: str) -> str:
        """Return the name of the backend that writes a format for this target."""
        return backend_of(fmt, self.delegates[fmt])

    def ensure_deployable(self) -> None:
        """Check what only a target that is deployed to needs: an ABI, and an engine for each format.

        Raises:
            ValueError: the ABI is not one that can be compared, or a format has no runtime.

        """
        platform(self.abi)
        for fmt in self.formats:
            packages = RUNTIMES.get(fmt, ()) if self.delegates[fmt] != "ethos-u" else ()  # which TFLite Micro serves
            if packages and not any(package in self.runtimes for package in packages):
                raise ValueError(f"runtimes: no version of {' or '.join(packages)} for format '{fmt}'")


def platform(abi: str) -> tuple[str, Release]:
    """Return what an `abi` says: ("linux-gnu", (2, 31)), ("android", (24,)) or ("ios", (15, 0)).

    Raises:
        ValueError: it says nothing of the kind.

    """
    match = _ABI.fullmatch(abi)
    if match is None:
        raise ValueError(f"abi: {abi!r} is none of linux-gnu-<glibc version>, android-<API level>, ios-<version>")
    name, version = (group for group in match.groups() if group)
    return name, tuple(int(part) for part in version.split("."))
