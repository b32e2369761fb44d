"""Rank: the layers of a model with what the coarsest scheme would do to each. Runs in a process of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from torch import nn

from edgellm.backends.rounding import MIN_ROWS, layers_of
from edgellm.stages.prepare import prepare
from edgellm.stages.search_space import Layer
from edgellm.stages.sensitivity import measure
from edgellm.stages.source import SourceModel


def rank(
    source: SourceModel, coarse: str, fmt: str, texts: Sequence[str], *, ranges: str, max_tokens: int
) -> list[Layer]:
    """Return every layer that can have a scheme of its own; those that stay in fp32 always are left out.

    Args:
        source: the model.
        coarse: the scheme whose losses order layers.
        fmt: the backend whose way of quantizing is simulated.
        texts: two thirds to round on, one to measure on (see `stages.sensitivity`).
        ranges: a key of `core.scheme.RANGES`.
        max_tokens: longer texts are cut.

    """
    found = measure(source, coarse, fmt, texts, ranges=ranges, max_tokens=max_tokens)
    decibels = {part.name: part.alone.snr_db for part in found.layers}
    layers = []
    owners: dict[int, Layer] = {}
    for name, child in layers_of(prepare(source).module):
        table = isinstance(child, nn.Embedding)
        if table and len(child.weight) < MIN_ROWS:
            continue
        owner = owners.get(id(child.weight))
        if owner is not None:
            layers.append(dataclasses.replace(owner, name=name, tied=True))
            continue
        ratio = decibels.get(name)
        noise = (0.0 if ratio is None else 10 ** (-ratio / 10)) if name in decibels else None
        layer = Layer(name, child.weight.shape[0], child.weight.shape[1], table, noise)
        owners[id(child.weight)] = layer
        layers.append(layer)
    return layers
