"""Policy: what to try next, from what was measured so far. A pure function, so that a run that was cut off goes on by it.

The model is made smaller rung by rung, as the recipe lists them, each time from the last model that kept its quality. Where a
rung loses too much, its model is distilled once more for twice as long; then half of the rung is tried; then it is left out.
What was made already is not made again: two rungs may say the same, and begin from the same model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from edgellm.core.optimize import Move, Recipe, Shrink, Step

LONGER = 2
"""Times the epochs of a rung, where its model lost too much."""


def next_move(recipe: Recipe, steps: Sequence[Step]) -> Move | None:
    """Return the next move; None where the goal is met or nothing is left to try.

    Args:
        recipe: what is asked for, and what may be tried.
        steps: that were made by the moves that this function returned.

    """
    if not steps:
        return Move("baseline")
    last = steps[-1]
    if last.meets(recipe.goal) is not None:
        return None
    if last.move.kind == "baseline" and recipe.tune is not None:
        return Move("tune", begins=0, epochs=recipe.tune.epochs, rate=recipe.tune.rate)
    if last.move.rung is None:
        return _rung(recipe, steps, 0, _held(recipe, steps))
    if last.holds(recipe.goal):
        return _rung(recipe, steps, last.move.rung + 1, last.number)
    rung, begins = recipe.shrink[last.move.rung], _held(recipe, steps)
    if last.move.kind != "longer" and rung.epochs and not last.refused:
        return Move("longer", begins=last.number, rung=last.move.rung, epochs=LONGER * rung.epochs, rate=rung.rate)
    half = None if rung.sparsity is None else rung.sparsity / 2
    tried = [step.move.sparsity for step in steps if step.move.rung == last.move.rung]
    if half is not None and half not in tried:
        move = _smaller(rung, last.move.rung, begins, half)
        if not _made(move, steps):
            return move
    return _rung(recipe, steps, last.move.rung + 1, begins)


def _held(recipe: Recipe, steps: Sequence[Step]) -> int:
    """Return the last step whose model kept its quality, or the one that all rungs begin from."""
    start = max(step.number for step in steps if step.move.rung is None and not step.refused)
    return max((step.number for step in steps if step.number > start and step.holds(recipe.goal)), default=start)


def _rung(recipe: Recipe, steps: Sequence[Step], number: int, begins: int) -> Move | None:
    """Return the first move from a rung on that was not made; None where none is left."""
    for place, rung in enumerate(recipe.shrink[number:], number):
        move = _smaller(rung, place, begins, rung.sparsity)
        if not _made(move, steps):
            return move
    return None


def _made(move: Move, steps: Sequence[Step]) -> bool:
    return any(replace(step.move, rung=move.rung) == move for step in steps)


def _smaller(rung: Shrink, number: int, begins: int, sparsity: float | None) -> Move:
    if sparsity is None:
        return Move("layers", begins, number, layers=rung.layers, epochs=rung.epochs, rate=rung.rate)
    return Move("prune", begins, number, None, sparsity, rung.structure, rung.epochs, rung.rate)
