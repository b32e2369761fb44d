"""Measure: builds a model with a scheme, asks it the dev examples, and compares it with the baseline in fp32."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgellm.core.optimize import Measured
from edgellm.errors import DeviceError, EdgellmError, MissingDependencyError
from edgellm.optimize.recipe import Setup, calibration, in_keys
from edgellm.pipeline import build
from edgellm.runtime.bundle import Bundle
from edgellm.stages.cache import Cache
from edgellm.stages.search_trial import Lost, Questions, ask, lost
from edgellm.stages.source import SourceModel, read_source


def built(setup: Setup, model: Path, scheme: str, out: Path) -> Bundle:
    """Return the bundle of a model; one that is there already is opened.

    Raises:
        GateError: it does not give the answers of its own fp32 model.
        EdgellmError: see `build`.

    """
    if out.is_dir():
        return Bundle.open(out)
    recipe = setup.recipe
    return build(
        model, target=recipe.target, formats=(setup.format,), scheme=scheme, task=recipe.task, tokenizer=recipe.tokenizer,
        pooling=recipe.pooling, calibration=calibration(recipe, setup.format, scheme), golden=recipe.data.golden,
        min_agreement=recipe.min_agreement, min_exact=recipe.min_exact, seq_len=recipe.seq_len, out=out,
    )  # fmt: skip


def measured(
    setup: Setup, model: Path, scheme: str, said: Sequence[object], base: Bundle, store: Cache, out: Path
) -> Measured:
    """Return what an artifact loses, weighs and costs; of one that can't be built, why not.

    Args:
        setup: of the optimization.
        model: its folder.
        scheme: of the artifact.
        said: the baseline's answers in fp32 to the dev examples.
        base: the baseline's fp32 bundle.
        store: keeps answers.
        out: folder of the bundle.

    """
    try:
        bundle = built(setup, model, scheme, out)
    except (DeviceError, MissingDependencyError):
        raise
    except EdgellmError as error:
        reason = error.args[0].partition("\n\n")[0]  # a table of every pair follows, and there is one format
        return Measured(scheme, None, None, None, None, refused=in_keys(reason))
    found = compared(setup, setup.dev, said, bundle, store)
    cost = None if setup.meter is None else setup.meter.ratio(bundle, base)
    return Measured(scheme, score(found), found.drop, bundle.manifest.artifacts[0].bytes, cost, bundle=str(out))


def compared(setup: Setup, questions: Questions, said: Sequence[object], bundle: Bundle, store: Cache) -> Lost:
    """Return what a bundle's artifact loses against the baseline's answers."""
    return lost(setup.plan.source, questions, said, ask(bundle, questions, store))


def score(found: Lost) -> float | None:
    """Return an artifact's value of the metric; None where there is none but agreement."""
    return None if found.source is None else found.source - found.drop.points / 100


def described(setup: Setup, folder: Path) -> SourceModel:
    """Return the description of a model that came of the baseline."""
    source = setup.source
    pooling = source.options.pooling if source.task == "feature-extraction" else None
    return read_source(
        str(folder), task=source.task, tokenizer=setup.recipe.tokenizer, pooling=pooling, describe=lambda name: {}
    )
