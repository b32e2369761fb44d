"""Bias: what rounding the weights of a linear adds to its outputs on average is taken off its bias.

After Nagel et al. 2019, Data-Free Quantization Through Weight Equalization and Bias Correction,
https://arxiv.org/abs/1906.04721, section 4.2: a rounded weight W + D gives D E[x] more than W, and the bias can give it back.
E[x] is measured on calibration texts. The graph stays as it is, and so does its time.

It is off unless it is asked for: encoders gain next to nothing by it, as their inputs' means are small beside how far they
spread, and what is left of that is made up for by fitting (CONTRIBUTING has figures).
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import nn

from edgellm.backends import Prepared
from edgellm.backends.calibrate import rounded_weight
from edgellm.backends.observe import called, linear, one_thread, watch
from edgellm.core.precision import Precisions
from edgellm.core.scheme import Scheme

Nearest = Callable[[Scheme, torch.Tensor], torch.Tensor]
"""Takes a scheme with 8-bit weights and a weight [out, in], and returns it as the backend will round it."""


def symmetric(scheme: Scheme, weight: torch.Tensor) -> torch.Tensor:
    """Return a weight [out, in] as most backends round it: per output channel, the largest magnitude 127 steps."""
    return rounded_weight(weight)


def unrounded(prepared: Prepared) -> nn.Module | None:
    """Return the module as it is before weights are rounded in it, or None where nothing will ask for it."""
    return copy.deepcopy(prepared.module) if prepared.tuning.correct_bias and prepared.samples else None


def correct_biases(
    prepared: Prepared, plain: nn.Module | None, fmt: str, precisions: Precisions, nearest: Nearest = symmetric
) -> tuple[str, ...]:
    """Correct biases in place, and return a note of what that gained.

    Args:
        prepared: whose module has the weights that the backend is given: on their grid, where they were rounded, or else what
            it will round to the nearest in 8 bits.
        plain: what `unrounded` gave; where it is None, nothing is done.
        fmt: for the note.
        precisions: of the layers.
        nearest: how the backend rounds to 8 bits.

    """
    if plain is None:
        return ()
    with one_thread():
        rounded = [name for name in called(plain, prepared.samples[0])[0] if precisions.of(name).rounded]
        names = [name for name in rounded if linear(plain, name).bias is not None]
        changes = {
            name: _given(prepared.module, plain, name, precisions.of(name), nearest) - linear(plain, name).weight.data
            for name in names
        }
        sums = {name: torch.zeros(linear(plain, name).in_features) for name in names}
        rows, errors = dict.fromkeys(names, 0), dict.fromkeys(names, 0.0)

        def note(name: str, value: torch.Tensor) -> None:
            read = value.reshape(-1, value.shape[-1])
            sums[name] += read.sum(0)
            rows[name] += len(read)
            errors[name] += float((read @ changes[name].T).square().sum())

        watch(plain, names, prepared.samples, reads=note)
        ratios = []
        for name in names:
            shift = changes[name] @ (sums[name] / rows[name])
            linear(prepared.module, name).bias.data -= shift
            if errors[name] > 0:
                ratios.append(1 - rows[name] * float(shift.square().sum()) / errors[name])
    if not rounded:
        return ()
    if not ratios:
        return (f"No bias of {fmt} was corrected: rounding changes nothing at linears that have one.",)
    return (
        f"Biases of {fmt} were corrected at {len(ratios)} layer{'s' * (len(ratios) > 1)}: on the calibration texts rounding "
        f"weights now costs {sum(ratios) / len(ratios):.1%} of the squared error of their outputs that it did, on average "
        "(as --correct-bias asks).",
    )


def _given(module: nn.Module, plain: nn.Module, name: str, scheme: Scheme, nearest: Nearest) -> torch.Tensor:
    """Return the weight that the artifact will have."""
    weight = linear(module, name).weight.data
    done = scheme.bits == 4 or not torch.equal(weight, linear(plain, name).weight.data)
    return weight if done else nearest(scheme, weight)
