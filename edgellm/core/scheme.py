"""Schemes: what is quantized how, and which format can express it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from edgellm.errors import UsageError, unknown

FORMATS: tuple[str, ...] = ("executorch", "onnx", "tflite")
"""Every format that edgellm writes."""


RANGES: dict[str, str] = {
    "mse": "the least squared error of the rounded values",
    "minmax": "everything that was seen",
    "percentile": "all but the outermost 0.01 % of the values at each end",
    "entropy": "the least divergence of the rounded values' histogram",
}
"""How static schemes choose the range of an activation: the name and what it keeps, the default first."""


@dataclass(frozen=True)
class Scheme:
    """One row of the table of schemes.

    Attributes:
        name: what `--scheme` takes.
        summary: one line for people.
        equalized: formats whose engine quantizes activations with one scale per tensor, so that outlying channels are
            evened out first, on calibration text.
        static: whether activations have ranges that are calibrated on text.
        bits: of a weight.
        whole: whether it is of the graph as a whole, so that no layer alone can have it.
        refused: format to the reason why it can't express this scheme.

    """

    name: str
    summary: str
    equalized: tuple[str, ...] = ()
    static: bool = False
    bits: Literal[4, 8, 16, 32] = 8
    whole: bool = False
    refused: Mapping[str, str] = field(default_factory=dict)

    @property
    def fitted(self) -> bool:
        """Whether weights are so coarse that they are rounded by what calibration texts make of the rounding."""
        return self.bits == 4

    def calibrates(self, fmt: str) -> bool:
        """Tell whether lowering to a format runs calibration texts."""
        return self.static or self.fitted or fmt in self.equalized


SCHEMES: dict[str, Scheme] = {
    scheme.name: scheme
    for scheme in (
        Scheme("fp32", "nothing is quantized", bits=32),
        Scheme(
            "fp16",
            "fp16 weights and embedding tables; ExecuTorch computes in fp16, the others in fp32 or as their kernels choose",
            bits=16,
            whole=True,
        ),
        Scheme(
            "int8-dynamic",
            "int8 weights per channel and embedding tables per row; activations quantized to 8 bits as they come",
            equalized=("onnx",),
        ),
        Scheme(
            "int8-static",
            "int8 weights per channel and embedding tables per row; 8-bit activations of linears, calibrated on text",
            equalized=FORMATS,
            static=True,
        ),
        Scheme(
            "int8-weight-only",
            "int8 weights and embedding tables, computed in fp32",
            refused={
                "executorch": "XNNPACK's linear runs in fp32 or with 8-bit activations, so int8 weights would be "
                "unpacked on every call, outside the delegate"
            },
        ),
        Scheme(
            "int4-dynamic",
            "int4 weights and embedding tables, rounded on calibration texts; activations quantized to 8 bits as they come",
            bits=4,
        ),
        Scheme(
            "int4-weight-only",
            "int4 weights and embedding tables, rounded on calibration texts; computed in fp32",
            bits=4,
            refused={
                "executorch": "XNNPACK's linear runs in fp32 or with 8-bit activations, so int4 weights would be "
                "unpacked on every call, outside the delegate"
            },
        ),
    )
}


def resolve_scheme(name: str, formats: tuple[str, ...]) -> Scheme:
    """Return the scheme `name`, checked against every format.

    Raises:
        UsageError: no such scheme, or a format that can't express it (with the reason).

    """
    if name not in SCHEMES:
        raise unknown("scheme", name, SCHEMES)
    ensure_expressed(SCHEMES[name], formats)
    return SCHEMES[name]


def ensure_expressed(scheme: Scheme, formats: tuple[str, ...]) -> None:
    """Check a scheme against every format.

    Raises:
        UsageError: a format can't express it (with the reason).

    """
    for fmt in formats:
        if fmt in scheme.refused:
            able = [f for f in formats if f not in scheme.refused]
            works = [s.name for s in SCHEMES.values() if fmt not in s.refused]
            formats_hint = f" or --format {' --format '.join(able)}" if able else ""
            raise UsageError(
                f"{fmt} can't express {scheme.name}: {scheme.refused[fmt]}.",
                hint=f"Use --scheme {' or '.join(works)}{formats_hint}.",
            )
