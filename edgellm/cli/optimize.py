"""`edgellm optimize`, and how its result looks to a person."""

from __future__ import annotations

import json
from pathlib import Path

import click

from edgellm.core import strict
from edgellm.core.optimize import Goal, Measured, Optimized, Step

_EXAMPLE = """\b
A recipe; paths in it are relative to it:
    model = "my-model"
    target = "linux-x86_64"
    schemes = ["int8-dynamic"]
    [data]
    train = "train.jsonl"
    dev = "dev.jsonl"            # every step is compared on it
    test = "test.jsonl"          # read when the goal is met
    [goal]
    max_drop = 1.0               # points of the task's first metric
    max_mb = 15
    max_cost = 0.25              # of the baseline's time in fp32
    [budget]
    steps = 8
    minutes = 90
    [[shrink]]                   # tried in this order
    layers = 4
    epochs = 2
    [[shrink]]
    sparsity = 0.3
    structure = "heads,ffn"
    epochs = 2
"""


@click.command(epilog=_EXAMPLE)
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--quiet", is_flag=True, help="No progress.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
def optimize(recipe: Path, quiet: bool, as_json: bool) -> None:
    """Make a model smaller and faster until it meets the goal of RECIPE, a TOML file, or its budget is used.

    Evaluates the baseline, fine-tunes it if asked, then shortens, prunes, distils, quantizes and measures, step by step. Run
    again after it was cut off, or with a larger budget, the same command goes on.
    """
    from edgellm.errors import GateError
    from edgellm.optimize import optimize as run

    silent = quiet or as_json
    found = run(
        recipe, quiet=silent, say=lambda what: None if silent else click.echo(what, err=True),
        told=lambda step, each: None if silent else click.echo(f"  {_told(step, each)}", err=True),
    )  # fmt: skip
    click.echo(json.dumps(strict.plain(found), ensure_ascii=False, allow_nan=False) if as_json else shown(found))
    if found.ended != "goal":
        raise GateError(
            f"The goal of {recipe} is not met: {_missed(found)}.",
            hint="Raise the budget, and the same command goes on."
            if found.ended == "budget"
            else "Add a [[shrink]], epochs or a scheme to the recipe, or ease the goal; what was made is used again.",
        )


def shown(found: Optimized) -> str:
    """Return the table of all steps, what was chosen, and how it did on the test examples."""
    from edgellm.cli.render import columns

    rows = [row for step in found.steps for row in _rows(step, found)]
    head = ("step", "model", "scheme", "parameters", "MB", "cost", "score", "lost", "95 % interval", "")
    lines = [
        f"{found.model}, {found.format} for {found.target}: {_goal(found.goal)}",
        "",
        columns(head, rows, left=3),
        "",
        f"lost: points of {found.metric} against the baseline in fp32 on {found.n} examples of {found.dev}, which chose, with "
        "a paired bootstrap interval."
        + (f" cost: of one inference, the baseline in fp32 is 1; {found.cost_of}." if found.cost_of else ""),
    ]
    if found.chosen is not None:
        number, scheme = found.chosen
        lines += ["", f"Step {number} in {scheme} is chosen -> {found.out}/bundle, its model in {found.out}/model"]
    if found.confirmed is not None:
        test = found.confirmed
        score = "" if test.baseline is None else f" (baseline {test.baseline:.4f})"
        lines.append(
            f"On {test.n} examples of {test.data}, which chose nothing: {test.drop.points:z.2f} points of {test.metric} lost"
            f"{score}, 95 % interval {test.drop.low:z.2f} to {test.drop.high:z.2f}."
        )
        if test.drop.points > found.goal.max_drop:
            lines.append(f"That is more than the {found.goal.max_drop:g} points that the dev examples let pass.")
    for step in found.steps:
        reasons = [step.refused] + [f"{each.scheme}: {each.refused}" for each in step.measured if each.refused]
        lines += [f"Step {step.number} is refused, {reason}" for reason in reasons if reason]
    return "\n".join(lines)


def _rows(step: Step, found: Optimized) -> list[tuple[str, ...]]:
    if step.refused:
        return [(str(step.number), str(step.move), "", "", "", "", "", "", "", "can't be made")]
    rows = []
    for i, each in enumerate(step.measured):
        own = (str(step.number), str(step.move)) if i == 0 else ("", "")
        over = (
            f"misses {', '.join(found.goal.broken(each))}" if found.goal.broken(each) and each.drop is not None else ""
        )
        chosen = "chosen" if found.chosen == (step.number, each.scheme) else ""
        mark = ", ".join(filter(None, (chosen, over))) or ("" if each.drop is not None else "refused")
        rows.append((*own, each.scheme, f"{step.parameters:,}" if i == 0 else "", *_figures(each), mark))
    return rows


def _figures(each: Measured) -> tuple[str, ...]:
    if each.drop is None or each.bytes is None:
        return ("",) * 5
    return (
        f"{each.bytes / 1e6:.2f}", "" if each.cost is None else f"{each.cost:.3f}",
        "" if each.score is None else f"{each.score:.4f}", f"{each.drop.points:z.2f}",
        f"{each.drop.low:z.2f} to {each.drop.high:z.2f}",
    )  # fmt: skip


def _told(step: Step, each: Measured) -> str:
    if each.drop is None or each.bytes is None:
        return f"{each.scheme} is refused: {each.refused}"
    cost = "" if each.cost is None else f", cost {each.cost:.3f}"
    return f"{each.scheme}: {each.drop.points:z.2f} points lost, {each.bytes / 1e6:.2f} MB{cost} (step {step.number})"


def _goal(goal: Goal) -> str:
    parts = [f"at most {goal.max_drop:g} points lost"]
    if goal.min_score is not None:
        parts.append(f"a score of {goal.min_score:g} at least")
    if goal.max_mb is not None:
        parts.append(f"at most {goal.max_mb:g} MB")
    if goal.max_cost is not None:
        parts.append(f"at most {goal.max_cost:g} of the baseline's cost")
    return ", ".join(parts)


def _missed(found: Optimized) -> str:
    why = "the budget is used" if found.ended == "budget" else "nothing is left to try"
    if found.chosen is None:
        return f"{why}, and none of {len(found.steps)} models keeps the quality that is asked for"
    number, scheme = found.chosen
    step = found.steps[number]
    each = next(one for one in step.measured if one.scheme == scheme)
    cost = "" if each.cost is None else f" and {each.cost:.3f} of the baseline's cost"
    return f"{why}, and what comes closest, step {number} in {scheme}, has {(each.bytes or 0) / 1e6:.2f} MB{cost}"
