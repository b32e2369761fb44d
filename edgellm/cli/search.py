"""`edgellm search`, and how its result looks to a person."""

from __future__ import annotations

import json
import re

import click

from edgellm.cli.options import Numbers
from edgellm.core import strict
from edgellm.core.search import Failure, Front, Point

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


class _Size(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """A number of bytes: 16MB, 15.5MiB, 16000000."""

    name = "size"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the bytes, or fail as click does."""
        match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([A-Za-z]*)", str(value))
        if match is None or match[2].upper() not in _UNITS:
            self.fail(f"{value!r} is no size; it looks like 16MB.", param, ctx)
        return int(float(match[1]) * _UNITS[match[2].upper()])


@click.command()
@click.argument("model")
@click.option("--target", required=True, help="What to search for; 'edgellm targets' lists them.")
@click.option("--format", "fmt", help="One that runs on a CPU or an Ethos-U; the target's first if left out.")
@click.option("--max-drop", type=float, default=1.0, show_default=True, help="Points that may be lost against fp32.")
@click.option("--max-size", type=_Size(), help="Bytes of the artifact: 16MB.")
@click.option(
    "--max-cost", type=float, help="Time, instructions or estimate, as a part of the uniform artifact's: 0.9."
)
@click.option(
    "--minimize", default="size", show_default=True, help="size, latency, instructions, or estimate (Ethos-U)."
)
@click.option(
    "--trials", type=int, default=30, show_default=True, help="Trials of the study, those of earlier runs included."
)
@click.option(
    "--scheme", "schemes", multiple=True, help="A scheme that layers may have (may be repeated); all if left out."
)
@click.option("--eval", "evaluation", help="Labelled examples that choose; agreement with fp32 chooses if left out.")
@click.option(
    "--test", help="Labelled examples that the chosen point is measured on, once; a third of --eval if left out."
)
@click.option("--calibration", help="File of one text per line, for schemes that calibrate.")
@click.option(
    "--golden", help="File of one text per line, for the gate of the build that follows; they choose nothing."
)
@click.option("--task", help="Pipeline id; from the model's architecture if left out.")
@click.option("--tokenizer", help="Folder with tokenizer.json, where the model's folder has none.")
@click.option("--pooling", help="mean, cls or none, for feature-extraction.")
@click.option("--seq-len", type=Numbers(), help="Token counts to serve.")
@click.option("--storage", help="URL of Optuna's storage, which machines may share; a file in --out if left out.")
@click.option("--study", default="edgellm", show_default=True, help="Name of the study there.")
@click.option("--out", help="Folder for the study and what it finds; MODEL-TARGET-search if left out.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the sampler.")
@click.option("--resume", is_flag=True, help="Go on with the study that is there, or join it.")
@click.option("--quiet", is_flag=True, help="No progress.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
def search(
    model: str, target: str, fmt: str | None, max_drop: float, max_size: int | None, max_cost: float | None,
    minimize: str, trials: int, schemes: tuple[str, ...], evaluation: str | None, test: str | None,
    calibration: str | None, golden: str | None, task: str | None, tokenizer: str | None, pooling: str | None,
    seq_len: tuple[int, ...] | None, storage: str | None, study: str, out: str | None, seed: int, resume: bool,
    quiet: bool, as_json: bool,
) -> None:  # fmt: skip
    """Find the smallest or fastest artifact of MODEL that keeps to bounds, by a scheme for each group of layers.

    Each trial is lowered and run. A study that was interrupted goes on with --resume; several processes may share one.
    What is uniform is int8-dynamic in all layers, and a16w8 on an Ethos-U, whose linears may have 8-bit activations and whose
    time is Vela's estimate. Other NPUs and GPUs take one scheme for the whole model and are not searched.
    """
    from edgellm.search import Options, search

    silent = quiet or as_json
    front = search(
        Options(
            model, target, format=fmt, minimize=minimize, max_drop=max_drop, max_size=max_size, max_cost=max_cost,
            trials=trials, schemes=schemes, eval=evaluation, test=test, calibration=calibration, golden=golden,
            task=task, tokenizer=tokenizer, pooling=pooling, seq_len=seq_len, storage=storage, study=study, out=out,
            seed=seed, resume=resume,
        ),
        told=lambda trial, seconds: None if silent else click.echo(_told(trial, seconds), err=True),
        say=lambda what: None if silent else click.echo(what, err=True),
    )  # fmt: skip
    if as_json:
        click.echo(json.dumps(strict.plain(front), ensure_ascii=False, allow_nan=False))
    else:
        click.echo(shown(front))


def shown(front: Front) -> str:
    """Return the front, the chosen point and how it did on other texts; the last line is the command that builds it."""
    from edgellm.cli.render import columns

    counted = "" if front.minimize == "size" and front.bounds.max_cost is None else f"; {front.measured_on}"
    numbers = [*front.front, *((front.uniform,) if front.uniform not in (None, *front.front) else ())]
    rows = [_row(front, front.point(number)) for number in numbers if number is not None]
    head = ("trial", "MB", "cost", "lost", "95 % interval", "", "tried for")
    lines = [
        f"{front.model}, {front.format} for {front.target}: least {front.minimize}, at most {_bounds(front)}",
        "",
        columns(head, rows, left=0),
        "",
        f"{len(front.points)} trials came to their end, {len(front.failures)} failed. lost: points of {front.metric} on "
        f"{front.n} texts ({front.chose_on}), which chose, with a paired bootstrap interval{counted}.",
    ]
    if front.chosen is None:
        return "\n".join(lines)
    point = front.point(front.chosen)
    lines += ["", f"Trial {point.number} is chosen{_gained(front)}:"]
    width = max(len(group.name) for group in front.groups)
    lines += [f"  {group.name.ljust(width)}  {point.schemes[group.name]}" for group in front.groups]
    if front.confirmed is not None:
        found, uniform = front.confirmed, f"uniform {front.base}"
        score = "" if found.source is None else f" (fp32 {found.source:.4f})"
        lines += [
            "",
            f"On {found.n} texts that chose nothing ({found.data}), {found.metric}{score}:",
            f"  {'chosen'.ljust(len(uniform))}  lost {_drop(found.chosen)}",
            f"  {uniform}  lost {_drop(found.uniform)}",
        ]
    if point.golden < 0.99:
        lines += ["", f"It agrees with fp32 on {point.golden:.1%} of the golden cases, below a build's gate of 0.99."]
    return "\n".join([*lines, "", front.command])


def _row(front: Front, point: Point) -> tuple[str, ...]:
    mark = "chosen" if point.number == front.chosen else "" if point.feasible else f"over {', '.join(point.broken)}"
    cost = "" if point.cost is None else f"{point.cost:.3f}"
    drop = point.drop
    return (
        str(point.number), f"{point.bytes / 1e6:.2f}", cost, f"{drop.points:z.2f}", f"{drop.low:z.2f} to {drop.high:z.2f}",
        mark, point.origin,
    )  # fmt: skip


def _drop(drop: object) -> str:
    from edgellm.core.evaluation import Drop

    assert isinstance(drop, Drop)
    return f"{drop.points:z.2f} points, 95 % interval {drop.low:z.2f} to {drop.high:z.2f}"


def _gained(front: Front) -> str:
    if front.gain is None:
        return ""
    words = {
        "size": ("smaller", "larger"), "latency": ("less time", "more time"),
        "instructions": ("fewer instructions", "more instructions"),
        "estimate": ("less time by the compiler's estimate", "more time by the compiler's estimate"),
    }[front.minimize]  # fmt: skip
    return f", {abs(front.gain):.1%} {words[front.gain < 0]} than uniform {front.base}"


def _bounds(front: Front) -> str:
    bounds = front.bounds
    size = "" if bounds.max_size is None else f", {bounds.max_size / 1e6:g} MB"
    cost = "" if bounds.max_cost is None else f", {bounds.max_cost:g} of uniform {front.base}'s cost"
    return f"{bounds.max_drop:g} points lost{size}{cost}"


def _told(trial: Point | Failure, seconds: float) -> str:
    if isinstance(trial, Failure):
        return f"trial {trial.number:<3} failed: {trial.error}"
    cost = "" if trial.cost is None else f"  cost {trial.cost:.3f}"
    broken = f"  over {', '.join(trial.broken)}" if trial.broken else ""
    origin = f"  {trial.origin}" if trial.origin else ""
    return (
        f"trial {trial.number:<3} {trial.bytes / 1e6:7.2f} MB{cost}  {trial.drop.points:6.2f} points lost  "
        f"{seconds:5.1f} s{broken}{origin}"
    )
