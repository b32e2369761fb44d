"""Reads a recipe, and checks what it names before torch is loaded."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgellm.core import strict
from edgellm.core.optimize import Budget, Data, Goal, Recipe, Shrink, Tune
from edgellm.core.precision import Precisions
from edgellm.core.scheme import PORTABLE, SCHEMES
from edgellm.distill import require
from edgellm.errors import EdgellmError, InputError, MissingDependencyError, UsageError, unknown
from edgellm.prune.setup import questions_of, read_data
from edgellm.search.cost import Meter, meter_for
from edgellm.stages import texts
from edgellm.stages.examples import strings_in, texts_in
from edgellm.stages.plan import Plan, resolve
from edgellm.stages.put import check_parent
from edgellm.stages.rows import read_text
from edgellm.stages.search_trial import Questions
from edgellm.stages.source import SourceModel, check_folder, read_source
from edgellm.targets import load_target
from edgellm.tasks import Example

TRAINED = ("text-classification", "token-classification", "feature-extraction", "ctc-seq2seq")
"""Tasks whose models are trained here."""

FP32 = "fp32"

MODEL, BUNDLE, STEPS = "model", "bundle", "steps"
"""In the folder of an optimization: the chosen ones, and all steps that were ever made."""

MARK = "edgellm-optimize"
"""File among the steps, by which a folder is known to be an optimization's."""

_KEYS = {
    field.name: field.name
    for table in (Recipe, Data, Goal, Budget, Tune, Shrink)
    for field in dataclasses.fields(table)
}
_KEYS |= {"scheme": "schemes", "data": "train", "recover": "epochs"}
"""Options of the commands that a recipe stands for, in its own words."""


@dataclass(frozen=True)
class Setup:
    """What an optimization needs, all checked.

    Attributes:
        recipe: as it was read, its paths made absolute.
        out: folder for everything.
        source: the baseline.
        plans: scheme to the plan of the baseline's build, "fp32" included, in one format.
        train: what models learn from.
        dev: what every step is asked.
        test: what the result is asked, or None.
        meter: how cost is measured; None where it is not.

    """

    recipe: Recipe
    out: Path
    source: SourceModel
    plans: dict[str, Plan]
    train: tuple[Example, ...]
    dev: Questions
    test: Questions | None
    meter: Meter | None

    @property
    def plan(self) -> Plan:
        """The plan of the baseline's fp32 build."""
        return self.plans[FP32]

    @property
    def format(self) -> str:
        """The one that is built."""
        return self.plan.formats[0]


def read_recipe(path: Path) -> Recipe:
    """Return a recipe, its paths made absolute: they are relative to the file.

    Raises:
        InputError: the file can't be read, or holds what a recipe has not.
        UsageError: a value is out of its range.

    """
    try:
        recipe = strict.read(Recipe, tomllib.loads(read_text(path, "recipe")), str(path))
    except (tomllib.TOMLDecodeError, strict.StrictError) as error:
        name = "" if str(error).startswith(str(path)) else f"{path}: "
        raise InputError(f"{name}{error}.", hint="'edgellm optimize --help' shows a recipe.") from None
    except UsageError as error:
        raise UsageError(f"{path}: {error.args[0]}", hint=error.hint) from None
    home = path.resolve().parent

    def absolute(value: str | None) -> str | None:
        return None if value is None else os.path.normpath(home / Path(value).expanduser())

    data = recipe.data
    files = dataclasses.replace(
        data, train=str(absolute(data.train)), dev=str(absolute(data.dev)), test=absolute(data.test),
        calibration=absolute(data.calibration), golden=absolute(data.golden),
    )  # fmt: skip
    return dataclasses.replace(
        recipe, model=str(absolute(recipe.model)), out=str(absolute(recipe.out)), teacher=absolute(recipe.teacher),
        tokenizer=absolute(recipe.tokenizer), data=files,
    )  # fmt: skip


def in_keys(message: str) -> str:
    """Return what a build, a pruning or a training says of its options, as said of a recipe's keys."""
    return re.sub(r"--([a-z][a-z-]*[a-z])", lambda found: _KEYS.get(found[1].replace("-", "_"), found[0]), message)


def checked(recipe: Recipe) -> Setup:
    """Return the setup.

    Raises:
        UsageError: a key is wrong, or the combination impossible.
        InputError: a model or a file can't be used.
        MissingDependencyError: an extra is not installed, or the emulator not set up.

    """
    try:
        return _checked(recipe)
    except (UsageError, InputError) as error:
        kind: type[EdgellmError] = type(error)
        raise kind(in_keys(error.args[0]), hint=in_keys(error.hint)) from None


def _checked(recipe: Recipe) -> Setup:
    require()
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingDependencyError(
            "The picture of an optimization needs matplotlib.", hint="Install it with: pip install 'edgellm[search]'"
        )
    out = _out(recipe)
    plans = _plans(recipe)
    source = plans[FP32].source
    _check_moves(recipe, source)
    parts = {
        name: read_data(Path(file), source)
        for name, file in (("train", recipe.data.train), ("dev", recipe.data.dev), ("test", recipe.data.test))
        if file is not None
    }
    held = {name: _texts(parts[name]) for name in parts if name != "train"}
    texts.ensure_disjoint(train=_texts(parts["train"]), **held)
    tuned = {text: None for plan in plans.values() for text in (*plan.calibration, *strings_in(plan.golden))}
    texts.ensure_disjoint(**{"calibration and golden": tuned}, **held)
    dev = questions_of(Path(recipe.data.dev).name, parts["dev"])
    if recipe.goal.min_score is not None and not dev.examples:
        raise UsageError(
            "min_score has no use: the dev texts have no labels, so that nothing but agreement is measured."
        )
    test = questions_of(Path(str(recipe.data.test)).name, parts["test"]) if "test" in parts else None
    return Setup(recipe, out, source, plans, tuple(parts["train"]), dev, test, _meter(recipe, plans[FP32]))


def calibration(recipe: Recipe, fmt: str, scheme: str) -> str | None:
    """Return the file of calibration texts where a scheme has a use for it."""
    calibrates = Precisions(scheme).calibrates(load_target(recipe.target).backend(fmt))
    return recipe.data.calibration if calibrates else None


def _out(recipe: Recipe) -> Path:
    """Return the folder for everything: a new or empty one, or that of an earlier optimization, apart from what is read."""
    out = Path(recipe.out)
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is no folder.", hint="Name another 'out'.")
    if out.is_dir() and any(out.iterdir()) and not (out / STEPS / MARK).is_file():
        raise UsageError(f"{out} holds something that no optimization wrote.", hint="Name another 'out'.")
    data = recipe.data
    for path in (recipe.model, recipe.teacher, data.train, data.dev, data.test, data.calibration, data.golden):
        if path is not None and Path(path).resolve().is_relative_to(out.resolve()):
            raise UsageError(f"{path} lies in 'out', where things are replaced.", hint="Name another 'out'.")
    check_parent(out)
    return out


def _plans(recipe: Recipe) -> dict[str, Plan]:
    """Return the plan of each scheme, and of fp32, everything about the builds checked."""
    target = load_target(recipe.target)
    fmt = recipe.format or target.formats[0]
    if fmt not in target.formats:
        raise unknown("format", fmt, target.formats, hint=f"{target.name} takes no other.")
    if target.backend(fmt) not in PORTABLE:
        raise UsageError(
            f"{fmt} for {target.name} can't be optimized: its cost is compared with the baseline's in fp32, which is not run for "
            f"{target.delegates[fmt]}.",
            hint=f'Optimize for a CPU, as target = "android-arm64", and build what comes of it for {target.name}.',
        )
    schemes = tuple(dict.fromkeys((FP32, *recipe.schemes)))
    for scheme in schemes:
        if scheme not in SCHEMES:
            raise unknown("scheme", scheme, SCHEMES)
    if recipe.data.calibration is not None and not any(calibration(recipe, fmt, scheme) for scheme in schemes):
        raise UsageError(f"calibration has no use: {', '.join(recipe.schemes)} in {fmt} runs no samples.")
    return {
        scheme: resolve(
            recipe.model, target=recipe.target, formats=(fmt,), schemes=(scheme,), task=recipe.task,
            tokenizer=recipe.tokenizer, pooling=recipe.pooling, calibration=calibration(recipe, fmt, scheme), ranges=None,
            golden=recipe.data.golden, eval=None, max_drop=None, min_agreement=recipe.min_agreement,
            min_exact=recipe.min_exact, seq_len=recipe.seq_len, out=str(Path(recipe.out) / BUNDLE), vocab_from=None,
            describe=_no_factory,
        )
        for scheme in schemes
    }  # fmt: skip


def _check_moves(recipe: Recipe, source: SourceModel) -> None:
    trains = recipe.tune is not None or any(rung.epochs for rung in recipe.shrink)
    if source.task not in TRAINED and (trains or recipe.shrink):
        raise UsageError(
            f"Models of {source.task} are not trained here; those of {', '.join(TRAINED)} are.",
            hint="A recipe without [tune] and [[shrink]] compares schemes alone.",
        )
    if trains and (recipe.pooling is not None or recipe.tokenizer is not None):
        raise UsageError(
            "pooling and tokenizer are read from the model's own folder where it is trained.", hint="Put them there."
        )
    if source.task == "feature-extraction" and recipe.tune is not None:
        raise UsageError("[tune] has no use for a sentence encoder: it has no labels to be trained on.")
    layers = [rung.layers for rung in recipe.shrink if rung.layers is not None]
    if source.task == "ctc-seq2seq" and layers:
        raise UsageError(
            "layers has no use for ctc-seq2seq, which has two stacks of them.",
            hint='Use sparsity with structure = "layers".',
        )
    config = json.loads((Path(recipe.model) / "config.json").read_text(encoding="utf-8"))
    count = config.get("num_hidden_layers", config.get("n_layers"))
    if layers and isinstance(count, int) and max(layers) >= count:
        raise UsageError(f"layers is {max(layers)}, and {source.name} has {count}.", hint="Name fewer.")
    if recipe.teacher is not None:
        check_folder(Path(recipe.teacher))
        if source.task != "ctc-seq2seq":  # whose teacher may answer token by token
            theirs = read_source(recipe.teacher, task=recipe.task, tokenizer=None, pooling=None, describe=_no_factory)
            if theirs.task != source.task:
                raise InputError(f"The teacher is of {theirs.task}, the model of {source.task}.")


def _meter(recipe: Recipe, plan: Plan) -> Meter | None:
    """Return how cost is measured: where it is asked for, or costs nothing but time on this machine."""
    try:
        meter = meter_for(plan.target, plan.formats[0], "latency")
    except (UsageError, MissingDependencyError):
        if recipe.goal.max_cost is None:
            return None
        raise
    return meter if recipe.goal.max_cost is not None or meter.kind == "latency" else None


def _texts(examples: Sequence[Example]) -> list[str]:
    return [text for text in texts_in(examples) if text.strip()]


def _no_factory(name: str) -> dict[str, Any]:
    raise InputError(f"{name} can't be optimized: a function leaves no folder to rewrite.")
