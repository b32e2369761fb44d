"""What each layer and each kind of quantization costs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Loss:
    """How far answers are from the fp32 source's.

    Attributes:
        snr_db: signal-to-noise ratio of the model's outputs over all texts, 10 log10 of the sum of squares of the fp32
            outputs by that of the differences; None where there is no difference.
        agreement: mean agreement of the answers, as the task measures it.

    """

    snr_db: float | None
    agreement: float


@dataclass(frozen=True)
class Part:
    """A layer, or a kind of quantization.

    Attributes:
        name: of the module, or of the kind.
        alone: when nothing else is quantized.
        without: when everything else is.

    """

    name: str
    alone: Loss
    without: Loss


@dataclass(frozen=True)
class Sensitivity:
    """What a scheme costs a model, and where.

    Attributes:
        model: name of the source.
        task: pipeline id.
        metric: what agreement is.
        scheme, format: what was simulated.
        ranges: how static ranges were chosen; None where there are none.
        calibrated: texts that scales and ranges were chosen on.
        measured: other texts, that losses were measured on.
        whole: when everything is quantized.
        layers: each module that holds quantized weights, the costliest alone first.
        kinds: weights, tables, inputs and outputs of linears, over all layers, likewise.
        left_out: linears that are not simulated, because what they read can't be observed.

    """

    model: str
    task: str
    metric: str
    scheme: str
    format: str
    ranges: str | None
    calibrated: int
    measured: int
    whole: Loss
    layers: tuple[Part, ...]
    kinds: tuple[Part, ...]
    left_out: tuple[str, ...] = ()
