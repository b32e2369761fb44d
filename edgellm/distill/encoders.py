"""Distils an encoder: a classifier, a tagger or a sentence encoder learns from a larger one.

The working folder lies beside the output, `OUT.training`: checkpoints, TensorBoard's logs, and the student that it begins
as. The output takes its place at once when all is done, and the working folder is deleted then.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from torch import nn

from edgellm.core import strict
from edgellm.core.distill import DistilledEncoder, Signals, StudentScore
from edgellm.core.training import Training
from edgellm.distill import judged
from edgellm.distill.finished import check_out, working, write
from edgellm.distill.labelled import Texts, collate, encode, kind_of, metric_key, read_parts, reduced, scored
from edgellm.distill.learner import Learner
from edgellm.distill.shorten import copy_beside, save, shorten
from edgellm.distill.sides import Side, pair, read_side
from edgellm.distill.students import STUDENTS, teaches_sequences
from edgellm.errors import UsageError
from edgellm.stages.disk import disk_errors
from edgellm.stages.examples import strings_in
from edgellm.stages.source import SourceModel, identity
from edgellm.tasks._torch import Wrapped
from edgellm.training.fit import fit, prepare
from edgellm.training.processes import rank

MAX_TOKENS = 128
"""Where texts are cut unless something else is asked for: the longest that a bundle takes by default."""


@disk_errors("What was there at --out is as it was.")
def distill_encoder(
    teacher: Path, out: Path, *, student: Path | int, data: Path, dev: Path | None = None, test: Path | None = None,
    task: str | None = None, temperature: float = 2.0, hard: float = 0.5, hidden: float = 1.0, attention: float = 0.0,
    match: str = "mse", attend: str = "relations", smoothing: float = 0.0, training: Training, quiet: bool = False,
    initial: Sequence[int] | None = None, max_tokens: int = MAX_TOKENS,
) -> DistilledEncoder:  # fmt: skip
    """Train a student to answer as its teacher does, and write it to a folder that `edgellm build` takes.

    Args:
        teacher: folder of `save_pretrained`.
        out: a new folder, or a student's that this function wrote.
        student: folder of a smaller model with the same task, labels and vocabulary, which may be pruned; or a number of
            the teacher's layers, evenly spaced, that it begins as.
        data: labelled examples of the task as `edgellm build --eval` takes them, or a .txt file of texts, one per line.
        dev: the same, for texts that choose the best step; a tenth of `data` if None.
        test: the same, for texts that choose nothing.
        task: pipeline id; None follows the teacher's configuration.
        temperature, hard, hidden, attention, match, attend, smoothing: see `Signals`.
        training: options of the training; with other ones a training that was cut off does not go on.
        quiet: whether no bar is shown.
        initial: layers of the teacher, from 0, that a student given by their number begins as.
        max_tokens: texts are cut there; a tagger reads longer ones in windows.

    Returns:
        How it went. While `training.seconds` has paused it, nothing is at `out` yet; called again it goes on.

    Raises:
        UsageError: an option is out of range, or `out` holds something else, or the start of another training.
        InputError: a model or a text can't be used, the two don't belong together, or the training diverged.
        MissingDependencyError: a library is not installed.

    """
    if teaches_sequences(teacher):
        raise UsageError(
            f"{teacher} makes a text of another: a student that classifies, tags or embeds has nothing to learn from it.",
            hint=f"Name a student that makes sequences: --student {', '.join(STUDENTS)}.",
        )
    signals = Signals(temperature, hard, hidden, attention, match, attend, smoothing)
    check_out(out)
    prepare(training)
    work = working(out)
    big = read_side(teacher, task, max_tokens)
    kind = kind_of(big.source.task, big.source.options)
    parts = read_parts(data, dev, test, big.task, big.source.options)
    start, layers = _start(big.source, student, initial, work)
    small = read_side(start, big.source.task, max_tokens)
    examples = [example for part in parts.values() for example in part.examples]
    big, small = pair(big, small, {text for example in examples for text in strings_in(example.inputs)})
    if kind == "vector" or not parts["train"].labelled:
        signals = dataclasses.replace(signals, hard=0.0)
    name = small.source.name if layers is None else f"{len(layers)} layers"
    result, learning = _taught(big, small, parts, signals, kind, training, work, quiet)
    result = dataclasses.replace(result, student=name, layers=layers)
    if result.trained.status == "finished" and rank() == 0:
        result = dataclasses.replace(result, folder=str(out))

        def keep(folder: Path) -> None:
            copy_beside(start, folder)
            save(cast(Wrapped, learning).model, folder, like=start)

        write(result, keep, big.source.licence, out)
    return result


def _taught(
    big: Side, small: Side, parts: dict[str, Texts], signals: Signals, kind: str, training: Training, work: Path,
    quiet: bool,
) -> tuple[DistilledEncoder, nn.Module]:  # fmt: skip
    """Train, and return what came of it and the student with the weights of the best step."""
    teaching, learning = big.model().eval(), small.model().eval()
    judges = [name for name in parts if name != "train"]
    its = {name: big.answers(teaching, parts[name]) for name in judges}
    before = {name: small.answers(learning, parts[name]) for name in judges}
    heads = int(getattr(getattr(teaching.model, "config", None), "num_attention_heads", 1))
    learner = Learner(learning, teaching, signals, kind=kind, heads=heads, types=(small.types, big.types))
    names = ["token_type_ids"] if small.types or big.types else []
    rows = {
        name: encode(parts[name], small.task, small.options, small.tokenizer, kind=kind, names=names)
        for name in ("train", "dev")
    }
    told = {
        "teacher": identity(big.source), "student": identity(small.source), "signals": strict.plain(signals),
        "rows": hashlib.sha256(json.dumps(rows).encode()).hexdigest(),
    }  # fmt: skip
    trained = fit(
        learner, training, work, identity=told, train=rows["train"], dev=rows["dev"], collate=collate(small.pad),
        quiet=quiet, keep=True, **_choosing(small, kind, parts["dev"]),
    )  # fmt: skip
    scores: tuple[StudentScore, ...] = ()
    if trained.status == "finished":
        scores = tuple(
            judged.score(
                name, parts[name], small.task, small.options, teacher=its[name], before=before[name],
                student=small.answers(learning, parts[name]),
            )
            for name in judges
        )  # fmt: skip
    result = DistilledEncoder(
        trained, big.source.task, big.source.name, small.source.name, None,
        (big.source.parameters, small.source.parameters), len(parts["train"].examples), small.tokenizer.max_tokens,
        signals, scores, str(work),
    )  # fmt: skip
    return result, learning


def _start(
    teacher: SourceModel, student: Path | int, initial: Sequence[int] | None, work: Path
) -> tuple[Path, tuple[int, ...] | None]:
    """Return the folder that the student begins as, and which layers of the teacher it has, if that is what it is."""
    if not isinstance(student, int):
        if initial is not None:
            raise UsageError("A student that is a folder begins as what is in it.", hint="Leave out the layers.")
        return student, None
    start = work / f"start-{rank()}"  # processes side by side write one each
    shutil.rmtree(start, ignore_errors=True)
    return start, shorten(teacher, student, initial, start)


def _choosing(small: Side, kind: str, dev: Texts) -> dict[str, Any]:
    """Return what chooses the best step: the task's metric where dev texts are labelled, else the loss."""
    if kind == "vector" or not dev.labelled:
        return {}
    golds = [example.gold for example in dev.examples]
    name, best = next(iter(small.task.metrics(golds, golds).items()))
    if not math.isfinite(best):
        return {}
    compute = scored(small.task, small.options, kind)
    return {"metric": metric_key(name), "lower_is_better": False, "compute": compute, "reduce": reduced(kind)}
