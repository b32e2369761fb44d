"""The picture of a search: what each trial lost over what it costs. Importing this needs the `search` extra."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from edgellm.core.search import Front, Point
from edgellm.stages.svg import save

_LABELS = {
    "size": "MB of the artifact",
    "latency": "time of one inference, uniform {base} is 1",
    "instructions": "instructions of one inference, uniform {base} is 1",
    "estimate": "time of one inference as the compiler estimates it, uniform {base} is 1",
}


def plot(front: Front, path: Path) -> None:
    """Write an SVG; the same front gives the same bytes."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()

    def place(point: Point) -> tuple[float, float]:
        drop, cost = point.objectives(front.minimize)
        return (cost / 1e6 if front.minimize == "size" else cost), drop

    for points, colour, label in (
        ([p for p in front.points if p.feasible], "tab:blue", "within the bounds"),
        ([p for p in front.points if not p.feasible], "tab:gray", "outside"),
    ):
        if points:
            across, up = zip(*map(place, points), strict=True)
            axes.scatter(across, up, color=colour, s=18, label=label)
    if front.front:
        line = [place(front.point(number)) for number in front.front]
        axes.step(*zip(*line, strict=True), where="post", color="tab:blue", linewidth=1, label="Pareto front")
    for number, marker, label in ((front.uniform, "s", f"uniform {front.base}"), (front.chosen, "*", "chosen")):
        if number is not None:
            axes.scatter(
                *place(front.point(number)), marker=marker, s=110, facecolor="none", edgecolor="tab:red", label=label
            )
    axes.axhline(front.bounds.max_drop, color="tab:orange", linestyle="--", linewidth=1, label="--max-drop")
    axes.set_xlabel(_LABELS[front.minimize].format(base=front.base))
    axes.set_ylabel(f"points lost of {front.n} texts")
    axes.set_title(f"{front.model}, {front.format} for {front.target}", parse_math=False)
    axes.legend(fontsize="small")
    save(figure, path)
