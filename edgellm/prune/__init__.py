"""Prune: a smaller model that computes less, because heads, feed-forward neurons or whole layers are gone from it.

What goes is ranked by what the loss is expected to change without it (`importance`), in one ranking for all layers (`choose`).
The matrices become smaller (`surgery`), so that every format runs the result faster, and it is a checkpoint like any other.
Zeros strewn among the weights, as unstructured pruning leaves them, make no engine here faster, and are refused.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from pathlib import Path

from edgellm.core import strict
from edgellm.core.prune import Pruned, Quality
from edgellm.distill import quiet_imports, require
from edgellm.errors import GateError
from edgellm.prune.setup import SCHEME, Options, Setup, checked
from edgellm.stages.cache import Cache
from edgellm.stages.disk import disk_errors
from edgellm.stages.produce import answers
from edgellm.stages.search_trial import Lost, lost
from edgellm.stages.source import SourceModel

__all__ = ["Options", "prune"]

Say = Callable[[str], None]


def prune(options: Options, say: Say = lambda what: None) -> Pruned:
    """Prune a model, measure what that changed, and write it.

    Args:
        options: what is asked for.
        say: of progress.

    Raises:
        UsageError: an option is wrong, or so much can't be removed.
        InputError: the model, its architecture or the data can't be used.
        GateError: it lost more than was allowed; nothing is written.
        DeviceError: the machine failed; nothing is written.
        MissingDependencyError: an extra is not installed.

    """
    if options.recover:
        require()
    setup = checked(options)
    with disk_errors("Nothing was written."):
        store = Cache.default()
        with store.workspace() as work:
            return _prune(setup, store, work, say)


def _prune(setup: Setup, store: Cache, work: Path, say: Say) -> Pruned:
    with quiet_imports():
        from edgellm.prune import work as steps
    from edgellm.prune.recover import recover
    from edgellm.prune.speed import measure_speed
    from edgellm.prune.write import publish

    options, source = setup.options, setup.source
    if options.threads is not None:
        import torch

        torch.set_num_threads(options.threads)
    folder = work / "pruned"
    smaller = steps.shrink(setup, folder, say)
    say(f"measuring on {setup.confirm.n} examples")
    said = _answers(setup, source, store, work / "source")
    first = _lost(setup, said, _answers(setup, steps.pruned_source(source, folder), store, work / "first"))
    last = first
    if options.recover:
        say(f"{first.metric} {_score(first):.4f}; {options.recover} epochs of distillation follow")
        folder = recover(setup, folder, work)
        last = _lost(setup, said, _answers(setup, steps.pruned_source(source, folder), store, work / "last"))
    quality = Quality(
        first.metric, setup.confirm.about, setup.confirm.n, first.source, _score(first),
        _score(last) if options.recover else None, last.drop,
    )  # fmt: skip
    gate(quality, setup)
    speed = None
    if options.measure:
        say("building both models, and measuring their latency")
        speed = measure_speed(
            source,
            folder,
            formats=options.formats,
            scheme=options.scheme or SCHEME,
            max_tokens=setup.max_tokens,
            work=work,
        )
    found = Pruned(
        source.name, source.sha256, str(setup.out), source.task, setup.structures, options.sparsity,
        1.0 - smaller.encoder.share, _how(source), setup.chose_on, smaller.layers, smaller.encoder, smaller.parameters,
        smaller.macs, setup.max_tokens, quality, speed,
    )  # fmt: skip
    publish(folder, setup.out, strict.plain(found))
    return found


def _answers(setup: Setup, source: SourceModel, store: Cache, work: Path) -> list[object]:
    work.mkdir()
    log = store.root / "logs" / f"prune-{time.time_ns()}-{os.getpid()}.log"
    return answers(source, setup.confirm.inputs, setup.max_tokens, store, work, log)


def _lost(setup: Setup, said: list[object], got: list[object]) -> Lost:
    return lost(setup.source, setup.confirm, said, got)


def _score(found: Lost) -> float:
    return (1.0 if found.source is None else found.source) - found.drop.points / 100


def gate(quality: Quality, setup: Setup) -> None:
    """Refuse a model that lost too much.

    Raises:
        GateError: it did.

    """
    options = setup.options
    if not math.isfinite(quality.lost.points):
        raise GateError(
            f"What {setup.source.name} loses of {quality.metric} by --sparsity {options.sparsity:g} is no number, on {quality.n} "
            f"examples of {quality.data}. Nothing was written.",
            hint="Remove less, or measure on other examples.",
        )
    if quality.lost.points > options.max_drop:
        longer = "Recover it with more epochs" if options.recover else "Recover it by distillation (--recover EPOCHS)"
        raise GateError(
            f"{setup.source.name} loses {quality.lost.points:.1f} points of {quality.metric} by --sparsity {options.sparsity:g} "
            f"(95 % interval {quality.lost.low:.1f} to {quality.lost.high:.1f}, {quality.n} examples of {quality.data}); "
            f"--max-drop is {options.max_drop:g}. Nothing was written.",
            hint=f"{longer}, remove less, or allow more.",
        )


def _how(source: SourceModel) -> str:
    if source.task == "feature-extraction":
        return "the change of the output to second order (diagonal of Gauss-Newton)"
    return "the change of the task's loss (squared Taylor score, diagonal of the empirical Fisher matrix)"
