"""What a search leaves: front.json, its picture, the layers of the chosen point, and the command that builds them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence

from edgellm.core import strict
from edgellm.core.search import Front, Group, Point
from edgellm.errors import GateError
from edgellm.search.setup import Setup
from edgellm.stages import search_space

FRONT, PLOT, CHOSEN, CALIBRATION = "front.json", "front.svg", "chosen.toml", "calibration.txt"
"""Files in the search's folder."""

_GATE = 0.99
"""Agreement that a build asks for where it is not told another."""


def gain(chosen: Point | None, uniform: Point | None, minimize: str) -> float | None:
    """Return the part of what is minimized that a point saves against the uniform one."""
    if chosen is None or uniform is None:
        return None
    return 1 - chosen.objectives(minimize)[1] / uniform.objectives(minimize)[1]


def command(setup: Setup, groups: Sequence[Group], chosen: Point) -> str:
    """Return the command that builds the chosen point; a gate that it does not reach is lowered openly."""
    options, plan = setup.options, setup.plan
    words = ["edgellm", "build", options.model, "--target", plan.target.name, "--format", setup.format]
    words += ["--scheme", "mixed", "--layers", str(setup.folder / CHOSEN)]
    if search_space.precisions_of(groups, chosen.schemes, setup.base).calibrates(plan.target.backend(setup.format)):
        # Without labelled texts a third of the calibration texts chose, and must not calibrate now.
        own = str(setup.folder / CALIBRATION) if options.eval is None else options.calibration
        words += ["--calibration", own] if own else []
    for name, value in (
        ("--golden", options.golden), ("--task", options.task), ("--tokenizer", options.tokenizer),
        ("--pooling", options.pooling),
        ("--seq-len", ",".join(map(str, options.seq_len)) if options.seq_len else None),
    ):  # fmt: skip
        words += [name, value] if value else []
    if chosen.golden < _GATE:
        words += ["--min-agreement", f"{int(chosen.golden * 1000) / 1000:g}"]
    return shlex.join(words)


def write(setup: Setup, front: Front) -> None:
    """Write everything into the search's folder."""
    from edgellm.stages.search_plot import plot

    text = json.dumps(strict.plain(front), indent=2, ensure_ascii=False, allow_nan=False)
    (setup.folder / FRONT).write_text(text + "\n", encoding="utf-8")
    if front.points:
        plot(front, setup.folder / PLOT)
    if front.chosen is not None:
        precisions = search_space.precisions_of(front.groups, front.point(front.chosen).schemes, front.base)
        about = f"Chosen by edgellm search for {front.model}, {front.format} on {front.target}."
        (setup.folder / CHOSEN).write_text(search_space.as_toml(precisions, about), encoding="utf-8")
    if setup.options.eval is None:
        (setup.folder / CALIBRATION).write_text("\n".join(setup.plan.calibration) + "\n", encoding="utf-8")


def nothing(front: Front, setup: Setup) -> GateError:
    """Return the error of a search that found no point within the bounds; it names the closest."""
    closest = search_space.closest_of(front.points, front.bounds)
    if closest is None:
        return GateError(
            f"None of {len(front.failures)} trials came to its end.", hint=f"{setup.folder / FRONT} says why."
        )
    bounds = {
        "drop": f"--max-drop {front.bounds.max_drop:g}", "size": f"--max-size {front.bounds.max_size}",
        "cost": f"--max-cost {front.bounds.max_cost}",
    }  # fmt: skip
    broken = " and ".join(bounds[name] for name in closest.broken)
    cost = (
        ""
        if closest.cost is None
        else f", {closest.cost:.2f} of uniform {front.base}'s {setup.meter and setup.meter.kind}"
    )
    return GateError(
        f"None of {len(front.points)} points keeps the bounds. The closest, trial {closest.number}, breaks {broken}: "
        f"{closest.drop.points:.2f} points lost, {closest.bytes / 1e6:.2f} MB{cost}.",
        hint=f"Ease that bound, or go on with --resume and more --trials; {setup.folder / FRONT} has every point.",
    )
