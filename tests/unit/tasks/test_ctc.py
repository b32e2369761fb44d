"""CTC's collapse and search, against what they are defined as."""

from __future__ import annotations

import itertools
import math

import jiwer
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edgellm.tasks._ctc import Found, beam_search, best_path, collapse, edits, slots_needed

BLANK = 0

ids = st.lists(st.integers(1, 3), max_size=6)


def slots_of(weights: list[list[int]]) -> list[list[tuple[float, int]]]:
    """Slots over all of a small vocabulary, likeliest token first."""
    return [sorted(((weight / sum(row), id) for id, weight in enumerate(row)), reverse=True) for row in weights]


weights = st.lists(st.lists(st.integers(1, 9), min_size=3, max_size=3), min_size=1, max_size=4)


@pytest.mark.parametrize(
    ("path", "said"),
    [([], ()), ([0, 0], ()), ([1, 1, 1], (1,)), ([1, 0, 1], (1, 1)), ([0, 1, 1, 0, 2, 2, 1], (1, 2, 1))],
)
def test_a_path_says_a_sequence(path: list[int], said: tuple[int, ...]) -> None:
    assert collapse(path, BLANK) == said


@given(ids)
def test_a_sequence_fits_in_the_slots_that_it_needs_and_in_no_fewer(sequence: list[int]) -> None:
    def fits(slots: int) -> bool:
        return any(collapse(path, BLANK) == tuple(sequence) for path in itertools.product(range(4), repeat=slots))

    needed = slots_needed(sequence)
    if needed <= 6:
        assert fits(needed)
    if 0 < needed <= 6:
        assert not fits(needed - 1)


@example([[1, 7, 1], [1, 7, 3]])  # two sequences of one probability, but for rounding
@given(weights)
def test_the_search_finds_the_likeliest_sequences(rows: list[list[int]]) -> None:
    slots = slots_of(rows)
    chances: dict[tuple[int, ...], float] = {}
    for path in itertools.product(*slots):
        said = collapse((id for _, id in path), BLANK)
        chances[said] = chances.get(said, 0.0) + math.prod(probability for probability, _ in path)
    found = beam_search(slots, BLANK, best=100, width=1000)
    assert {each.ids: pytest.approx(each.score) for each in found} == chances
    assert [each.score for each in found] == sorted((each.score for each in found), reverse=True)


@given(weights)
def test_the_best_path_is_one_path_of_what_it_says(rows: list[list[int]]) -> None:
    slots = slots_of(rows)
    best = best_path([slot[0] for slot in slots], BLANK)
    assert best.score == pytest.approx(math.prod(slot[0][0] for slot in slots))
    whole = {each.ids: each.score for each in beam_search(slots, BLANK, best=100, width=1000)}
    assert best.score <= whole[best.ids] * (1 + 1e-9)


def test_a_search_can_say_what_no_best_path_says() -> None:
    slots = [[(0.6, 0), (0.4, 1)], [(0.6, 0), (0.4, 1)]]
    assert best_path([slot[0] for slot in slots], BLANK) == Found((), pytest.approx(0.36))
    assert beam_search(slots, BLANK, best=1)[0] == Found((1,), pytest.approx(0.64))


def test_probabilities_of_many_slots_do_not_vanish() -> None:
    slots = [[(0.05, 1), (1e-5, 0)], [(0.05, 2), (1e-5, 0)]] * 300
    found = beam_search(slots, BLANK, best=2, width=4)
    assert found[0].ids == (1, 2) * 300
    assert all(0 <= each.score < 1e-300 for each in found)
    assert beam_search([[(0.0, 1)]], BLANK, best=2) == []


@given(ids, ids)
def test_edits_are_those_of_jiwer(x: list[int], y: list[int]) -> None:
    if not x:
        assert edits(x, y) == len(y)
        return
    measured = jiwer.process_words(" ".join(map(str, x)), " ".join(map(str, y)))
    assert edits(x, y) == measured.substitutions + measured.deletions + measured.insertions
