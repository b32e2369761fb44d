"""`edgellm distill`, and how its result looks to a person."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from edgellm.core import strict
from edgellm.core.distill import ATTENDS, MATCHES, Distilled, DistilledEncoder
from edgellm.core.training import SCHEDULES, Trained, Training
from edgellm.distill.students import STUDENTS
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
            click.option("--warmup", type=float, help="Part of all steps in which the rate rises; 0.05 if left out."),
            click.option("--weight-decay", type=float, default=0.01, show_default=True, help="Of AdamW."),
            click.option("--patience", type=int, help="Evaluations without a better dev score after which it ends."),
            click.option(
                "--precision",
                default="fp32",
                show_default=True,
                help="fp32, or bf16: matrix products in 16 bits, faster where the processor has instructions for them.",
            ),
            click.option("--seed", type=int, default=0, show_default=True, help="Of everything random."),
            click.option("--threads", type=int, help="Of torch on a CPU; all cores if left out."),
            click.option("--seconds", type=float, help="Stop with a checkpoint after these; the same command goes on."),
            click.option("--deepspeed", help="DeepSpeed's configuration, under 'accelerate launch'."),
        )
    ):
        command = option(command)
    return command


_PAIRS = (
    "unlabelled", "labels", "part", "no_gold", "beams", "slots", "longest", "refinements", "soft", "risk", "tokenizer",
)  # fmt: skip
"""Options of students that make sequences."""

_SIGNALS = ("hard", "hidden", "attention", "match", "attend", "smoothing")
"""Options of students that classify, tag or embed."""


@click.command()
@click.option(
    "--teacher", type=_PATH, help="Folder of the model to learn from; none learns a sequence from pairs alone."
)
@click.option(
    "--student", required=True,
    help=f"For sequences {', '.join(STUDENTS)}; otherwise a number of the teacher's layers; or a student's folder.",
)  # fmt: skip
@click.option(
    "--data", type=_PATH, required=True,
    help="For sequences, pairs: a text, a tab, what it becomes. Otherwise labelled examples, or a .txt of texts.",
)  # fmt: skip
@click.option("--dev", type=_PATH, help="The same, to choose the step that is kept; a sequence needs it.")
@click.option("--test", type=_PATH, help="The same, scored once, at the end.")
@click.option("--tokenizer", type=_PATH, help="Sequences: folder of tokenizer.json, where there is no teacher.")
@click.option(
    "--unlabelled", type=_PATH, help="Sequences: texts, one per line, that the teacher labels besides the pairs'."
)
@click.option("--labels", type=_PATH, help="Sequences: folder of the teacher's labels, which machines may share.")
@click.option("--part", help="Sequences: make that part of the labels and train nothing: 1/4 is the first of four.")
@click.option("--no-gold", is_flag=True, help="Sequences: learn the teacher's labels alone.")
@click.option(
    "--beams", type=int, help="Sequences: of the search of a teacher that writes token by token; 4 if left out."
)
@click.option(
    "--slots", type=int, help="Sequences: output places for each input token, of a new student; 2 if left out."
)
@click.option("--longest", type=int, help="Sequences: tokens of an input at most, of a new student; 64 if left out.")
@click.option("--refinements", type=int, help="mask-predict: passes over the output after the first; 0 if left out.")
@click.option(
    "--soft",
    type=float,
    default=0.0,
    show_default=True,
    help="Sequences: weight of the teacher's probabilities beside the labels', where both answer in the same places.",
)
@click.option(
    "--risk", type=float, default=0.0, show_default=True,
    help="ctc: weight of outputs that would be wrong, beside the labels'; for a student that has learned these.",
)  # fmt: skip
@click.option("--temperature", type=float, help="Of the teacher's answers or probabilities; 2 if left out.")
@click.option("--hard", type=float, default=0.5, show_default=True, help="Others: share of people's labels, 0 to 1.")
@click.option("--smoothing", type=float, default=0.0, show_default=True, help="Others: of people's labels, 0 to 0.9.")
@click.option("--hidden", type=float, default=1.0, show_default=True, help="Others: weight of hidden states.")
@click.option(
    "--match", default="mse", show_default=True, help=f"Others: how these are compared: {', '.join(MATCHES)}."
)
@click.option("--attention", type=float, default=0.0, show_default=True, help="Others: weight of attention.")
@click.option(
    "--attend", default="relations", show_default=True, help=f"Others: what of it is compared: {', '.join(ATTENDS)}."
)
@training_options
@click.option("--out", type=_PATH, required=True, help="Folder for the student.")
@click.option("--quiet", is_flag=True, help="No progress.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
@click.pass_context
def distill(
    context: click.Context, /, teacher: Path | None, student: str, data: Path, dev: Path | None, test: Path | None,
    tokenizer: Path | None, unlabelled: Path | None, labels: Path | None, part: str | None, no_gold: bool,
    beams: int | None, slots: int | None, longest: int | None, refinements: int | None, soft: float,
    risk: float, temperature: float | None, hard: float, smoothing: float, hidden: float, match: str, attention: float,
    attend: str, out: Path, quiet: bool, as_json: bool, **training: Any,
) -> None:  # fmt: skip
    """Train a student that answers in one forward pass, from a teacher's answers and from people's.

    Run again after it was cut off, the same command goes on.
    """
    from edgellm.distill import makes_sequences, quiet_imports, require

    require()
    silent, options = quiet or as_json, Training(**training)
    sequences = makes_sequences(student)
    _refuse(context, _SIGNALS if sequences else _PAIRS, sequences)
    if not sequences:
        with quiet_imports():
            from edgellm.distill.encoders import distill_encoder

        if teacher is None:
            raise UsageError("Without --teacher there is nothing to distil.", hint="Name its folder.")
        made = distill_encoder(
            teacher, out, student=int(student) if student.isdecimal() else Path(student), data=data, dev=dev, test=test,
            temperature=2.0 if temperature is None else temperature, hard=hard, smoothing=smoothing, hidden=hidden,
            match=match, attention=attention, attend=attend, training=options, quiet=silent,
        )  # fmt: skip
        click.echo(_json(made) if as_json else shown_encoder(made))
        return
    from edgellm.cli.progress import bar

    with quiet_imports():
        from edgellm.distill.sequences import distill_sequences

    if dev is None:
        raise UsageError("A sequence needs --dev.", hint="Pairs of other texts, which choose the step that is kept.")
    with bar("labels", quiet=silent or teacher is None) as told:
        found = distill_sequences(
            teacher=teacher, student=student, data=data, dev=dev, test=test, out=out, training=options,
            tokenizer=tokenizer, unlabelled=unlabelled, labels=labels, gold=not no_gold, beams=beams, slots=slots,
            longest=longest, refinements=refinements, soft=soft, risk=risk, temperature=temperature, part=_part(part),
            quiet=silent, report=told,
        )  # fmt: skip
    if as_json:
        click.echo(_json(found))
    else:
        click.echo("The labels are written." if found is None else shown(found, out))


def shown(found: Distilled, out: Path) -> str:
    """Return what was made of pairs in a few lines."""
    trained = found.trained
    own, teachers = found.parameters
    if found.dev is None:
        return _paused(trained)
    origin = f"{found.gold} pairs"
    if found.teacher is not None:
        origin += f" and {found.labelled} answers of {found.teacher} ({teachers:,} parameters)"
    if found.soft:
        origin += f", with its probabilities (weight {found.soft:g}, temperature {found.temperature:g})"
    if found.risk:
        origin += f", and from outputs that would be wrong (weight {found.risk:g})"
    lines = [
        f"{found.student} ({own:,} parameters) learned from {origin} -> {out}",
        f"dev   {found.dev}, which chose step {trained.best_step} of {trained.of_steps}",
        *([f"test  {found.test}, which chose nothing"] if found.test else []),
        _took(trained),
        *([found.left_out] if found.left_out else []),
    ]
    return "\n".join(lines)


def shown_encoder(found: DistilledEncoder) -> str:
    """Return what was made of a classifier, a tagger or a sentence encoder in a few lines."""
    trained = found.trained
    big, small = found.parameters
    if trained.status == "paused":
        return _paused(trained)
    lines = [
        f"{found.student} ({small:,} parameters) learned from {found.teacher} ({big:,}) on {found.texts} texts -> {found.folder}"
    ]
    for score in found.scores:
        line = f"{score.part:<4}  {score.agreement} with the teacher {score.agreed:.4f} on {score.texts} texts"
        if score.metric is not None:
            own, before, its = map(_value, (score.student, score.before, score.teacher))
            line += f"; {score.metric} {own}, before {before}, the teacher {its}"
        lines.append(line)
    return "\n".join([*lines, _took(trained)])


def _value(score: float | None) -> str:
    return "n/a" if score is None else f"{score:.4f}"


def _paused(trained: Trained) -> str:
    return f"Stopped at step {trained.steps} of {trained.of_steps}; the same command goes on from there."


def _took(trained: Trained) -> str:
    return f"{trained.seconds:.0f} s in this run, {trained.cpu_seconds:.0f} s of CPU time."


def _json(found: object) -> str:
    return json.dumps(strict.plain(found), ensure_ascii=False, allow_nan=False)


def _refuse(context: click.Context, names: Sequence[str], sequences: bool) -> None:
    """Raise where an option was given that the other kind of student has."""
    for name in names:
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            what = "a student that makes sequences" if sequences else "a student that classifies, tags or embeds"
            raise UsageError(f"--{name.replace('_', '-')} has no use for {what}.", hint="Leave it out.")


def _part(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if match is None:
        raise UsageError(f"--part {text} is no part.", hint="--part 1/4 is the first of four.")
    return int(match[1]), int(match[2])
