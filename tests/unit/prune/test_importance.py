"""Importance: what nobody listens to is worth nothing, and the scores are what they are said to be."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch.nn import functional

from edgellm.errors import InputError
from edgellm.prune.blocks import Encoder, find
from edgellm.prune.choose import Kept
from edgellm.prune.importance import Batch, Gates, gated, importance
from tests.unit.prune.tiny import ids, output, tiny

HEAD, NEURON, LAYER = (1, 2), (0, 17), 2


def planted(kind: str) -> Encoder:
    """Return an encoder in which nothing reads one head and one neuron, and one layer does nothing."""
    encoder = find(tiny(kind))
    block = encoder.blocks[HEAD[0]]
    block.attended.weight[:, HEAD[1] * block.head : (HEAD[1] + 1) * block.head] = 0
    encoder.blocks[NEURON[0]].fed.weight[:, NEURON[1]] = 0
    return encoder


def labelled(encoder: Encoder, seed: int) -> torch.Tensor:
    found = output(encoder.model, ids(seed))
    if found.dim() == 3:
        found = found.mean(1)
    return functional.cross_entropy(found, torch.tensor([0, 1]), reduction="none")


def batches(losses: Callable[[Encoder, int], torch.Tensor], encoder: Encoder) -> list[Batch]:
    return [Batch(2, partial(losses, encoder, seed)) for seed in range(4)]


@pytest.mark.parametrize("kind", ["bert", "distilbert", "roberta", "ctc"])
def test_what_nobody_listens_to_is_worth_nothing(kind: str) -> None:
    encoder = planted(kind)
    kept = Kept.everything(encoder.shapes())
    found = importance(encoder, batches(labelled, encoder), kept)
    for number, (heads, neurons) in enumerate(zip(found.heads, found.neurons, strict=True)):
        assert np.flatnonzero(heads < 1e-18).tolist() == ([HEAD[1]] if number == HEAD[0] else [])
        assert np.flatnonzero(neurons < 1e-18).tolist() == ([NEURON[1]] if number == NEURON[0] else [])
    assert (found.layers > 0).all()


def test_the_score_of_a_head_is_half_the_mean_squared_derivative() -> None:
    encoder = find(tiny("bert"))
    kept = Kept.everything(encoder.shapes())
    found = importance(encoder, batches(labelled, encoder), kept)
    step, rows = 1e-2, []
    for seed in range(4):
        sides = []
        for sign in (1, -1):
            gates = Gates.of(kept, 1)
            gates.heads[1][0, 3] += sign * step
            with torch.no_grad(), gated(encoder, gates):
                sides.append(labelled(encoder, seed))
        rows += ((sides[0] - sides[1]) / (2 * step)).square().tolist()
    assert found.heads[1][3] == pytest.approx(np.mean(rows) / 2, rel=0.04)


def test_without_labels_the_score_is_the_distance_of_small_changes() -> None:
    encoder = find(tiny("bert"))
    kept = Kept.everything(encoder.shapes())
    signs = torch.Generator().manual_seed(1)

    def losses(encoder: Encoder, seed: int) -> torch.Tensor:
        found = output(encoder.model, ids(seed % 4))
        return (found * (torch.randint(0, 2, found.shape, generator=signs) * 2.0 - 1.0)).sum(-1)

    many = [Batch(2, partial(losses, encoder, seed)) for seed in range(400)]
    found = importance(encoder, many, kept)
    step = 1e-2
    gates = Gates.of(kept, 1)
    gates.layers[0, 1] -= step
    with torch.no_grad():
        whole = torch.cat([output(encoder.model, ids(seed)) for seed in range(4)])
        with gated(encoder, gates):
            less = torch.cat([output(encoder.model, ids(seed)) for seed in range(4)])
    expected = float((whole - less).square().sum(-1).mean()) / 2 / step**2
    assert found.layers[1] == pytest.approx(expected, rel=0.25)


def test_what_was_removed_does_not_count_for_what_is_left() -> None:
    encoder = find(tiny("bert"))
    kept = Kept.everything(encoder.shapes())
    kept.layers[0] = False
    found = importance(encoder, batches(labelled, encoder), kept)
    assert not found.heads[0].any()
    assert not found.neurons[0].any()
    assert found.heads[1].all()


def test_a_loss_that_is_no_number_is_refused() -> None:
    encoder = find(tiny("bert"))

    def broken(encoder: Encoder, seed: int) -> torch.Tensor:
        return labelled(encoder, seed) * float("nan")

    with pytest.raises(InputError, match="no number"):
        importance(encoder, batches(broken, encoder), Kept.everything(encoder.shapes()))
