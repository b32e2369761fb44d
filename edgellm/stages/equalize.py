"""Equalize: move outlying channels from activations into weights, exactly, before activations are quantized.

ONNX Runtime quantizes an activation with one scale per tensor. A few channels of a transformer are far larger than the
others and leave those a handful of steps. Dividing such a channel by s, and multiplying the weights that read it by s,
changes nothing in fp32 and evens the channels out; weights have a scale per output channel and can bear it.

After SmoothQuant (Xiao et al. 2023), https://arxiv.org/abs/2211.10438, equation 4, with two differences: s is never below
1, so that small channels stay as they are, and its strength is chosen at each place by the error of its own output.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from edgellm.backends.observe import Samples, groups, linear, watch

STRENGTHS = (0.5, 0.6, 0.7, 0.8)
"""Candidates for alpha: how much of the outlier moves into the weights."""

_TEXTS = 24
"""Texts at most on which a strength is chosen; channel maxima are taken over all."""

_ROWS = 64
"""Tokens at most of each of those, which bounds the memory that inputs are kept in."""


WORTH = 0.5
"""The squared error has to fall to this part of what it was, or the multiplication is not worth its time."""

WORST = 0.6
"""No text may keep more of its error. Where another channel than those that are divided holds a text's range, dividing them
costs it: of texts that are unlike the calibration texts, some would lose more than all others gain."""

STATIC_WORTH = 0.35
"""The same where activations have calibrated ranges: a multiplication is quantized there, before and after."""

INVERSE = "equalized_by"
"""Name of the buffer with what a linear's input channels are multiplied by."""


@dataclass(frozen=True)
class Gain:
    """What equalizing did.

    Attributes:
        places: inputs of linears that were equalized.
        error: squared error that rounding makes at these places, as a part of what it made before; 1 if there are none.

    """

    places: int
    error: float


def equalize(
    model: nn.Module, feeds: Samples, wanted: Callable[[str], bool] = lambda name: True, *, worth: float = WORTH
) -> Gain:
    """Equalize the inputs of a model's linears in place where that lowers the error, and return what it gained.

    A linear stays the module it is, for models that read its weight themselves: what divides is a hook on its call.

    Args:
        model: in evaluation mode.
        feeds: calibration inputs by name.
        wanted: tells which linears, by name, gain by it: of those that read one tensor, all have to.
        worth: part of a place's squared error that may be left; otherwise it stays as it is.

    """
    step = max(1, math.ceil(len(feeds) / _TEXTS))
    places = [group for group in groups(model, feeds[0]) if all(map(wanted, group))]
    names = [name for group in places for name in group]
    largest, samples = _observe(model, names, feeds, every=step)
    changed, before, after = 0, 0.0, 0.0
    for group in places:
        if any(name not in largest for name in group):
            continue  # not called on every path
        linears = [linear(model, name) for name in group]
        scale, was, left = _best_scale(linears, largest[group[0]], samples[group[0]], worth)
        if scale is None:
            continue
        before, after = before + was, after + left
        inverse = 1 / scale  # one tensor for the whole group, so that the traced graph divides once
        for each in linears:
            each.weight = nn.Parameter(each.weight.data * scale, requires_grad=False)
            each.register_buffer(INVERSE, inverse)
            each.register_forward_pre_hook(_divide)
        changed += 1
    return Gain(changed, after / before if before else 1.0)


def _divide(module: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return (args[0] * getattr(module, INVERSE), *args[1:]) if args else args


def _observe(
    model: nn.Module, names: Sequence[str], feeds: Samples, every: int
) -> tuple[dict[str, torch.Tensor], dict[str, list[torch.Tensor]]]:
    """Return the largest magnitude of each input channel over all texts, and the whole inputs [rows, in] of some."""
    largest: dict[str, torch.Tensor] = {}
    samples: dict[str, list[torch.Tensor]] = {name: [] for name in names}

    for number, item in enumerate(feeds):

        def note(name: str, value: torch.Tensor, keep: bool = number % every == 0) -> None:
            rows = value.reshape(-1, value.shape[-1])
            top = rows.abs().amax(0)
            largest[name] = torch.maximum(largest[name], top) if name in largest else top
            if keep:
                samples[name].append(rows[:_ROWS].clone())  # a view would keep all of it

        watch(model, names, [item], reads=note)
    return largest, samples


def _best_scale(
    linears: Sequence[nn.Linear], largest: torch.Tensor, samples: Sequence[torch.Tensor], worth: float
) -> tuple[torch.Tensor | None, float, float]:
    """Return what to divide each input channel by, [in], or None where leaving them as they are is best; error before, after."""
    weight = torch.cat([each.weight.data for each in linears])
    heaviest = weight.abs().amax(0).clamp(min=1e-5)
    expected = [rows @ weight.T for rows in samples]
    errors = _errors(weight, samples, expected)
    before = sum(errors)
    best, lowest = None, worth * before
    for strength in STRENGTHS:
        scale = largest.clamp(min=1e-5) ** strength / heaviest ** (1 - strength)
        # Powers of two: fp32 stays exact to the bit, and rounding of sums does not reach the artifact's bytes.
        scale = torch.exp2(torch.round(torch.log2((scale / scale.median()).clamp(min=1.0))))
        left = _errors(weight * scale, [rows / scale for rows in samples], expected)
        if sum(left) < lowest and all(after <= WORST * was for after, was in zip(left, errors, strict=True)):
            best, lowest = scale, sum(left)
    return best, before, lowest


def _errors(weight: torch.Tensor, inputs: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> list[float]:
    """Return each text's squared error of a linear with activations quantized per tensor and weights per output channel.

    DynamicQuantizeLinear of ONNX: 8 bits, asymmetric, the range holds 0. Weights: 8 bits, symmetric.
    """
    step = (weight.abs().amax(1, keepdim=True) / 127).clamp(min=1e-12)
    rounded = (weight / step).round() * step
    errors = []
    for rows, target in zip(inputs, expected, strict=True):
        low, high = rows.min().clamp(max=0), rows.max().clamp(min=0)
        scale = ((high - low) / 255).clamp(min=1e-12)
        errors.append(float((((rows / scale).round() * scale) @ rounded.T - target).square().sum()))
    return errors
