"""Choose: which structures to remove, by what removing them costs for each parameter that it saves.

All candidates of all layers stand in one ranking: heads, eights of neurons and layers alike, because their scores are of one
kind (see `importance`). Nothing here knows torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgellm.errors import UsageError

EIGHT = 8
"""Neurons that go together. The kernels of XNNPACK, MLAS and LiteRT compute tiles of 8 or 16 channels: a width between
multiples costs what the next multiple does, and leaves rows that vector loads of int8 can't be aligned to."""

Flags = NDArray[np.bool_]
Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Shape:
    """What there is of a layer.

    Attributes:
        name: of its module.
        stack: number of the stack of layers that it is in.
        heads, neurons: how many; 0 where they can't be removed.
        per_head, per_neuron: parameters that go with one.
        parameters: of the layer, all in all.
        removable: whether it can go as a whole.

    """

    name: str
    stack: int
    heads: int
    neurons: int
    per_head: int
    per_neuron: int
    parameters: int
    removable: bool


@dataclass(frozen=True)
class Kept:
    """What is left: true for what stays.

    Attributes:
        heads, neurons: of each layer.
        layers: [layers].

    """

    heads: tuple[Flags, ...]
    neurons: tuple[Flags, ...]
    layers: Flags

    @classmethod
    def everything(cls, shapes: Sequence[Shape]) -> Kept:
        """Return what is left where nothing was removed."""
        return cls(
            tuple(np.ones(shape.heads, dtype=np.bool_) for shape in shapes),
            tuple(np.ones(shape.neurons, dtype=np.bool_) for shape in shapes),
            np.ones(len(shapes), dtype=np.bool_),
        )

    def copy(self) -> Kept:
        """Return one that can be changed without changing this."""
        return Kept(
            tuple(each.copy() for each in self.heads), tuple(each.copy() for each in self.neurons), self.layers.copy()
        )

    def parameters(self, shape: Shape, number: int) -> int:
        """Return the parameters that are left of a layer."""
        if not self.layers[number]:
            return 0
        gone = [int((~each[number]).sum()) for each in (self.heads, self.neurons)]
        return shape.parameters - gone[0] * shape.per_head - gone[1] * shape.per_neuron


@dataclass(frozen=True)
class Importance:
    """What each structure is worth: by how much the loss is expected to change without it.

    Attributes:
        heads, neurons: of each layer, float64.
        layers: [layers], float64.

    """

    heads: tuple[Scores, ...]
    neurons: tuple[Scores, ...]
    layers: Scores


@dataclass(frozen=True)
class _Candidate:
    """What can be removed at once: heads, neurons, or with neither the whole layer."""

    layer: int
    cost: float
    heads: tuple[int, ...] = ()
    neurons: tuple[int, ...] = ()


def remaining(shapes: Sequence[Shape], kept: Kept) -> int:
    """Return the parameters that are left of all layers."""
    return sum(kept.parameters(shape, number) for number, shape in enumerate(shapes))


def ensure_reachable(shapes: Sequence[Shape], structures: Sequence[str], sparsity: float) -> None:
    """Check that so much can be removed.

    Raises:
        UsageError: it can't.

    """
    largest = most(shapes, structures)
    if sparsity > largest:
        raise UsageError(
            f"--sparsity {sparsity:g} is out of reach: of the parameters of the layers, {largest:.0%} can be removed as "
            f"{' and '.join(structures)}.",
            hint="Each layer keeps a head and eight neurons; name more with --structure, or remove less.",
        )


def most(shapes: Sequence[Shape], structures: Sequence[str]) -> float:
    """Return the share of the layers' parameters that could be removed at most; a lower bound where layers may go."""
    total = sum(shape.parameters for shape in shapes)
    spared = 0
    for number, shape in enumerate(shapes):
        first = number == 0 or shapes[number - 1].stack != shape.stack
        if "layers" in structures and shape.removable and not first:
            continue
        heads = max(0, shape.heads - 1) * shape.per_head if "heads" in structures else 0
        neurons = (
            (shape.neurons - 1) // EIGHT * EIGHT * shape.per_neuron if "ffn" in structures and shape.neurons else 0
        )
        spared += shape.parameters - heads - neurons
    return 1.0 - spared / total


def choose(
    shapes: Sequence[Shape], scores: Importance, kept: Kept, *, structures: Sequence[str], sparsity: float,
    limit: float | None = None,
) -> Kept:  # fmt: skip
    """Return what is to be left.

    The cheapest candidates for each of their parameters go first. One that would pass the limit is passed over; in the end the
    one that comes nearest to it goes, if it comes nearer than nothing. Each layer that stays keeps a head and eight neurons at
    least, each stack a layer.

    Args:
        shapes: of the layers.
        scores: of their structures.
        kept: what is left already.
        structures: what may go.
        sparsity: share of the parameters of all layers that is to be gone afterwards, 0 to 1.
        limit: that share in the end, where this is one of several rounds; a layer may be more than a round.

    """
    total = sum(shape.parameters for shape in shapes)
    left = kept.copy()
    gone = total - remaining(shapes, left)
    missing, room = sparsity * total - gone, (sparsity if limit is None else limit) * total - gone
    passed: list[_Candidate] = []
    for candidate in sorted(_candidates(shapes, scores, left, structures), key=lambda each: each.cost):
        saved = _saved(shapes, left, candidate)
        if missing <= 0:
            break
        if saved > room:
            passed.append(candidate)
        elif saved:
            _remove(left, candidate)
            missing, room = missing - saved, room - saved
    if missing == room:  # the last round
        nearest = min(_firsts(passed), key=lambda each: abs(_saved(shapes, left, each) - room), default=None)
        if nearest is not None and 0 < _saved(shapes, left, nearest) < 2 * room:
            _remove(left, nearest)
    return left


def _firsts(passed: Sequence[_Candidate]) -> Iterator[_Candidate]:
    """Yield candidates, of the neurons of each layer the first: the others would leave a width that is no multiple of eight."""
    seen: set[int] = set()
    for candidate in passed:
        if candidate.neurons and candidate.layer in seen:
            continue
        seen |= {candidate.layer} if candidate.neurons else set()
        yield candidate


def _remove(left: Kept, candidate: _Candidate) -> None:
    left.heads[candidate.layer][list(candidate.heads)] = False
    left.neurons[candidate.layer][list(candidate.neurons)] = False
    if not candidate.heads and not candidate.neurons:
        left.layers[candidate.layer] = False


def _saved(shapes: Sequence[Shape], left: Kept, candidate: _Candidate) -> int:
    """Return the parameters that a candidate saves as things stand; 0 where it must stay or is gone with its layer."""
    number, shape = candidate.layer, shapes[candidate.layer]
    if not left.layers[number]:
        return 0
    if candidate.heads or candidate.neurons:
        return len(candidate.heads) * shape.per_head + len(candidate.neurons) * shape.per_neuron
    same = [n for n in range(len(shapes)) if shapes[n].stack == shape.stack and n != number and left.layers[n]]
    return left.parameters(shape, number) if same else 0


def _candidates(
    shapes: Sequence[Shape], scores: Importance, left: Kept, structures: Sequence[str]
) -> Iterator[_Candidate]:
    for number, shape in enumerate(shapes):
        if not left.layers[number]:
            continue
        if "heads" in structures:
            for head in _ascending(scores.heads[number], left.heads[number])[:-1]:
                yield _Candidate(number, float(scores.heads[number][head]) / shape.per_head, heads=(int(head),))
        if "ffn" in structures:
            order = _ascending(scores.neurons[number], left.neurons[number])
            first = len(order) % EIGHT or EIGHT
            for end in range(first, len(order), EIGHT):  # the last eight are no candidate
                group = order[max(0, end - EIGHT) : end]
                cost = float(scores.neurons[number][group].sum()) / (len(group) * shape.per_neuron)
                yield _Candidate(number, cost, neurons=tuple(map(int, group)))
        if "layers" in structures and shape.removable:
            yield _Candidate(number, float(scores.layers[number]) / left.parameters(shape, number))


def _ascending(scores: Scores, flags: Flags) -> NDArray[np.int64]:
    """Return the numbers of what is left, the least important first."""
    order = np.argsort(scores, kind="stable")
    return np.asarray(order[flags[order]], dtype=np.int64)
