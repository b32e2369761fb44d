"""Fitting: the weights of a module, rounded on calibration texts; how each is, `rounding` says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import nn

from edgellm.backends.observe import Samples, called, linear, looked_up_by, one_thread, watch
from edgellm.backends.rounding import BYTE, MIN_ROWS, fitted, group_of, layers_of, to_nearest
from edgellm.core.precision import Precisions
from edgellm.core.scheme import Scheme

_MEMORY = 512_000_000
"""Bytes at most that inputs' products are kept in during one pass over the texts."""


Grouped = Callable[[Scheme, int], int]
"""Takes the scheme and the width of a linear, returns how many inputs share a scale."""


def round_weights(
    module: nn.Module, precisions: Precisions, samples: Samples, grouped: Grouped | None = None
) -> list[str]:
    """Round in place the weights that are to have 4 bits, and return the names of their layers.

    Linears whose inputs can't be observed, and embedding tables, are rounded to the nearest.

    Args:
        module: in evaluation mode.
        precisions: of its layers.
        samples: calibration inputs.
        grouped: what tells how many inputs of a linear share a scale; `group_of` its width if None.

    """
    grouped = grouped or (lambda scheme, width: group_of(width))
    layers = [(name, child) for name, child in layers_of(module) if precisions.of(name).bits == 4]
    if not layers:
        return []
    with one_thread():
        observed = [name for name in called(module, samples[0])[0] if precisions.of(name).bits == 4]
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
        for names in _portions(module, observed):
            shared = _products(module, names, samples)
            for name in names:
                each = linear(module, name)
                group = grouped(precisions.of(name), each.in_features)
                each.weight.data = fitted(each.weight.data, shared.pop(name), group)
    return [name for name, _ in layers]


def fit_channels(module: nn.Module, samples: Samples) -> None:
    """Round the weights of linears to 8 bits in place, with one scale per output channel, as `round_weights` does to 4.

    Short texts gain most.
    """
    with one_thread():
        for names in _portions(module, called(module, samples[0])[0]):
            shared = _products(module, names, samples)
            for name in names:
                each = linear(module, name)
                each.weight.data = fitted(each.weight.data, shared.pop(name), each.in_features, BYTE)


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
