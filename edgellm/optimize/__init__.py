"""Optimize: the whole road by one recipe. Baseline, adjust, measure, compare, until the goal is met or the budget is used.

What to try next is `policy`'s to say, from what was measured; each model and each measurement is kept in a folder that is
named after what it was made of. A run that was cut off, or whose recipe was changed, does again only what is not there yet.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from edgellm.core import strict
from edgellm.core.optimize import Confirmed, Measured, Move, Optimized, Step, best
from edgellm.distill import quiet_imports
from edgellm.errors import GateError, InputError, UsageError
from edgellm.optimize import models
from edgellm.optimize.kept import Kept, write
from edgellm.optimize.measure import built, compared, described, measured
from edgellm.optimize.policy import next_move
from edgellm.optimize.recipe import BUNDLE, FP32, MODEL, Setup, checked, in_keys, read_recipe
from edgellm.runtime.bundle import Bundle
from edgellm.stages.cache import Cache, key_of
from edgellm.stages.disk import disk_errors
from edgellm.stages.package import publish
from edgellm.stages.produce import answers
from edgellm.stages.put import put
from edgellm.stages.search_trial import Lost, Questions

__all__ = ["optimize"]

RESULT, PLOT = "optimized.json", "optimized.svg"
"""Files in the folder of an optimization."""

Say = Callable[[str], None]
Told = Callable[[Step, Measured], None]


def optimize(
    recipe: Path, *, told: Told = lambda step, measured: None, say: Say = lambda what: None, quiet: bool = False
) -> Optimized:
    """Make a model smaller and faster until it meets its recipe's goal, and write what came of it into the recipe's `out`.

    Args:
        recipe: TOML file (see `edgellm.core.optimize.Recipe`).
        told: of each artifact that was measured.
        say: of what else is done.
        quiet: whether no bar is shown.

    Returns:
        How it went: `ended` says whether the goal is met, and `chosen` is None where nothing keeps the quality. All figures are
        in the folder, as optimized.json and optimized.svg.

    Raises:
        UsageError, InputError: the recipe, or what it names, can't be used; nothing was begun. What a single move can't do
            is a refused step.
        MissingDependencyError: an extra is not installed.
        DeviceError: the machine failed; the same call goes on.

    """
    setup = checked(read_recipe(recipe))
    with disk_errors("What was made so far is kept; the same command goes on."), quiet_imports():
        store = Cache.default()
        setup.out.mkdir(parents=True, exist_ok=True)
        with store.locked(key_of("optimize", (), out=str(setup.out.resolve()))):
            return _Run(setup, store, told, say, quiet).result()


class _Run:
    """One run, from the baseline to the end."""

    def __init__(self, setup: Setup, store: Cache, told: Told, say: Say, quiet: bool) -> None:
        self._setup, self._store, self._told, self._say, self._quiet = setup, store, told, say, quiet
        self._kept = Kept(setup)
        self._log = store.root / "logs" / f"optimize-{time.time_ns()}.log"
        self._steps: list[Step] = []
        say("the baseline in fp32")
        first = self._kept.step(Move("baseline"), None)
        with self._kept.timed(first):
            self._base = built(setup, Path(setup.recipe.model), FP32, self._kept.bundle(first, FP32))
            self._said = self._asked(setup.dev)

    def result(self) -> Optimized:
        """Go through all moves, and write what came of them."""
        setup, goal = self._setup, self._setup.recipe.goal
        ended = self._moves()
        chosen = best(self._steps, goal)
        loss = compared(setup, setup.dev, self._said, self._base, self._store)
        found = Optimized(
            setup.source.name, setup.plan.target.name, setup.format, goal, ended, loss.metric, setup.dev.about, setup.dev.n,
            "" if setup.meter is None else str(setup.meter), tuple(self._steps),
            None if chosen is None else (chosen[0].number, chosen[1].scheme),
            self._confirmed(chosen[1]) if chosen is not None and ended == "goal" else None, str(setup.out),
        )  # fmt: skip
        _publish(found, chosen, setup.out)
        return found

    def _moves(self) -> Literal["goal", "budget", "tried"]:
        recipe, budget = self._setup.recipe, self._setup.recipe.budget
        while True:
            move = next_move(recipe, self._steps)
            if move is None:
                return "goal" if self._steps[-1].meets(recipe.goal) else "tried"
            if len(self._steps) >= budget.steps or self._left() == 0:
                return "budget"
            try:
                self._steps.append(self._step(move))
            except models.OutOfTimeError:
                return "budget"

    def _left(self, more: float = 0.0) -> float | None:
        """Return the seconds that are left beside `more`, 0 where none are; None without a bound."""
        minutes = self._setup.recipe.budget.minutes
        used = more + sum(step.seconds for step in self._steps)
        return None if minutes is None else max(0.0, 60 * minutes - used)

    def _step(self, move: Move) -> Step:
        number = len(self._steps)
        begins = None if move.begins is None else self._steps[move.begins]
        folder = self._kept.step(move, None if begins is None else Path(begins.model))
        self._say(f"step {number}: {move}")
        model, refused, results = Path(self._setup.recipe.model), "", list[Measured]()
        with self._kept.timed(folder):
            try:
                if begins is not None:
                    model = self._made(move, Path(begins.model), folder)
            except (UsageError, InputError, GateError) as error:
                assert begins is not None
                model, refused = Path(begins.model), in_keys(error.args[0])
                self._say(f"  it can't be made: {refused}")
            else:
                schemes = dict.fromkeys(((FP32,) if begins is None else ()) + self._setup.recipe.schemes)
                results = [self._measured(folder, model, scheme) for scheme in schemes]
        parameters = described(self._setup, model).parameters
        step = Step(number, move, str(model), parameters, self._kept.seconds(folder), tuple(results), refused)
        for one in results:
            self._told(step, one)
        return step

    def _made(self, move: Move, begins: Path, folder: Path) -> Path:
        before, start = self._kept.seconds(folder), time.perf_counter()
        return models.make(
            self._setup, move, begins, self._teacher(), folder, quiet=self._quiet, say=self._say,
            left=lambda: self._left(before + time.perf_counter() - start),
        )  # fmt: skip

    def _measured(self, folder: Path, model: Path, scheme: str) -> Measured:
        found = self._kept.measured(folder, scheme)
        if found is None:
            self._say(f"building and measuring {scheme}")
            out = self._kept.bundle(folder, scheme)
            found = measured(self._setup, model, scheme, self._said, self._base, self._store, out)
            self._kept.keep(folder, found)
        return found

    def _teacher(self) -> Path:
        """Return who teaches smaller models: the recipe's teacher, or the model that all of them come of."""
        if self._setup.recipe.teacher is not None:
            return Path(self._setup.recipe.teacher)
        return Path([step for step in self._steps if step.move.rung is None][-1].model)

    def _asked(self, questions: Questions) -> list[object]:
        with self._store.workspace() as work:
            return answers(
                self._setup.plan.source, questions.inputs, self._setup.plan.max_tokens, self._store, work, self._log
            )

    def _confirmed(self, chosen: Measured) -> Confirmed | None:
        setup = self._setup
        if setup.test is None:
            return None
        self._say("confirming on the test examples")
        found: Lost = compared(setup, setup.test, self._asked(setup.test), Bundle.open(chosen.bundle), self._store)
        return Confirmed(setup.test.about, setup.test.n, found.metric, found.source, found.drop)


def _publish(found: Optimized, chosen: tuple[Step, Measured] | None, out: Path) -> None:
    """Put the chosen model and bundle in their places, or take away what an earlier recipe chose; the figures come last."""
    from edgellm.optimize.plot import plot

    if chosen is None:
        for name in (MODEL, BUNDLE):
            shutil.rmtree(out / name, ignore_errors=True)  # the step that it is of has it still
    else:
        put(Path(chosen[0].model), out / MODEL, check=lambda place: None)
        publish(Path(chosen[1].bundle), out / BUNDLE)
    plot(found, out / PLOT)
    write(out / RESULT, strict.plain(found))
