"""Search: which scheme each layer should have, under bounds on what is lost, on size and on cost.

Every trial is an artifact that was lowered as a build does it, and run in the worker that ships. Nothing is chosen by texts
that a figure is reported on: the points that are lost on other texts are measured once, when everything is chosen.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgellm.core import strict
from edgellm.core.search import MINIMIZED, Bounds, Confirmed, Front, Group, Point
from edgellm.costing import Meter, meter_for
from edgellm.errors import DeviceError, GateError, InputError, MissingDependencyError, UsageError, unknown
from edgellm.runtime.bundle import Bundle
from edgellm.runtime.machine import cpu_identity
from edgellm.stages import search_space, search_trial, texts
from edgellm.stages.cache import Cache, key_of
from edgellm.stages.examples import read_examples, strings_in, texts_in
from edgellm.stages.jobs import Job, run_jobs
from edgellm.stages.plan import Plan, resolve
from edgellm.stages.search_space import BASE, Layer
from edgellm.stages.search_trial import Questions
from edgellm.stages.source import identity as source_identity
from edgellm.targets import load_target
from edgellm.tasks import load_task

if TYPE_CHECKING:
    from edgellm.stages.search_study import Outcome, Told

FRONT, PLOT, CHOSEN, STUDY, CALIBRATION = "front.json", "front.svg", "chosen.toml", "study.db", "calibration.txt"
"""Files in the search's folder."""

DEFAULT_TRIALS = 30
MIN_TEXTS = 18
"""Calibration texts at least where there are no labelled ones: a third of them chooses."""

_NEEDS = ("optuna", "matplotlib")
Say = Callable[[str], None]
"""Called with what is done now, in a few words."""


@dataclass(frozen=True)
class Options:
    """What the user asked for; paths as they were given, so that the command that is printed has them.

    Attributes:
        model: a folder written by `save_pretrained`.
        target: name of a target.
        format: one that its CPU runs; the target's first such if None.
        minimize: a key of `core.search.MINIMIZED`.
        max_drop: points that may be lost against the fp32 source on the texts that choose.
        max_size: bytes of the artifact.
        max_cost: time or instructions, as a part of uniform int8-dynamic's.
        trials: of the study, in all.
        schemes: that single layers may have; all that the format takes if empty.
        eval: labelled examples that choose; agreement on calibration texts chooses if None.
        test: labelled examples that the chosen point is measured on, once; a third of `eval` if None.
        calibration, golden, task, tokenizer, pooling, seq_len: as `edgellm.build` takes them.
        storage: URL of Optuna's storage; a file in `out` if None.
        study: its name there.
        out: folder for what is found.
        seed: of the sampler.
        resume: whether the study is there already.

    """

    model: str
    target: str
    format: str | None = None
    minimize: str = "size"
    max_drop: float = 1.0
    max_size: int | None = None
    max_cost: float | None = None
    trials: int = DEFAULT_TRIALS
    schemes: tuple[str, ...] = ()
    eval: str | None = None
    test: str | None = None
    calibration: str | None = None
    golden: str | None = None
    task: str | None = None
    tokenizer: str | None = None
    pooling: str | None = None
    seq_len: tuple[int, ...] | None = None
    storage: str | None = None
    study: str = "edgellm"
    out: str | None = None
    seed: int = 0
    resume: bool = False


@dataclass(frozen=True)
class _Setup:
    """What a search needs, all checked."""

    options: Options
    plan: Plan
    folder: Path
    bounds: Bounds
    minimize: str
    schemes: tuple[str, ...]
    meter: Meter | None
    choose: Questions
    confirm: Questions | None

    @property
    def format(self) -> str:
        return self.plan.formats[0]

    @property
    def url(self) -> str:
        return self.options.storage or f"sqlite:///{(self.folder / STUDY).absolute()}"

    def identity(self) -> dict[str, object]:
        """Return what has to be the same for a study to go on."""
        return {
            "model": self.plan.source.sha256, "target": self.plan.target.name, "format": self.format,
            "lengths": list(self.plan.buckets), "minimize": self.minimize, "bounds": strict.plain(self.bounds),
            "schemes": list(self.schemes), "seed": self.options.seed, "data": self.choose.digest,
            "calibration": Questions("", self.plan.calibration).digest,
            "measured on": "" if self.meter is None else str([self.meter.kind, *(d.name for d in self.meter.devices)]),
        }  # fmt: skip


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
    setup = _checked(options)
    try:
        store = Cache.default()
        store.tidy()
        log = store.root / "logs" / f"search-{time.time_ns()}-{os.getpid()}.log"
        setup.folder.mkdir(parents=True, exist_ok=True)
        return _searched(setup, store, log, told, say)
    except OSError as error:
        raise DeviceError(f"The search could not go on: {error.strerror or error}.", hint="--resume does.") from None


def _searched(setup: _Setup, store: Cache, log: Path, told: Told, say: Say) -> Front:
    from edgellm.stages import search_study as studies

    options = setup.options
    study = studies.open_study(setup.url, options.study, resume=options.resume)
    groups = None if study is None else studies.described(study, setup.identity())
    if groups is None:
        say("ranking layers")
        groups = search_space.group_layers(_ranked(setup, store, log), setup.schemes)
        study = study or studies.create_study(setup.url, options.study)
        studies.describe(study, setup.identity(), groups, search_space.seeds(groups, setup.schemes))
    assert study is not None
    say("asking the fp32 source")
    said = search_trial.asked_source(setup.plan, setup.choose, store, log)
    say(f"lowering uniform {BASE}")
    with search_trial.lowered(setup.plan, search_space.precisions_of((), {}), store, log) as base:
        evaluate = _Evaluator(setup, groups, said, base, store, log)
        studies.run(
            study, groups, evaluate, trials=options.trials, seed=options.seed, bounds=setup.bounds,
            minimize=setup.minimize, told=told,
        )  # fmt: skip
        points, failures = studies.points_of(study, setup.bounds)
        chosen = search_space.chosen_of(points, setup.minimize)
        confirmed = None
        if chosen is not None and setup.confirm is not None:
            say("confirming the chosen point on other texts")
            confirmed = _confirmed(setup, groups, chosen, base, store, log)
    loss = search_trial.lost(setup.plan.source, setup.choose, said, said)
    uniform = next((point for point in points if set(point.schemes.values()) == {BASE}), None)
    front = Front(
        setup.plan.source.name, setup.plan.source.sha256, setup.plan.target.name, setup.format, setup.minimize,
        "" if setup.meter is None else str(setup.meter), setup.bounds, loss.metric, setup.choose.about, setup.choose.n,
        options.seed, groups, points, failures, search_space.front_of(points, setup.minimize),
        None if uniform is None else uniform.number, None if chosen is None else chosen.number,
        _gain(chosen, uniform, setup.minimize), confirmed, "" if chosen is None else _command(setup, groups, chosen),
    )  # fmt: skip
    _write(setup, front)
    if chosen is None:
        raise _nothing(front, setup)
    return front


class _Evaluator:
    """Measures points; uniform int8-dynamic stays open beside them."""

    def __init__(
        self, setup: _Setup, groups: Sequence[Group], said: Sequence[object], base: Bundle, store: Cache, log: Path
    ) -> None:
        self._setup, self._groups, self._said, self._base = setup, groups, said, base
        self._store, self._log = store, log

    def __call__(self, schemes: Mapping[str, str]) -> Outcome:
        from edgellm.stages.search_study import Outcome

        setup = self._setup
        precisions = search_space.precisions_of(self._groups, schemes)
        with search_trial.lowered(setup.plan, precisions, self._store, self._log) as bundle:
            artifact = bundle.manifest.artifacts[0]
            got = search_trial.ask(bundle, setup.choose, self._store)
            cost = None if setup.meter is None else setup.meter.ratio(bundle, self._base)
        drop = search_trial.lost(setup.plan.source, setup.choose, self._said, got).drop
        return Outcome(drop, artifact.bytes, cost, 0.0 if artifact.agreement is None else artifact.agreement.mean)


def _checked(options: Options) -> _Setup:
    """Return the setup, having checked what can be checked without torch."""
    aim = load_target(options.target)
    backends = {fmt: aim.backend(fmt) for fmt in aim.formats}
    if options.format is not None and options.format not in backends:
        raise unknown("format", options.format, backends, hint=f"{aim.name} takes no other.")
    fmt = options.format or next((name for name in backends if backends[name] == name), aim.formats[0])
    if options.minimize not in MINIMIZED:
        raise unknown("cost to minimize", options.minimize, MINIMIZED)
    _check_numbers(options)
    counts = options.minimize != "size" or options.max_cost is not None
    schemes = search_space.schemes_for(backends[fmt], options.schemes, timed=counts)
    meter = meter_for(aim, fmt, "latency" if options.minimize == "size" else options.minimize) if counts else None
    folder = Path(options.out or f"{Path(options.model).name}-{aim.name}-search")
    plan = resolve(
        options.model, target=aim.name, formats=(fmt,), schemes=("int4-dynamic",), task=options.task,
        tokenizer=options.tokenizer, pooling=options.pooling, calibration=options.calibration, ranges=None,
        golden=options.golden, eval=None, max_drop=None, min_agreement=0.0, seq_len=options.seq_len,
        out=str(folder / "bundle"), vocab_from=None, describe=_no_factory,
    )  # fmt: skip
    plan, choose, confirm = _questions(options, plan)
    minimize = options.minimize if meter is None or options.minimize == "size" else meter.kind
    bounds = Bounds(options.max_drop, options.max_size, options.max_cost)
    return _Setup(options, plan, folder, bounds, minimize, schemes, meter, choose, confirm)


def _check_numbers(options: Options) -> None:
    if not options.max_drop >= 0:
        raise UsageError(f"--max-drop is {options.max_drop:g}; it is 0 points or more.")
    if options.max_size is not None and options.max_size <= 0:
        raise UsageError(f"--max-size is {options.max_size}; it is a number of bytes above 0.")
    if options.max_cost is not None and not options.max_cost > 0:
        raise UsageError(f"--max-cost is {options.max_cost:g}; it is a part of uniform {BASE}'s cost, above 0.")
    if options.trials < 1 or options.seed < 0:
        raise UsageError("--trials is 1 or more, --seed 0 or more.")
    if options.test is not None and options.eval is None:
        raise UsageError("--test has no use without --eval.", hint="--eval takes labelled examples that choose.")


def _questions(options: Options, plan: Plan) -> tuple[Plan, Questions, Questions | None]:
    """Return the plan with the texts that calibrate, the questions that choose, and others that confirm."""
    task = load_task(plan.source.task)
    if options.eval is None:
        lines = list(dict.fromkeys(plan.calibration))
        if len(lines) < MIN_TEXTS:
            raise InputError(
                f"{len(lines)} calibration texts are too few to calibrate on some and choose by the others.",
                hint=f"Give {MIN_TEXTS} lines or more, or labelled examples with --eval.",
            )
        kept = lines[:: search_trial.EVERY]
        rest = tuple(line for number, line in enumerate(lines) if number % search_trial.EVERY)
        about = f"every third of {len(lines)} calibration texts; the others calibrate"
        chooses = Questions(about, tuple(task.golden(kept, plan.source.options)))
        return dataclasses.replace(plan, calibration=rest), chooses, None
    examples = read_examples(Path(options.eval), task, plan.source.options)
    name = Path(options.eval).name
    if options.test is None:
        ours, others = search_trial.split(examples)
        if not ours or not others:
            raise InputError(f"{name} holds too few examples to choose by some and confirm on others.")
        about = f"{name}, but about a third that confirms"
        confirm = search_trial.labelled(f"the rest of {name}", others)
    else:
        ours, others = examples, read_examples(Path(options.test), task, plan.source.options)
        about, confirm = name, search_trial.labelled(Path(options.test).name, others)
    texts.ensure_disjoint(
        golden=strings_in(plan.golden), calibration=plan.calibration, evaluation=texts_in(ours), test=texts_in(others)
    )
    return plan, search_trial.labelled(about, ours), confirm


def _ranked(setup: _Setup, store: Cache, log: Path) -> list[Layer]:
    """Return the model's layers with what 4 bits do to each, from the cache or by a job."""
    plan = setup.plan
    facts: dict[str, Any] = {
        "format": setup.format, "texts": plan.calibration, "ranges": plan.ranges, "max_tokens": plan.max_tokens,
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
    setup: _Setup, groups: Sequence[Group], chosen: Point, base: Bundle, store: Cache, log: Path
) -> Confirmed:
    """Return what the chosen point loses on texts that chose nothing."""
    questions = setup.confirm
    assert questions is not None
    said = search_trial.asked_source(setup.plan, questions, store, log)
    precisions = search_space.precisions_of(groups, chosen.schemes)
    with search_trial.lowered(setup.plan, precisions, store, log) as bundle:
        found, uniform = (
            search_trial.lost(setup.plan.source, questions, said, search_trial.ask(each, questions, store))
            for each in (bundle, base)
        )
    return Confirmed(questions.about, questions.n, found.metric, found.source, found.drop, uniform.drop)


def _gain(chosen: Point | None, uniform: Point | None, minimize: str) -> float | None:
    if chosen is None or uniform is None:
        return None
    return 1 - chosen.objectives(minimize)[1] / uniform.objectives(minimize)[1]


def _command(setup: _Setup, groups: Sequence[Group], chosen: Point) -> str:
    """Return the command that builds the chosen point; a gate that it does not reach is lowered openly."""
    options, plan = setup.options, setup.plan
    words = ["edgellm", "build", options.model, "--target", plan.target.name, "--format", setup.format]
    words += ["--scheme", "mixed", "--layers", str(setup.folder / CHOSEN)]
    if search_space.precisions_of(groups, chosen.schemes).calibrates(plan.target.backend(setup.format)):
        # Without labelled texts a third of the calibration texts chose, and must not calibrate now.
        own = str(setup.folder / CALIBRATION) if options.eval is None else options.calibration
        words += ["--calibration", own] if own else []
    for name, value in (
        ("--golden", options.golden), ("--task", options.task), ("--tokenizer", options.tokenizer),
        ("--pooling", options.pooling),
        ("--seq-len", ",".join(map(str, options.seq_len)) if options.seq_len else None),
    ):  # fmt: skip
        words += [name, value] if value else []
    if chosen.golden < 0.99:
        words += ["--min-agreement", f"{int(chosen.golden * 1000) / 1000:g}"]
    return shlex.join(words)


def _write(setup: _Setup, front: Front) -> None:
    from edgellm.stages.search_plot import plot

    text = json.dumps(strict.plain(front), indent=2, ensure_ascii=False, allow_nan=False)
    (setup.folder / FRONT).write_text(text + "\n", encoding="utf-8")
    if front.points:
        plot(front, setup.folder / PLOT)
    if front.chosen is not None:
        precisions = search_space.precisions_of(front.groups, front.point(front.chosen).schemes)
        about = f"Chosen by edgellm search for {front.model}, {front.format} on {front.target}."
        (setup.folder / CHOSEN).write_text(search_space.as_toml(precisions, about), encoding="utf-8")
    if setup.options.eval is None:
        (setup.folder / CALIBRATION).write_text("\n".join(setup.plan.calibration) + "\n", encoding="utf-8")


def _nothing(front: Front, setup: _Setup) -> GateError:
    closest = search_space.closest_of(front.points, front.bounds)
    if closest is None:
        return GateError(
            f"None of {len(front.failures)} trials came to its end.", hint=f"{setup.folder / FRONT} says why."
        )
    bounds = {
        "drop": f"--max-drop {front.bounds.max_drop:g}", "size": f"--max-size {front.bounds.max_size}",
        "cost": f"--max-cost {front.bounds.max_cost}",
    }  # fmt: skip
    broken = " and ".join(bounds[name] for name in closest.broken)
    cost = (
        "" if closest.cost is None else f", {closest.cost:.2f} of uniform {BASE}'s {setup.meter and setup.meter.kind}"
    )
    return GateError(
        f"None of {len(front.points)} points keeps the bounds. The closest, trial {closest.number}, breaks {broken}: "
        f"{closest.drop.points:.2f} points lost, {closest.bytes / 1e6:.2f} MB{cost}.",
        hint=f"Ease that bound, or go on with --resume and more --trials; {setup.folder / FRONT} has every point.",
    )


def _no_factory(name: str) -> dict[str, object]:
    raise InputError(
        f"{name} can't be searched: a function leaves no folder.", hint="Save its module with save_pretrained."
    )
