"""`edgellm distill`, and how its result looks to a person."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from edgellm.core import strict
from edgellm.core.distill import Distilled
from edgellm.core.training import SCHEDULES, Training
from edgellm.errors import UsageError

_PATH = click.Path(path_type=Path)


def training_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a training to a command: the fields of `Training`, by their names."""
    for option in reversed(
        (
            click.option("--epochs", type=int, default=10, show_default=True, help="Passes over the data."),
            click.option(
                "--batch", type=int, default=64, show_default=True, help="Examples in a step, on each device."
            ),
            click.option("--rate", type=float, default=5e-4, show_default=True, help="The highest learning rate."),
            click.option("--schedule", default="cosine", show_default=True, help=f"{', '.join(SCHEDULES)}."),
            click.option("--warmup", type=float, default=0.05, show_default=True, help="Part of all steps."),
            click.option("--weight-decay", type=float, default=0.01, show_default=True, help="Of AdamW."),
            click.option("--patience", type=int, help="Evaluations without a better dev score after which it ends."),
            click.option("--seed", type=int, default=0, show_default=True, help="Of everything random."),
            click.option("--threads", type=int, help="Of torch on a CPU; all cores if left out."),
            click.option("--seconds", type=float, help="Stop with a checkpoint after these; the same command goes on."),
            click.option("--deepspeed", help="DeepSpeed's configuration, under 'accelerate launch'."),
        )
    ):
        command = option(command)
    return command


@click.command()
@click.option(
    "--teacher", type=_PATH, help="Folder of a model that answers token by token; none learns from pairs alone."
)
@click.option("--student", required=True, help="ctc-tiny, ctc-small, ctc-shared, ctc-base, or a student's folder.")
@click.option("--data", type=_PATH, required=True, help="Pairs to learn from: a text, a tab, what it becomes.")
@click.option("--dev", type=_PATH, required=True, help="Pairs that choose the step that is kept.")
@click.option("--test", type=_PATH, help="Pairs that are scored once, at the end.")
@click.option(
    "--unlabelled", type=_PATH, help="Texts, one per line, that the teacher labels besides those of the pairs."
)
@click.option("--tokenizer", type=_PATH, help="Folder of tokenizer.json, where there is no teacher.")
@click.option(
    "--labels", type=_PATH, help="Folder for the teacher's labels, which machines may share; beside --out if left out."
)
@click.option("--part", help="Make that part of the labels and train nothing: 1/4 is the first of four.")
@click.option("--no-gold", is_flag=True, help="Learn the teacher's labels alone.")
@click.option("--beams", type=int, default=4, show_default=True, help="Of the teacher's search.")
@click.option("--slots", type=int, default=2, show_default=True, help="Output places for each input token.")
@click.option("--longest", type=int, default=64, show_default=True, help="Tokens of an input at most.")
@training_options
@click.option("--out", type=_PATH, required=True, help="Folder for the student.")
@click.option("--quiet", is_flag=True, help="No progress.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
def distill(
    teacher: Path | None, student: str, data: Path, dev: Path, test: Path | None, unlabelled: Path | None,
    tokenizer: Path | None, labels: Path | None, part: str | None, no_gold: bool, beams: int, slots: int, longest: int,
    out: Path, quiet: bool, as_json: bool, **training: Any,
) -> None:  # fmt: skip
    """Train a student that answers in one forward pass, from pairs and from a teacher's answers.

    Run again after it was cut off, the same command goes on.
    """
    from edgellm.distill import require

    require()
    from edgellm.cli.progress import bar
    from edgellm.distill.sequences import distill_sequences

    silent = quiet or as_json
    with bar("labels", quiet=silent) as told:
        found = distill_sequences(
            teacher=teacher, student=student, data=data, dev=dev, test=test, out=out, training=Training(**training),
            tokenizer=tokenizer, unlabelled=unlabelled, labels=labels, gold=not no_gold, beams=beams, slots=slots,
            longest=longest, part=_part(part), quiet=silent, report=told,
        )  # fmt: skip
    if as_json:
        click.echo(json.dumps(strict.plain(found), ensure_ascii=False, allow_nan=False))
    else:
        click.echo("The labels are written." if found is None else shown(found, out))


def shown(found: Distilled, out: Path) -> str:
    """Return what was made in a few lines."""
    trained = found.trained
    own, teachers = found.parameters
    if found.dev is None:
        return f"Stopped at step {trained.steps} of {trained.of_steps}; the same command goes on from there."
    origin = f"{found.gold} pairs"
    if found.teacher is not None:
        origin += f" and {found.labelled} answers of {found.teacher} ({teachers:,} parameters)"
    lines = [
        f"{found.student} ({own:,} parameters) learned from {origin} -> {out}",
        f"dev   {found.dev}, which chose step {trained.best_step} of {trained.of_steps}",
        *([f"test  {found.test}, which chose nothing"] if found.test else []),
        f"{trained.seconds:.0f} s in this run, {trained.cpu_seconds:.0f} s of CPU time.",
        *([found.left_out] if found.left_out else []),
    ]
    return "\n".join(lines)


def _part(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if match is None:
        raise UsageError(f"--part {text} is no part.", hint="--part 1/4 is the first of four.")
    return int(match[1]), int(match[2])
