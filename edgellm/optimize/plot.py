"""The picture of an optimization: what each artifact lost over what it weighs. Importing this needs the `search` extra."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from edgellm.core.optimize import Measured, Optimized, Step
from edgellm.stages.svg import save


def plot(found: Optimized, path: Path) -> None:
    """Write an SVG; the same figures give the same bytes."""
    costs = any(each.cost is not None for step in found.steps for each in step.measured)
    figure = Figure(figsize=(10 if costs else 6, 4.5), layout="constrained")
    goal = found.goal
    axes = figure.subplots(1, 2 if costs else 1, squeeze=False)[0]
    _panel(axes[0], found, lambda each: None if each.bytes is None else each.bytes / 1e6, goal.max_mb)
    axes[0].set_xlabel("MB of the artifact")
    if costs:
        _panel(axes[1], found, lambda each: each.cost, goal.max_cost)
        axes[1].set_xlabel("cost of one inference, the baseline in fp32 is 1")
    axes[0].set_ylabel(f"points lost of {found.metric}, {found.n} examples")
    figure.suptitle(f"{found.model}, {found.format} for {found.target}", parse_math=False)
    save(figure, path)


def _panel(axes: Axes, found: Optimized, across: Callable[[Measured], float | None], bound: float | None) -> None:
    for scheme in dict.fromkeys(each.scheme for step in found.steps for each in step.measured):
        points = [
            (step, x, each.drop.points)
            for step in found.steps
            for each in step.measured
            if each.scheme == scheme and each.drop is not None and (x := across(each)) is not None
        ]
        if points:
            axes.plot([x for _, x, _ in points], [y for _, _, y in points], marker="o", linewidth=0.6, label=scheme)
        for step, x, y in points:
            axes.annotate(
                _mark(found, step, scheme), (x, y), textcoords="offset points", xytext=(5, 4), fontsize="small"
            )
    axes.axhline(found.goal.max_drop, color="tab:gray", linestyle="--", linewidth=1)
    if bound is not None:
        axes.axvline(bound, color="tab:gray", linestyle="--", linewidth=1, label="goal")
    axes.set_xlim(left=0)
    axes.legend(fontsize="small")


def _mark(found: Optimized, step: Step, scheme: str) -> str:
    return f"{step.number}, chosen" if found.chosen == (step.number, scheme) else str(step.number)
