"""Fitting: the weights of a module, rounded on calibration texts, and what that gained; `rounding` says how each is.

What it gained is stated of the texts that weights were fitted to. Others gain less; a build's gate runs such.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from edgellm.backends import MIN_TOKENS, Prepared, bias
from edgellm.backends.calibrate import rounded_weight
from edgellm.backends.observe import Samples, called, linear, looked_up_by, one_thread, watch
from edgellm.backends.rounding import BYTE, LARGEST, MIN_ROWS, fitted, group_of, layers_of, to_nearest
from edgellm.backends.trace import example
from edgellm.core.precision import Precisions
from edgellm.core.scheme import Scheme

_MEMORY = 512_000_000
"""Bytes at most that inputs' products are kept in during one pass over the texts."""


Grouped = Callable[[Scheme, int], int]
"""Takes the scheme and the width of a linear, returns how many inputs share a scale."""

Nearest = Callable[[torch.Tensor, int], torch.Tensor]
"""Takes a weight [out, in] and how many inputs share a scale, returns it rounded to the nearest."""


@dataclass(frozen=True)
class Gain:
    """What fitting gained.

    Attributes:
        layers: linears that were fitted, but for those that rounding to the nearest costs nothing.
        error: squared error that rounding makes in the outputs of such a linear on the calibration inputs, as a part of what
            rounding to the nearest makes: the mean over them, each counting alike, whatever the scale of its outputs; 1 if
            there are none.

    """

    layers: int
    error: float

    @staticmethod
    def of(ratios: Sequence[float]) -> Gain:
        """Return the gain of linears whose errors are these parts of what they were."""
        return Gain(len(ratios), math.fsum(ratios) / len(ratios) if ratios else 1.0)

    def notes(self, weights: str) -> tuple[str, ...]:
        """Return a note for the user, of weights that are called so; none where nothing was fitted."""
        if not self.layers:
            return ()
        return (
            f"{weights} were fitted at {self.layers} layer{'s' * (self.layers > 1)}: on the calibration texts rounding now "
            f"costs {self.error:.0%} of the squared error of their outputs that rounding to the nearest does, on average "
            "(--no-fit leaves it out).",
        )


def round_prepared(
    prepared: Prepared,
    precisions: Precisions,
    fmt: str,
    grouped: Grouped | None = None,
    *,
    nearest: bias.Nearest = bias.symmetric,
) -> tuple[list[str], tuple[str, ...]]:
    """Round what a backend was given as `round_weights` does, for a format; return the names of the layers, and notes.

    Biases are corrected where that is asked for, those of linears with 8-bit weights too.
    """
    # Where nothing calibrates, any text tells which tables are looked up.
    samples = prepared.samples or [example(prepared, MIN_TOKENS)]
    fit = prepared.tuning.fit and bool(prepared.samples)
    plain = bias.unrounded(prepared)
    names, gain = round_weights(prepared.module, precisions, samples, grouped, fit=fit)
    corrected = bias.correct_biases(prepared, plain, fmt, precisions, nearest)
    return names, (*gain.notes(f"4-bit weights of {fmt}"), *corrected)


def round_weights(
    module: nn.Module, precisions: Precisions, samples: Samples, grouped: Grouped | None = None, *, fit: bool = True
) -> tuple[list[str], Gain]:
    """Round in place the weights that are to have 4 bits, and return the names of their layers, and what fitting gained.

    Linears whose inputs can't be observed, and embedding tables, are rounded to the nearest.

    Args:
        module: in evaluation mode.
        precisions: of its layers.
        samples: calibration inputs; any one will do where nothing is fitted.
        grouped: what tells how many inputs of a linear share a scale; `group_of` its width if None.
        fit: whether linears are fitted to the samples, and not rounded to the nearest as well.

    """
    grouped = grouped or (lambda scheme, width: group_of(width))
    layers = [(name, child) for name, child in layers_of(module) if precisions.of(name).bits == 4]
    if not layers:
        return [], Gain.of(())
    with one_thread():
        observed = [name for name in called(module, samples[0])[0] if precisions.of(name).bits == 4] if fit else []
        looked_up = looked_up_by(module, samples[0])
        done: set[int] = set()  # a table that scores tokens as well is rounded once
        for name, child in layers:
            table = isinstance(child, nn.Embedding)
            if name in observed or id(child.weight) in done or (table and (child not in looked_up or _small(child))):
                continue
            width = child.weight.shape[1]
            group = group_of(width) if table else grouped(precisions.of(name), width)
            child.weight.data = to_nearest(child.weight.data, group)
            done.add(id(child.weight))
        groups = {name: grouped(precisions.of(name), linear(module, name).in_features) for name in observed}
        gain = _fit(module, groups, samples, LARGEST, to_nearest)
    return [name for name, _ in layers], gain


def fit_channels(module: nn.Module, samples: Samples) -> Gain:
    """Round the weights of linears to 8 bits in place, with one scale per output channel, as `round_weights` does to 4.

    Short texts gain most.
    """
    with one_thread():
        groups = {name: linear(module, name).in_features for name in called(module, samples[0])[0]}
        return _fit(module, groups, samples, BYTE, lambda weight, group: rounded_weight(weight))


def _fit(module: nn.Module, groups: Mapping[str, int], samples: Samples, largest: int, nearest: Nearest) -> Gain:
    """Fit linears in place; `groups` says how many inputs of each share a scale."""
    ratios = []
    for names in _portions(module, list(groups)):
        shared = _products(module, names, samples)
        for name in names:
            each, products = linear(module, name), shared.pop(name)
            weight = each.weight.data
            each.weight.data = fitted(weight, products, groups[name], largest)
            plain = _error(nearest(weight, groups[name]) - weight, products)
            if plain > 0:
                ratios.append(_error(each.weight.data - weight, products) / plain)
    return Gain.of(ratios)


def _error(change: torch.Tensor, products: torch.Tensor) -> float:
    """Return the sum over inputs x of |change x|^2, which is the trace of change products change^T."""
    return max(0.0, float(((change @ products) * change).sum()))


def _small(table: nn.Embedding) -> bool:
    return table.num_embeddings < MIN_ROWS


def _portions(module: nn.Module, names: Sequence[str]) -> Iterable[list[str]]:
    """Yield the names in portions whose inputs' products fit the memory."""
    portion: list[str] = []
    used = 0
    for name in names:
        size = 4 * linear(module, name).in_features ** 2
        if portion and used + size > _MEMORY:
            yield portion
            portion, used = [], 0
        portion.append(name)
        used += size
    if portion:
        yield portion


def _products(module: nn.Module, names: Sequence[str], samples: Samples) -> dict[str, torch.Tensor]:
    """Return for each linear the sum of x x^T, [in, in], over what it reads."""
    products: dict[str, torch.Tensor] = {}

    def note(name: str, value: torch.Tensor) -> None:
        rows = value.reshape(-1, value.shape[-1])
        products[name] = products[name] + rows.T @ rows if name in products else rows.T @ rows

    watch(module, names, samples, reads=note)
    return products
