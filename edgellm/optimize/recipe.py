"""Reads a recipe, and checks everything that it names before torch is loaded."""

from __future__ import annotations

import dataclasses
import importlib.util
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgellm.core import strict
from edgellm.core.optimize import Recipe
from edgellm.core.precision import Precisions
from edgellm.core.scheme import PORTABLE
from edgellm.distill import require
from edgellm.errors import InputError, MissingDependencyError, UsageError
from edgellm.prune.setup import questions_of, read_data
from edgellm.search.cost import Meter, meter_for
from edgellm.stages import texts
from edgellm.stages.examples import texts_in
from edgellm.stages.plan import Plan, resolve
from edgellm.stages.put import check_parent
from edgellm.stages.rows import read_text
from edgellm.stages.search_trial import Questions
from edgellm.stages.source import SourceModel, read_source
from edgellm.targets import load_target
from edgellm.tasks import Example

TRAINED = ("text-classification", "token-classification", "feature-extraction", "ctc-seq2seq")
"""Tasks whose models are trained here."""

MODEL, BUNDLE = "model", "bundle"
"""The chosen ones, in the folder of an optimization."""


@dataclass(frozen=True)
class Setup:
    """What an optimization needs, all checked.

    Attributes:
        recipe: as it was read, its paths made absolute.
        out: folder for everything.
        source: the baseline.
        plan: of the baseline's fp32 build, in one format.
        max_tokens: longest text that is read whole.
        dev: what every step is asked.
        test: what the result is asked, or None.
        meter: how cost is measured; None where it is not.

    """

    recipe: Recipe
    out: Path
    source: SourceModel
    plan: Plan
    dev: Questions
    test: Questions | None
    meter: Meter | None

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
        raise InputError(f"{name}{error}.", hint="samples/finetune/optimize.toml is a recipe.") from None
    except UsageError as error:
        raise UsageError(f"{path}: {error.args[0]}", hint=error.hint) from None
    home = path.resolve().parent

    def absolute(value: str | None) -> str | None:
        return None if value is None else str(home / Path(value).expanduser())

    data = recipe.data
    files = dataclasses.replace(
        data, train=str(absolute(data.train)), dev=str(absolute(data.dev)), test=absolute(data.test),
        calibration=absolute(data.calibration), golden=absolute(data.golden),
    )  # fmt: skip
    return dataclasses.replace(
        recipe, model=str(absolute(recipe.model)), out=str(absolute(recipe.out)), teacher=absolute(recipe.teacher),
        tokenizer=absolute(recipe.tokenizer), data=files,
    )  # fmt: skip


def checked(recipe: Recipe) -> Setup:
    """Return the setup.

    Raises:
        UsageError: an option is wrong, or the combination impossible.
        InputError: a model or a file can't be used.
        MissingDependencyError: an extra is not installed, or the emulator not set up.

    """
    require()
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingDependencyError(
            "The picture of an optimization needs matplotlib.", hint="Install it with: pip install 'edgellm[search]'"
        )
    target = load_target(recipe.target)
    fmt = recipe.format or target.formats[0]
    if fmt in target.formats and target.backend(fmt) not in PORTABLE:
        raise UsageError(
            f"{fmt} for {target.name} can't be optimized: its cost is compared with the baseline's in fp32, which is not run for "
            f"{target.delegates[fmt]}.",
            hint=f'Optimize for a CPU, as target = "android-arm64", and build what comes of it for {target.name}.',
        )
    plan = planned(recipe, fmt, "fp32", recipe.model)
    source = plan.source
    _check_moves(recipe, source)
    for scheme in dict.fromkeys(recipe.schemes):
        planned(recipe, fmt, scheme, recipe.model)
    out = Path(recipe.out)
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is no folder.", hint="Name another 'out'.")
    check_parent(out)
    parts = {
        name: read_data(Path(file), source)
        for name, file in (("train", recipe.data.train), ("dev", recipe.data.dev), ("test", recipe.data.test))
        if file is not None
    }
    texts.ensure_disjoint(**{name: _texts(examples) for name, examples in parts.items()})
    dev = questions_of(Path(recipe.data.dev).name, parts["dev"])
    if recipe.goal.min_score is not None and not dev.examples:
        raise UsageError(
            "min_score has no use: the dev texts have no labels, so that nothing but agreement is measured."
        )
    test = questions_of(Path(str(recipe.data.test)).name, parts["test"]) if "test" in parts else None
    return Setup(recipe, out, source, plan, dev, test, _meter(recipe, plan))


def planned(recipe: Recipe, fmt: str, scheme: str, model: str) -> Plan:
    """Return the plan of a build, everything about it checked."""
    return resolve(
        model, target=recipe.target, formats=(fmt,), schemes=(scheme,), task=recipe.task, tokenizer=recipe.tokenizer,
        pooling=recipe.pooling, calibration=calibration(recipe, fmt, scheme), ranges=None, golden=recipe.data.golden,
        eval=None, max_drop=None, min_agreement=recipe.min_agreement, seq_len=recipe.seq_len,
        out=str(Path(recipe.out) / BUNDLE), vocab_from=None, describe=_no_factory,
    )  # fmt: skip


def calibration(recipe: Recipe, fmt: str, scheme: str) -> str | None:
    """Return the file of calibration texts where a scheme has a use for it."""
    target = load_target(recipe.target)
    if recipe.data.calibration is None or fmt not in target.formats:
        return None
    return recipe.data.calibration if Precisions(scheme).calibrates(target.backend(fmt)) else None


def _check_moves(recipe: Recipe, source: SourceModel) -> None:
    if source.task not in TRAINED and (recipe.tune or recipe.shrink):
        raise UsageError(
            f"Models of {source.task} are not trained here; those of {', '.join(TRAINED)} are.",
            hint="A recipe without [tune] and [[shrink]] compares schemes alone.",
        )
    if source.task == "feature-extraction" and recipe.tune is not None:
        raise UsageError("[tune] has no use for a sentence encoder: it has no labels to be trained on.")
    if source.task == "ctc-seq2seq" and any(rung.layers is not None for rung in recipe.shrink):
        raise UsageError(
            "layers has no use for ctc-seq2seq, which has two stacks of them.",
            hint='Use sparsity with structure = "layers".',
        )
    if recipe.teacher is not None and source.task != "ctc-seq2seq":  # that may answer token by token
        theirs = read_source(
            recipe.teacher, task=recipe.task, tokenizer=None, pooling=recipe.pooling, describe=_no_factory
        )
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


def _texts(examples: list[Example]) -> list[str]:
    return [text for text in texts_in(examples) if text.strip()]


def _no_factory(name: str) -> dict[str, Any]:
    raise InputError(f"{name} can't be optimized: a function leaves no folder to rewrite.")
