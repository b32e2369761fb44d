"""What is tried next: the ladder of a recipe, longer training where a rung loses too much, then half of it, then the next."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgellm.core.evaluation import Drop
from edgellm.core.optimize import Budget, Data, Goal, Measured, Move, Recipe, Shrink, Step, Tune, best
from edgellm.errors import UsageError
from edgellm.optimize.policy import LONGER, next_move

RECIPE = Recipe(
    "model", "linux-x86_64", Data("train", "dev"), Goal(max_drop=1.0, max_mb=5.0),
    shrink=(Shrink(layers=4, epochs=3), Shrink(sparsity=0.4, epochs=2), Shrink(sparsity=0.3, epochs=0)),
)  # fmt: skip


def artifact(drop: float, mb: float, cost: float | None = None, scheme: str = "int8-dynamic") -> Measured:
    return Measured(scheme, 0.9 - drop / 100, Drop(drop, drop - 0.1, drop + 0.1), int(mb * 1e6), cost)


def after(recipe: Recipe, *found: Measured) -> tuple[list[Step], Move | None]:
    """Return the steps that gave these artifacts, by the policy's own moves, and its next move."""
    steps: list[Step] = []
    for number, each in enumerate(found):
        move = next_move(recipe, steps)
        assert move is not None
        steps.append(Step(number, move, f"m{number}", 1, 1.0, (each,)))
    return steps, next_move(recipe, steps)


def test_it_begins_with_the_baseline_and_goes_down_rung_by_rung() -> None:
    assert next_move(RECIPE, []) == Move("baseline")
    _, move = after(RECIPE, artifact(0, 20))
    assert move == Move("layers", 0, 0, layers=4, epochs=3, rate=1e-4)
    _, move = after(RECIPE, artifact(0, 20), artifact(0.5, 15))
    assert move == Move("prune", 1, 1, sparsity=0.4, structure="heads,ffn", epochs=2, rate=1e-4)


def test_it_ends_where_the_goal_is_met() -> None:
    assert after(RECIPE, artifact(0.9, 4.9))[1] is None
    assert after(RECIPE, artifact(0, 20), artifact(0.9, 4.9))[1] is None
    assert after(RECIPE, artifact(0, 20), artifact(1.1, 4.9))[1] is not None


def test_a_rung_that_loses_too_much_is_trained_longer_then_halved_then_left_out() -> None:
    lost = artifact(3, 10)
    steps, move = after(RECIPE, artifact(0, 20), artifact(0.5, 15), lost)
    assert move == Move("longer", 2, 1, epochs=2 * LONGER, rate=1e-4)
    _, move = after(RECIPE, artifact(0, 20), artifact(0.5, 15), lost, lost)
    assert move is not None
    assert (move.kind, move.begins, move.sparsity) == ("prune", 1, 0.2)  # from the last that kept its quality
    _, move = after(RECIPE, artifact(0, 20), artifact(0.5, 15), lost, lost, lost, lost)
    assert move is not None
    assert (move.rung, move.begins, move.sparsity) == (2, 1, 0.3)
    assert next_move(RECIPE, steps[:2]) == steps[2].move


def test_layers_that_lose_too_much_are_trained_longer_and_then_left_out() -> None:
    _, move = after(RECIPE, artifact(0, 20), artifact(3, 15), artifact(2, 15))
    assert move is not None
    assert (move.kind, move.rung, move.begins) == ("prune", 1, 0)


def test_what_is_not_trained_is_not_trained_longer() -> None:
    found = [artifact(0, 20), artifact(0.5, 15), artifact(0.6, 12), artifact(3, 9)]
    _, move = after(RECIPE, *found)
    assert move is not None
    assert (move.kind, move.begins, move.sparsity) == ("prune", 2, 0.15)
    assert after(RECIPE, *found, artifact(3, 10))[1] is None  # nothing is left to try


def test_a_longer_training_that_helps_is_gone_on_from() -> None:
    _, move = after(RECIPE, artifact(0, 20), artifact(3, 15), artifact(0.5, 15))
    assert move is not None
    assert (move.rung, move.begins) == (1, 2)


def test_tuning_comes_first_and_everything_begins_from_it() -> None:
    recipe = replace(RECIPE, tune=Tune(epochs=2))
    _, move = after(recipe, artifact(0, 20))
    assert move == Move("tune", 0, epochs=2, rate=2e-5)
    _, move = after(recipe, artifact(0, 20), artifact(5, 20))
    assert move is not None
    assert (move.kind, move.begins) == ("layers", 1)


def test_an_artifact_that_the_gate_refused_keeps_nothing() -> None:
    refused = Measured("int8-dynamic", None, None, None, None, refused="It agrees with .7.")
    steps, move = after(RECIPE, artifact(0, 20), refused)
    assert move is not None
    assert move.kind == "longer"
    assert RECIPE.goal.broken(refused) == ("gate",)
    assert not steps[1].holds(RECIPE.goal)
    chosen = best(steps, RECIPE.goal)
    assert chosen is not None
    assert chosen[0].number == 0


def test_a_cost_that_was_not_measured_is_not_kept() -> None:
    goal = Goal(max_cost=0.5)
    assert goal.broken(artifact(0, 1)) == ("max_cost",)
    assert goal.broken(artifact(0, 1, cost=0.5)) == ()
    assert goal.broken(artifact(0, 1, cost=0.51)) == ("max_cost",)


def test_the_best_is_what_meets_the_goal_or_comes_closest_with_its_quality() -> None:
    steps, _ = after(RECIPE, artifact(0, 20), artifact(0.5, 12), artifact(9, 1))
    chosen = best(steps, RECIPE.goal)
    assert chosen is not None
    assert chosen[0].number == 1
    assert RECIPE.goal.excess(chosen[1]) == pytest.approx(12 / 5 - 1)


def test_what_is_exactly_at_the_bound_is_kept() -> None:
    assert RECIPE.goal.broken(artifact(100 * (0.9 - 0.89), 4.0)) == ()
    assert RECIPE.goal.broken(artifact(1.001, 4.0)) == ("max_drop",)


def test_a_move_that_could_not_be_made_is_not_trained_longer() -> None:
    steps, move = after(RECIPE, artifact(0, 20), artifact(0.5, 15))
    assert move is not None
    refused = Step(2, move, "m1", 1, 1.0, (), refused="So much can't be removed.")
    following = next_move(RECIPE, [*steps, refused])
    assert following is not None
    assert (following.kind, following.begins, following.sparsity) == ("prune", 1, 0.2)


def test_two_rungs_that_say_the_same_are_tried_once_from_one_model() -> None:
    same = Shrink(sparsity=0.4, epochs=0)
    recipe = replace(RECIPE, shrink=(same, same))
    assert after(recipe, artifact(0, 20), artifact(3, 10), artifact(3, 15))[1] is None
    _, move = after(recipe, artifact(0, 20), artifact(0.5, 10))
    assert move is not None
    assert (move.rung, move.begins) == (1, 1)  # another model, so another move


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.9, 1.1, 4.0]), st.sampled_from([4.0, 6.0, 20.0])), min_size=40))
def test_it_always_ends(drawn: list[tuple[float, float]]) -> None:
    steps: list[Step] = []
    for number, (drop, mb) in zip(itertools.count(), drawn, strict=False):
        move = next_move(RECIPE, steps)
        if move is None:
            break
        if move.begins is not None:
            assert move.begins < number
        steps.append(Step(number, move, f"m{number}", 1, 1.0, (artifact(drop, mb),)))
    assert len(steps) <= 1 + len(RECIPE.shrink) * 4


@pytest.mark.parametrize(
    "make",
    [
        lambda: Goal(),
        lambda: Goal(max_mb=0),
        lambda: Goal(max_drop=-1, max_mb=1),
        lambda: Shrink(),
        lambda: Shrink(layers=2, sparsity=0.5),
        lambda: Shrink(layers=0),
        lambda: Shrink(sparsity=1.0),
        lambda: Shrink(sparsity=0.5, structure="2:4"),
        lambda: Shrink(sparsity=0.5, epochs=-1),
        lambda: Goal(min_score=85, max_mb=1),
        lambda: Shrink(sparsity=0.5, rate=-5),
        lambda: Tune(epochs=0),
        lambda: Tune(rate=0),
        lambda: replace(RECIPE, seed=-3),
        lambda: replace(RECIPE, precision="fp8"),
        lambda: replace(RECIPE, threads=0),
        lambda: replace(RECIPE, seq_len=()),
        lambda: replace(RECIPE, min_agreement=2),
        lambda: Budget(steps=0),
        lambda: Budget(minutes=0),
        lambda: replace(RECIPE, schemes=()),
    ],
)
def test_what_makes_no_sense_is_refused(make: object) -> None:
    assert callable(make)
    with pytest.raises(UsageError):
        make()
