"""Models: does what a move says, and leaves an ordinary model folder. What was done already is not done again."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

from edgellm.core.optimize import Move
from edgellm.core.training import Training
from edgellm.optimize.recipe import Setup
from edgellm.prune.setup import Options
from edgellm.tasks import Example

_BATCH = 32

Say = Callable[[str], None]


class OutOfTimeError(Exception):
    """The budget ended in the middle of a training, which goes on from its checkpoint another time."""


def make(
    setup: Setup,
    move: Move,
    begins: Path,
    teacher: Path,
    folder: Path,
    *,
    left: Callable[[], float | None],
    quiet: bool,
    say: Say,
) -> Path:
    """Return the folder of the model that a move leads to.

    Args:
        setup: of the optimization.
        move: any but the baseline.
        begins: model that it begins from.
        teacher: model to learn from.
        folder: of the step.
        left: tells the seconds that are left; None for no bound.
        quiet: whether no bar is shown.
        say: of progress.

    Raises:
        OutOfTimeError: the training did not end in these.
        EdgellmError: see `prune` and `distill_encoder`.

    """
    made, start = folder / "model", begins
    if made.is_dir():
        return made
    if move.kind == "layers":
        start = _shortened(setup, move, begins, folder / "start")
    elif move.kind == "prune":
        start = _pruned(setup, move, begins, folder / "start", say)
    if not move.epochs:
        return start
    seconds = left()
    training = Training(
        epochs=move.epochs, batch=_BATCH, rate=move.rate, seed=setup.recipe.seed, precision=setup.recipe.precision,
        threads=setup.recipe.threads, seconds=None if seconds is None else max(1.0, seconds),
    )  # fmt: skip
    if setup.source.task == "ctc-seq2seq":
        status = _sequences(setup, move, start, teacher, made, training, quiet)
    else:
        status = _encoder(setup, move, start, teacher, made, training, quiet)
    if status != "finished":
        raise OutOfTimeError
    shutil.rmtree(folder / "start", ignore_errors=True)
    return made


def _shortened(setup: Setup, move: Move, begins: Path, folder: Path) -> Path:
    from transformers.utils import logging

    from edgellm.distill.shorten import shorten
    from edgellm.optimize.measure import described

    if not folder.is_dir():
        assert move.layers is not None
        logging.disable_progress_bar()
        partial = folder.with_name("start.partial")
        shutil.rmtree(partial, ignore_errors=True)
        shorten(described(setup, begins), move.layers, None, partial)
        partial.replace(folder)
    return folder


def _pruned(setup: Setup, move: Move, begins: Path, folder: Path, say: Say) -> Path:
    from edgellm.prune import prune

    if not folder.is_dir():
        recipe = setup.recipe
        assert move.sparsity is not None
        assert move.structure is not None
        say("pruning")
        prune(
            Options(
                str(begins), move.sparsity, move.structure, data=recipe.data.train, test=recipe.data.dev, max_drop=_ANY,
                out=str(folder), task=recipe.task, tokenizer=recipe.tokenizer, pooling=recipe.pooling, measure=False,
                seed=recipe.seed, threads=recipe.threads, quiet=True, max_tokens=setup.plan.max_tokens,
            )
        )  # fmt: skip
    return folder


_ANY = 1e9
"""Points that pruning may lose: what decides is measured after the distillation."""


def _encoder(
    setup: Setup, move: Move, start: Path, teacher: Path, out: Path, training: Training, quiet: bool
) -> str:  # fmt: skip
    from edgellm.distill.encoders import distill_encoder

    data, labels = setup.recipe.data, move.kind == "tune"
    return distill_encoder(
        start if labels else teacher, out, student=start, data=Path(data.train), dev=Path(data.dev), task=setup.source.task,
        hard=1.0 if labels else 0.5, hidden=0.0 if labels else 1.0, training=training, quiet=quiet,
        max_tokens=setup.plan.max_tokens,
    ).trained.status  # fmt: skip


def _sequences(setup: Setup, move: Move, start: Path, teacher: Path, out: Path, training: Training, quiet: bool) -> str:
    from edgellm.distill.sequences import distill_sequences

    labels = move.kind == "tune"
    soft = 0.0 if labels or setup.recipe.teacher else 1.0  # the baseline answers in the same slots
    train, dev = (
        _pairs(examples, out.with_name(f"{name}.tsv"))
        for name, examples in (("train", setup.train), ("dev", setup.dev.examples))
    )
    found = distill_sequences(
        teacher=None if labels else teacher, tokenizer=start, student=str(start), data=train, dev=dev, out=out,
        training=training, labels=None if labels else setup.out / "labels", soft=soft, quiet=quiet,
    )  # fmt: skip
    assert found is not None
    return found.trained.status


def _pairs(examples: Sequence[Example], path: Path) -> Path:
    """Write examples as a training of sequences reads them, whatever kind of file they are from."""
    rows = [
        f"{' '.join(str(example.inputs[0]).split())}\t{target}\n"
        for example in examples
        for target in cast("tuple[str, ...]", example.gold)
    ]
    path.write_text("".join(dict.fromkeys(rows)), encoding="utf-8")
    return path
