"""Optimize: the whole road by one recipe. Baseline, adjust, measure, compare, until the goal is met or the budget is used.

What to try next is `policy`'s to say, from what was measured; each model and each measurement is kept in a folder that is
named after what it was made of. A run that was cut off, or whose recipe was changed, does again only what is not there yet.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from edgellm.core import strict
from edgellm.core.optimize import Confirmed, Measured, Move, Optimized, Step, best
from edgellm.distill import quiet_imports
from edgellm.optimize import models
from edgellm.optimize.kept import Kept
from edgellm.optimize.measure import FP32, built, compared, described, measured
from edgellm.optimize.policy import next_move
from edgellm.optimize.recipe import BUNDLE, MODEL, Setup, checked, read_recipe
from edgellm.runtime.bundle import Bundle
from edgellm.stages.cache import Cache, key_of
from edgellm.stages.disk import disk_errors
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
        UsageError, InputError: the recipe, or what it names, can't be used; nothing was begun.
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
        say("the baseline in fp32")
        self._base = built(setup, Path(setup.recipe.model), FP32, self._kept.bundle(FP32))
        self._said = self._asked(setup.dev)
        self._steps: list[Step] = []

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
            None if chosen is None else self._confirmed(chosen[1]), str(setup.out),
        )  # fmt: skip
        _write(found, setup.out)
        if chosen is not None:
            for source, name in ((chosen[0].model, MODEL), (chosen[1].bundle, BUNDLE)):
                put(Path(source), setup.out / name, check=lambda out: None)
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

    def _left(self) -> float | None:
        """Return the seconds that are left, 0 where none are; None without a bound."""
        minutes = self._setup.recipe.budget.minutes
        return None if minutes is None else max(0.0, 60 * minutes - sum(step.seconds for step in self._steps))

    def _step(self, move: Move) -> Step:
        setup, number = self._setup, len(self._steps)
        begins = None if move.begins is None else self._steps[move.begins]
        folder = self._kept.step(move, None if begins is None else Path(begins.model))
        self._say(f"step {number}: {move}")
        with self._kept.timed(folder):
            model = Path(setup.recipe.model)
            if begins is not None:
                model = models.make(
                    setup, move, Path(begins.model), self._teacher(), folder, seconds=self._left(), quiet=self._quiet,
                    say=self._say,
                )  # fmt: skip
            results = []
            for scheme in ((FP32,) if number == 0 else ()) + setup.recipe.schemes:
                one = self._kept.measured(folder, scheme) or self._measure(folder, model, scheme)
                results.append(one)
        parameters = described(setup, model).parameters
        step = Step(number, move, str(model), parameters, self._kept.seconds(folder), tuple(results))
        for one in results:
            self._told(step, one)
        return step

    def _measure(self, folder: Path, model: Path, scheme: str) -> Measured:
        self._say(f"building and measuring {scheme}")
        out = self._kept.bundle(scheme) if scheme == FP32 else self._kept.bundle(scheme, folder)
        found = measured(self._setup, model, scheme, self._said, self._base, self._store, out)
        self._kept.keep(folder, found)
        return found

    def _teacher(self) -> Path:
        """Return who teaches smaller models: the recipe's teacher, or the largest model that was made."""
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


def _write(found: Optimized, out: Path) -> None:
    from edgellm.optimize.plot import plot

    text = json.dumps(strict.plain(found), indent=2, ensure_ascii=False, allow_nan=False)
    (out / RESULT).write_text(text + "\n", encoding="utf-8")
    plot(found, out / PLOT)
