"""A target: what is built for. Data only; `edgellm.targets` reads it from TOML."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgellm.core.scheme import FORMATS, SCHEMES


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
class Target:
    """One row of `targets/`. The file name is the name.

    Attributes:
        name: as given to `--target`.
        summary: one line for people.
        tier: 1 executed in CI, 2 built in CI, 3 neither.
        arch: instruction set, as in a target triple.
        abi: the deployment ABI.
        cpu: what the figures of this target are about.
        cpu_features: instruction set extensions that may be relied on.
        formats: in order of preference.
        delegates: format to the delegate that runs it.
        scheme: the default scheme.
        toolchain: name of the CMake toolchain that cross-compiles native code for it.
        runtimes: engine package to the versions expected on the device.
        onnx: IR and opset of ONNX artifacts.

    """

    name: str
    summary: str
    tier: Literal[1, 2, 3]
    arch: Literal["aarch64", "x86_64"]
    abi: str
    cpu: str
    cpu_features: tuple[str, ...]
    formats: tuple[str, ...]
    delegates: dict[str, str]
    scheme: str
    toolchain: str
    runtimes: dict[str, str]
    onnx: OnnxLevel

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
        if self.scheme not in SCHEMES:
            raise ValueError(f"scheme: no scheme '{self.scheme}', choose from {', '.join(SCHEMES)}")
        if not 18 <= self.onnx.opset <= 23:
            raise ValueError(f"onnx: opset {self.onnx.opset} is outside 18 to 23, which the exporter writes")
        if not 8 <= self.onnx.ir_version <= 11:
            raise ValueError(f"onnx: ir_version {self.onnx.ir_version} is outside 8 to 11")
