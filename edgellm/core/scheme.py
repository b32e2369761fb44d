"""Schemes: what is quantized how, and which backend can express it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from edgellm.errors import UsageError, unknown

FORMATS: tuple[str, ...] = ("executorch", "mlpackage", "onnx", "qnn", "tflite")
"""Every format that edgellm writes. "mlpackage" is Core ML's folder; "qnn" is an ONNX
file around a context binary, which only Qualcomm's provider runs."""

PORTABLE: tuple[str, ...] = ("executorch", "onnx", "tflite")
"""Those that run on any CPU their engine runs on; a format beyond them is compiled for one NPU."""

DELEGATES: dict[str, str] = {
    "executorch": "xnnpack",
    "mlpackage": "coreml",
    "onnx": "cpu",
    "qnn": "htp",
    "tflite": "xnnpack",
}
"""Format to the delegate that its own backend lowers for; another delegate has a backend of its own."""


def backend_of(fmt: str, delegate: str) -> str:
    """Return the name of the backend that writes a format for a delegate: "onnx", "executorch-vulkan", ..."""
    return fmt if delegate == DELEGATES[fmt] else f"{fmt}-{delegate}"


CORRECTING: tuple[str, ...] = (*PORTABLE, "qnn", "tflite-ethos-u")
"""Backends that can correct biases: they round the weights that they are given in a way that is known."""


RANGES: dict[str, str] = {
    "mse": "the least squared error of the rounded values",
    "minmax": "everything that was seen",
    "percentile": "all but the outermost 0.01 % of the values at each end",
    "entropy": "the least divergence of the rounded values' histogram",
}
"""How static schemes choose the range of an activation: the name and what it keeps, the default first."""


MIXED = "mixed"
"""Name of the scheme of a model whose layers have several; it is no row of the table."""

MIXING: tuple[str, ...] = (*PORTABLE, "tflite-ethos-u")
"""Backends that can give layers of a model schemes of their own."""

_NO_KERNEL = "its engine has no kernels for that"
_HTP = {"qnn": "the HTP computes in 8 and 16 bits"}
_UNPACKED = {
    "executorch": "XNNPACK's linear runs in fp32 or with 8-bit activations, so these weights would be unpacked on every call, "
    "outside the delegate"
}
_APPLE_AND_GPU = ("executorch-coreml", "executorch-vulkan", "mlpackage")


@dataclass(frozen=True)
class Tuning:
    """What calibration texts change in a model, beside ranges of activations; each says in a note what it gained.

    Attributes:
        equalize: whether outlying channels are evened out where a scheme gains by it. Exact in fp32.
        fit: whether weights are fitted where a scheme gains by it, and not rounded to the nearest.
        correct_bias: whether biases make up for what rounding the weights adds to a linear's mean output.

    """

    equalize: bool = True
    fit: bool = True
    correct_bias: bool = False


@dataclass(frozen=True)
class Scheme:
    """One row of the table of schemes.

    Attributes:
        name: what `--scheme` takes.
        summary: one line for people.
        backends: those that can express it.
        equalized: backends whose engine quantizes activations with one scale per tensor, so that outlying channels are
            evened out first, on calibration text.
        static: whether activations have ranges that are calibrated on text.
        bits: of a weight.
        in_part: backends that can give it to single layers, and to no whole model.
        whole: whether it is of the graph as a whole, so that no layer alone can have it.
        refused: backend to the reason why it can't express this scheme, where there is more to say than that it has no
            kernels.

    """

    name: str
    summary: str
    backends: tuple[str, ...]
    equalized: tuple[str, ...] = ()
    static: bool = False
    bits: Literal[4, 8, 16, 32] = 8
    in_part: tuple[str, ...] = ()
    whole: bool = False
    refused: Mapping[str, str] = field(default_factory=dict)

    @property
    def fitted(self) -> bool:
        """Whether weights are so coarse that they are rounded by what calibration texts make of the rounding."""
        return self.bits == 4

    @property
    def rounded(self) -> bool:
        """Whether weights become integers."""
        return self.bits in (4, 8)

    def calibrates(self, backend: str, tuning: Tuning | None = None) -> bool:
        """Tell whether lowering by a backend runs calibration texts; as it is tuned by default if None."""
        asked = tuning or Tuning()
        tuned = (asked.fit and self.fitted) or (asked.equalize and backend in self.equalized)
        return self.static or tuned or (asked.correct_bias and self.corrected(backend))

    def corrected(self, backend: str) -> bool:
        """Tell whether a backend can correct biases of linears with this scheme."""
        return self.rounded and backend in CORRECTING


SCHEMES: dict[str, Scheme] = {
    scheme.name: scheme
    for scheme in (
        Scheme("fp32", "nothing is quantized", PORTABLE, bits=32, refused=_HTP),
        Scheme(
            "fp16",
            "fp16 weights and embedding tables; ExecuTorch computes in fp16, the others in fp32 or as their kernels choose",
            (*PORTABLE, *_APPLE_AND_GPU),
            bits=16,
            whole=True,
            refused=_HTP,
        ),
        Scheme(
            "int8-dynamic",
            "int8 weights per channel and embedding tables per row; activations quantized to 8 bits as they come",
            PORTABLE,
            equalized=("onnx",),
            refused={"qnn": "the HTP takes activations whose ranges are fixed ahead of time"},
        ),
        Scheme(
            "int8-static",
            "int8 weights per channel and embedding tables per row; 8-bit activations of linears, calibrated on text",
            (*PORTABLE, "qnn"),
            equalized=(*PORTABLE, "qnn"),
            static=True,
            in_part=("tflite-ethos-u",),
            refused={
                "tflite-ethos-u": "with 8-bit activations throughout an encoder's answers collapse; linears may have them where "
                "all else is a16w8: --scheme mixed"
            },
        ),
        Scheme(
            "a16w8",
            "int8 weights per channel; 16-bit activations throughout, calibrated on text",
            ("qnn", "tflite-ethos-u"),
            static=True,
            refused=dict.fromkeys(
                PORTABLE,
                "the CPU's kernels would compute 16-bit activations in fp32, which costs time and gains nothing",
            ),
        ),
        Scheme(
            "int8-weight-only",
            "int8 weights and embedding tables, computed in floating point",
            ("onnx", "tflite", *_APPLE_AND_GPU),
            refused=_UNPACKED | _HTP,
        ),
        Scheme(
            "int4-dynamic",
            "int4 weights and embedding tables, rounded on calibration texts; activations quantized to 8 bits as they come",
            PORTABLE,
            bits=4,
        ),
        Scheme(
            "int4-weight-only",
            "int4 weights and embedding tables, rounded on calibration texts; computed in fp32",
            ("onnx", "tflite"),
            bits=4,
            refused=_UNPACKED,
        ),
    )
}


def resolve_schemes(asked: Sequence[str], defaults: Mapping[str, str], backends: Mapping[str, str]) -> dict[str, str]:
    """Return the scheme of each format, every one checked against the backend that will write it.

    Args:
        asked: schemes by name, for every format, or as "format=scheme" for one.
        defaults: format to the scheme that it has where none was asked for.
        backends: format to the backend that writes it.

    Raises:
        UsageError: no such scheme or format, or a backend that can't express one (with the reason).

    """
    chosen = dict(defaults)
    for item in sorted(
        asked, key=lambda item: "=" in item
    ):  # what is said of one format goes before what is said of all
        fmt, _, name = item.rpartition("=")
        if name not in SCHEMES and name != MIXED:
            raise unknown("scheme", name, [*SCHEMES, MIXED])
        if fmt and fmt not in chosen:
            raise unknown("format", fmt, chosen, hint="It is not built here.")
        chosen |= {fmt: name} if fmt else dict.fromkeys(chosen, name)
    for fmt, name in chosen.items():
        if name != MIXED:
            ensure_expressed(SCHEMES[name], fmt, backends)
    return chosen


def ensure_expressed(scheme: Scheme, fmt: str, backends: Mapping[str, str]) -> None:
    """Check a scheme against the backend that writes a format.

    Args:
        scheme: what is asked of it.
        fmt: the format.
        backends: of this and of the other formats that are built.

    Raises:
        UsageError: it can't express the scheme (with the reason, and what works).

    """
    backend = backends[fmt]
    if backend in scheme.backends:
        return
    works = [each.name for each in SCHEMES.values() if backend in each.backends]
    able = [other for other in backends if backends[other] in scheme.backends]
    ways = f" --scheme {' or '.join(works)}"
    if able:
        ways += f", --format {' --format '.join(able)}, or --scheme {able[0]}={scheme.name} for that format alone"
    reason = scheme.refused.get(backend, _NO_KERNEL)
    raise UsageError(f"{fmt} can't express {scheme.name}: {reason}.", hint=f"Use{ways}.")
