"""What a search is asked for, and everything that it needs, checked before torch is loaded."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from edgellm.backends._vendor_sdks import ensure_sdk
from edgellm.core import strict
from edgellm.core.scheme import MIXING, PORTABLE, SCHEMES
from edgellm.core.search import MINIMIZED, Bounds
from edgellm.core.target import Target
from edgellm.errors import InputError, UsageError, unknown
from edgellm.search.cost import Meter, meter_for
from edgellm.stages import search_space, search_trial, texts
from edgellm.stages.examples import read_examples, strings_in, texts_in
from edgellm.stages.plan import Plan, resolve
from edgellm.stages.search_trial import Questions
from edgellm.targets import load_target
from edgellm.tasks import load_task

STUDY = "study.db"
"""The study, in the search's folder, where no other storage is named."""

DEFAULT_TRIALS = 30
MIN_TEXTS = 18
"""Calibration texts at least where there are no labelled ones: a third of them chooses."""

_COSTS = {"qnn": "Qualcomm's compiler estimates no time that could choose between them"}
_NOT_RUN = "nothing here runs what is lowered for it, so that there is no cost that could choose"
"""Why what is known of a backend's cost decides nothing."""


@dataclass(frozen=True)
class Options:
    """What the user asked for; paths as they were given, so that the command that is printed has them.

    Attributes:
        model: a folder written by `save_pretrained`.
        target: name of a target.
        format: one that its CPU or an Ethos-U runs; the target's first if None.
        minimize: a key of `core.search.MINIMIZED`.
        max_drop: points that may be lost against the fp32 source on the texts that choose.
        max_size: bytes of the artifact.
        max_cost: time, instructions or estimate, as a part of the base's.
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
class Setup:
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
        """The one that is lowered to."""
        return self.plan.formats[0]

    @property
    def base(self) -> str:
        """The scheme of what everything is compared with, in all layers."""
        return search_space.base_of(self.plan.target.backend(self.format))

    @property
    def url(self) -> str:
        """Of Optuna's storage."""
        return self.options.storage or f"sqlite:///{(self.folder / STUDY).absolute()}"

    def identity(self) -> dict[str, object]:
        """Return what has to be the same for a study to go on."""
        return {
            "model": self.plan.source.sha256, "target": self.plan.target.name, "format": self.format,
            "lengths": list(self.plan.buckets), "minimize": self.minimize, "bounds": strict.plain(self.bounds),
            "schemes": list(self.schemes), "seed": self.options.seed, "data": self.choose.digest,
            "calibration": Questions("", self.plan.calibration).digest,
            "measured on": "" if self.meter is None else str([self.meter.kind, *self.meter.places]),
        }  # fmt: skip


def checked(options: Options) -> Setup:
    """Return the setup, having checked what can be checked without torch."""
    if ":" in options.model:
        raise InputError(
            f"{options.model} can't be searched: a function leaves no folder.",
            hint="Save its module with save_pretrained, and give that folder.",
        )
    aim = load_target(options.target)
    backends = {fmt: aim.backend(fmt) for fmt in aim.formats}
    if options.format is not None and options.format not in backends:
        raise unknown("format", options.format, backends, hint=f"{aim.name} takes no other.")
    fmt = options.format or aim.formats[0]
    if options.minimize not in MINIMIZED:
        raise unknown("cost to minimize", options.minimize, MINIMIZED)
    _check_numbers(options)
    _ensure_choice(aim, fmt)
    if options.minimize == "size" and backends[fmt] not in PORTABLE:
        raise UsageError(
            f"Artifacts for {aim.name} differ in time and not in size, as weights have 8 bits in each.",
            hint="Use --minimize latency.",
        )
    counts = options.minimize != "size" or options.max_cost is not None
    schemes = search_space.schemes_for(backends[fmt], options.schemes, timed=counts)
    if len(schemes) < 2:
        raise UsageError(
            f"Layers have nothing to choose among but {schemes[0]}.",
            hint="Name other schemes with --scheme, or leave it out.",
        )
    meter = meter_for(aim, fmt, "latency" if options.minimize == "size" else options.minimize) if counts else None
    folder = Path(options.out or f"{Path(options.model).name}-{aim.name}-search")
    calibrates = search_space.coarser_than(search_space.base_of(backends[fmt])) if backends[fmt] in PORTABLE else None
    plan = resolve(
        options.model, target=aim.name, formats=(fmt,), schemes=(calibrates,) if calibrates else (), task=options.task,
        tokenizer=options.tokenizer, pooling=options.pooling, calibration=options.calibration, ranges=None,
        golden=options.golden, eval=None, max_drop=None, min_agreement=0.0, seq_len=options.seq_len,
        out=str(folder / "bundle"), vocab_from=None, describe=lambda name: {},
    )  # fmt: skip
    plan, choose, confirm = _questions(options, plan)
    minimize = options.minimize if meter is None or options.minimize == "size" else meter.kind
    bounds = Bounds(options.max_drop, options.max_size, options.max_cost)
    return Setup(options, plan, folder, bounds, minimize, schemes, meter, choose, confirm)


def _ensure_choice(aim: Target, fmt: str) -> None:
    """Check that layers of a target's format can have schemes of their own, between which a cost could decide.

    Raises:
        UsageError: its delegate takes one for the whole model; says what there is to know of its cost, and what to do.
        MissingDependencyError: the delegate is one that only its vendor's SDK lowers for.

    """
    backend = aim.backend(fmt)
    if backend in MIXING:
        return
    ensure_sdk(aim.delegates[fmt])
    able = " or ".join(name for name in SCHEMES if backend in SCHEMES[name].backends)
    cpu = [name for name in aim.formats if aim.backend(name) in PORTABLE]
    other = f"for its CPU, --format {cpu[0]}" if cpu else "for a CPU, as --target android-arm64"
    raise UsageError(
        f"There is nothing to search for {aim.name} in {fmt}: {aim.delegates[fmt]} takes one scheme for the whole model, "
        f"{able}, and {_COSTS.get(backend, _NOT_RUN)}.",
        hint=f"Build it, 'edgellm build --target {aim.name} --format {fmt} --scheme {aim.scheme_of(fmt)}', or search {other}.",
    )


def _check_numbers(options: Options) -> None:
    if not options.max_drop >= 0:
        raise UsageError(f"--max-drop is {options.max_drop:g}; it is 0 points or more.")
    if options.max_size is not None and options.max_size <= 0:
        raise UsageError(f"--max-size is {options.max_size}; it is a number of bytes above 0.")
    if options.max_cost is not None and not options.max_cost > 0:
        raise UsageError(f"--max-cost is {options.max_cost:g}; it is a part of the uniform artifact's cost, above 0.")
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
