"""Search: which scheme each layer should have, under bounds on what is lost, on size and on cost.

Every trial is an artifact that was lowered as a build does it, and run in the worker that ships. Nothing is chosen by texts
that a figure is reported on: the points that are lost on other texts are measured once, when everything is chosen.
"""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgellm.core import strict
from edgellm.core.search import Confirmed, Front, Group, Point
from edgellm.errors import DeviceError, MissingDependencyError, UsageError
from edgellm.runtime.bundle import Bundle
from edgellm.runtime.machine import cpu_identity
from edgellm.search import result
from edgellm.search.setup import Options, Setup, checked
from edgellm.stages import search_space, search_trial
from edgellm.stages.cache import Cache, key_of
from edgellm.stages.jobs import Job, run_jobs
from edgellm.stages.search_space import Layer
from edgellm.stages.source import identity as source_identity

if TYPE_CHECKING:
    from edgellm.stages.search_study import Outcome, Told

__all__ = ["Options", "search"]

_NEEDS = ("optuna", "matplotlib")

Say = Callable[[str], None]
"""Called with what is done now, in a few words."""


def search(options: Options, *, told: Told = lambda point, seconds: None, say: Say = lambda what: None) -> Front:
    """Search, and write what was found into a folder: front.json, front.svg, and chosen.toml for `edgellm build`.

    Args:
        options: what is asked for.
        told: of each trial.
        say: of what else is done.

    Raises:
        UsageError: an option is wrong, or the study is of something else.
        InputError: the model or a file can't be used.
        MissingDependencyError: the search or build extra is not installed, or the emulator not set up.
        GateError: no point keeps the bounds; what was found is in the folder all the same.
        DeviceError: a worker died, or the disk is full.

    """
    for package in _NEEDS:
        if importlib.util.find_spec(package) is None:
            raise MissingDependencyError(
                f"Searching needs {package}.", hint="Install it with: pip install 'edgellm[search]'"
            )
    setup = checked(options)
    try:
        store = Cache.default()
        store.tidy()
        log = store.root / "logs" / f"search-{time.time_ns()}-{os.getpid()}.log"
        setup.folder.mkdir(parents=True, exist_ok=True)
        return _searched(setup, store, log, told, say)
    except OSError as error:
        raise DeviceError(f"The search could not go on: {error.strerror or error}.", hint="--resume does.") from None


def _searched(setup: Setup, store: Cache, log: Path, told: Told, say: Say) -> Front:
    from edgellm.stages import search_study as studies

    options = setup.options
    with studies.turn(setup.url):
        study = studies.open_study(setup.url, options.study, resume=options.resume)
        groups = None if study is None else studies.described(study, setup.identity())
    if groups is None:
        say("ranking layers")
        groups = search_space.group_layers(_ranked(setup, store, log), setup.schemes)
        if not groups:
            raise UsageError(
                "No group of layers has enough weights to choose a scheme for.",
                hint="Build the model with one --scheme.",
            )
        with studies.turn(setup.url):
            study = study or studies.create_study(setup.url, options.study)
            studies.describe(study, setup.identity(), groups, search_space.seeds(groups, setup.schemes, setup.base))
    assert study is not None
    say("asking the fp32 source")
    said = search_trial.asked_source(setup.plan, setup.choose, store, log)
    say(f"lowering uniform {setup.base}")
    with search_trial.lowered(setup.plan, search_space.precisions_of((), {}, setup.base), store, log) as base:
        evaluate = _Evaluator(setup, groups, said, base, store, log)
        studies.run(
            study, setup.url, groups, evaluate, trials=options.trials, seed=options.seed, bounds=setup.bounds,
            minimize=setup.minimize, told=told,
        )  # fmt: skip
        points, failures = studies.points_of(study, setup.bounds)
        chosen = search_space.chosen_of(points, setup.minimize)
        confirmed = None
        if chosen is not None and setup.confirm is not None:
            say("confirming the chosen point on other texts")
            confirmed = _confirmed(setup, groups, chosen, base, store, log)
    loss = search_trial.lost(setup.plan.source, setup.choose, said, said)
    uniform = next((point for point in points if set(point.schemes.values()) == {setup.base}), None)
    front = Front(
        setup.plan.source.name, setup.plan.source.sha256, setup.plan.target.name, setup.format, setup.base, setup.minimize,
        "" if setup.meter is None else str(setup.meter), setup.bounds, loss.metric, setup.choose.about, setup.choose.n,
        options.seed, groups, points, failures, search_space.front_of(points, setup.minimize),
        None if uniform is None else uniform.number, None if chosen is None else chosen.number,
        result.gain(chosen, uniform, setup.minimize), confirmed, "" if chosen is None else result.command(setup, groups, chosen),
    )  # fmt: skip
    result.write(setup, front)
    if chosen is None:
        raise result.nothing(front, setup)
    return front


class _Evaluator:
    """Measures points; the uniform one stays open beside them."""

    def __init__(
        self, setup: Setup, groups: Sequence[Group], said: Sequence[object], base: Bundle, store: Cache, log: Path
    ) -> None:
        self._setup, self._groups, self._said, self._base = setup, groups, said, base
        self._store, self._log = store, log

    def __call__(self, schemes: Mapping[str, str]) -> Outcome:
        from edgellm.stages.search_study import Outcome

        setup = self._setup
        precisions = search_space.precisions_of(self._groups, schemes, setup.base)
        with search_trial.lowered(setup.plan, precisions, self._store, self._log) as bundle:
            artifact = bundle.manifest.artifacts[0]
            got = search_trial.ask(bundle, setup.choose, self._store)
            cost = None if setup.meter is None else setup.meter.ratio(bundle, self._base)
        drop = search_trial.lost(setup.plan.source, setup.choose, self._said, got).drop
        return Outcome(drop, artifact.bytes, cost, 0.0 if artifact.agreement is None else artifact.agreement.mean)


def _ranked(setup: Setup, store: Cache, log: Path) -> list[Layer]:
    """Return the model's layers with what the coarsest scheme does to each, from the cache or by a job."""
    plan = setup.plan
    facts: dict[str, Any] = {
        "format": plan.target.backend(setup.format), "coarse": search_space.coarser_than(setup.base), "texts": plan.calibration,
        "ranges": plan.ranges, "max_tokens": plan.max_tokens,
    }  # fmt: skip
    tools = ("numpy", "tokenizers", "torch", "transformers")
    key = key_of("rank", tools, source=source_identity(plan.source), cpu=cpu_identity(), **facts)
    with store.locked(key):
        entry = store.get(key)
        if entry is None:
            found: dict[str, Any] = {}
            with store.workspace() as work:
                (folder := work / "rank").mkdir()
                fields = {"kind": "rank", "source": strict.plain(plan.source), "folder": str(folder), **facts}
                run_jobs([Job("rank", fields, found.update)], side_by_side=1, log=log, started=lambda name: None)
                entry = store.put(key, folder, found)
        return [strict.read(Layer, each, "rank") for each in entry.value["layers"]]


def _confirmed(
    setup: Setup, groups: Sequence[Group], chosen: Point, base: Bundle, store: Cache, log: Path
) -> Confirmed:
    """Return what the chosen point loses on texts that chose nothing."""
    questions = setup.confirm
    assert questions is not None
    said = search_trial.asked_source(setup.plan, questions, store, log)
    precisions = search_space.precisions_of(groups, chosen.schemes, setup.base)
    with search_trial.lowered(setup.plan, precisions, store, log) as bundle:
        found, uniform = (
            search_trial.lost(setup.plan.source, questions, said, search_trial.ask(each, questions, store))
            for each in (bundle, base)
        )
    return Confirmed(questions.about, questions.n, found.metric, found.source, found.drop, uniform.drop)
