"""Choosing: the cheapest for each parameter goes, the aim is met, and something of each layer stays."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgellm.errors import UsageError
from edgellm.prune.choose import EIGHT, Importance, Kept, Shape, choose, ensure_reachable, most, remaining

STRUCTURES = ("heads", "ffn", "layers")


def shape(number: int = 0, stack: int = 0, heads: int = 4, neurons: int = 64, removable: bool = True) -> Shape:
    per_head, per_neuron = 1000, 65
    return Shape(
        f"layer.{number}",
        stack,
        heads,
        neurons,
        per_head,
        per_neuron,
        heads * per_head + neurons * per_neuron + 100,
        removable,
    )


def scored(shapes: list[Shape], seed: int) -> Importance:
    draw = np.random.default_rng(seed)
    return Importance(
        tuple(draw.random(each.heads) * each.per_head for each in shapes),
        tuple(draw.random(each.neurons) * each.per_neuron for each in shapes),
        draw.random(len(shapes)) * 5000,
    )


def alike(shapes: list[Shape]) -> Importance:
    return Importance(
        tuple(np.full(each.heads, float(each.per_head)) for each in shapes),
        tuple(np.full(each.neurons, float(each.per_neuron)) for each in shapes),
        np.array([float(each.parameters) for each in shapes]),
    )


@given(
    seed=st.integers(0, 10**6), sparsity=st.floats(0.01, 0.95), rounds=st.integers(1, 5),
    structures=st.sets(st.sampled_from(STRUCTURES), min_size=1), sizes=st.lists(
        st.tuples(st.integers(1, 6), st.integers(1, 100), st.integers(0, 1), st.booleans()), min_size=1, max_size=5),
)  # fmt: skip
def test_the_aim_is_met_and_something_stays(
    seed: int, sparsity: float, rounds: int, structures: set[str], sizes: list[tuple[int, int, int, bool]]
) -> None:
    sizes = sorted(sizes, key=lambda size: size[2])
    shapes = [shape(n, stack, heads, neurons, free) for n, (heads, neurons, stack, free) in enumerate(sizes)]
    scores = scored(shapes, seed)
    kept = Kept.everything(shapes)
    for number in range(1, rounds + 1):
        before = kept
        kept = choose(shapes, scores, kept, structures=structures, sparsity=sparsity * number / rounds, limit=sparsity)
        for old, new in zip((*before.heads, *before.neurons), (*kept.heads, *kept.neurons), strict=True):
            assert not (new & ~old).any(), "what was removed came back"
    total = sum(each.parameters for each in shapes)
    gone = total - remaining(shapes, kept)
    assert gone <= 2 * sparsity * total
    for stack in {each.stack for each in shapes}:
        assert any(kept.layers[n] for n in range(len(shapes)) if shapes[n].stack == stack)
    for number, each in enumerate(shapes):
        assert kept.layers[number] or ("layers" in structures and each.removable)
        assert kept.heads[number].any()
        left = int(kept.neurons[number].sum())
        assert left == each.neurons or (left >= EIGHT and left % EIGHT == 0)
        assert "heads" in structures or kept.heads[number].all()
        assert "ffn" in structures or kept.neurons[number].all()
    if structures == {"ffn", "heads"} and sparsity < most(shapes, ("heads", "ffn")) / 2:
        assert abs(gone / total - sparsity) <= 1.01 * 1000 / 2 / total, "heads and eights are fine enough to meet it"


def test_what_is_worth_nothing_goes_first() -> None:
    shapes = [shape(0), shape(1)]
    scores = alike(shapes)
    scores.heads[1][2] = 0.0
    scores.neurons[0][8:16] = 0.0
    kept = choose(shapes, scores, Kept.everything(shapes), structures=STRUCTURES, sparsity=1520 / 16520)
    assert np.flatnonzero(~kept.heads[1]).tolist() == [2]
    assert np.flatnonzero(~kept.neurons[0]).tolist() == list(range(8, 16))
    assert kept.heads[0].all()
    assert kept.neurons[1].all()
    assert kept.layers.all()


def test_a_layer_that_is_worth_nothing_goes_whole_even_in_small_rounds() -> None:
    shapes = [shape(n) for n in range(6)]
    scores = alike(shapes)
    scores.layers[3] = 0.0
    kept = choose(shapes, scores, Kept.everything(shapes), structures=STRUCTURES, sparsity=0.05, limit=0.4)
    assert np.flatnonzero(~kept.layers).tolist() == [3]


@pytest.mark.parametrize(("sparsity", "gone"), [(0.05, 0), (0.1, 1), (0.2, 1), (0.3, 2)])
def test_whole_layers_come_as_near_as_they_can(sparsity: float, gone: int) -> None:
    shapes = [shape(n) for n in range(6)]
    kept = choose(shapes, alike(shapes), Kept.everything(shapes), structures=("layers",), sparsity=sparsity)
    assert int((~kept.layers).sum()) == gone


def test_attention_that_is_worth_nothing_keeps_a_head() -> None:
    shapes = [shape(0), shape(1)]
    scores = alike(shapes)
    scores.heads[0][:] = 0.0
    kept = choose(shapes, scores, Kept.everything(shapes), structures=("heads",), sparsity=6000 / 16520)
    assert (int(kept.heads[0].sum()), int(kept.heads[1].sum())) == (1, 1)


def test_what_is_out_of_reach_is_refused() -> None:
    shapes = [shape(0), shape(1)]
    assert most(shapes, ("heads",)) == pytest.approx(6000 / 16520)
    with pytest.raises(UsageError, match="36% can be removed as heads"):
        ensure_reachable(shapes, ("heads",), 0.4)
    ensure_reachable(shapes, ("heads", "ffn"), 0.4)


def test_a_width_off_eight_becomes_a_multiple_of_it() -> None:
    shapes = [shape(0, neurons=61)]
    kept = choose(
        shapes, scored(shapes, 1), Kept.everything(shapes), structures=("ffn",), sparsity=10 * 65 / shapes[0].parameters
    )
    assert int(kept.neurons[0].sum()) in (48, 56)
