"""The picture of a sensitivity: a bar for each part, the noisiest first. Importing this needs the `search` extra."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from edgellm.core.sensitivity import Loss, Part, Sensitivity
from edgellm.stages.svg import save

_BARS = 40
"""Kinds and layers at most: more can't be read. The layers that are left out are quieter."""

_WITHOUT: dict[str, Any] = {"color": "tab:orange", "marker": "D", "s": 14, "zorder": 3}
_WHOLE: dict[str, Any] = {"color": "tab:red", "linestyle": "--", "linewidth": 1}


def plot(found: Sensitivity, path: Path) -> None:
    """Write an SVG; the same result gives the same bytes."""
    layers = found.layers[: _BARS - len(found.kinds)]
    figure = Figure(figsize=(10, 2.2 + 0.2 * (len(found.kinds) + len(layers))), layout="constrained")
    noise, agreement = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    names: dict[int, str] = {}
    for parts, colour, label in ((found.kinds, "tab:green", "a kind alone"), (layers, "tab:blue", "a layer alone")):
        first = len(names) + bool(names)  # a row stays free between them
        rows = range(first, first + len(parts))
        names |= {row: part.name for row, part in zip(rows, parts, strict=True)}
        if parts:
            _draw(noise, agreement, rows, parts, colour, label)
    _draw_whole(noise, agreement, found.whole)
    noise.set_yticks(list(names), list(names.values()), fontsize="x-small", parse_math=False)
    noise.set_ylim(max(names, default=0) + 0.7, -0.7)
    noise.set_xlabel("signal to noise of the model's outputs, dB")
    agreement.set_xlabel(f"agreement: {found.metric}")
    for axes in (noise, agreement):
        axes.grid(axis="x", linewidth=0.3)
        axes.set_axisbelow(True)
    noise.scatter([], [], label="everything but it", **_WITHOUT)
    figure.suptitle(_title(found, len(layers)), fontsize="medium", parse_math=False)
    figure.legend(loc="outside lower center", ncols=4, fontsize="small")
    save(figure, path)


def _draw(noise: Axes, agreement: Axes, rows: range, parts: Sequence[Part], colour: str, label: str) -> None:
    """Draw a bar for each part alone and a mark for all but it; where nothing changes there is neither."""
    noise.barh(rows, [part.alone.snr_db or 0.0 for part in parts], color=colour, label=label)
    for row, part in zip(rows, parts, strict=True):
        if part.alone.snr_db is None:
            noise.text(0, row, " exact", va="center", fontsize="x-small")
        if part.without.snr_db is not None:
            noise.scatter(part.without.snr_db, row, **_WITHOUT)
    agreement.scatter([part.alone.agreement for part in parts], rows, color=colour, s=16)
    agreement.scatter([part.without.agreement for part in parts], rows, **_WITHOUT)


def _draw_whole(noise: Axes, agreement: Axes, whole: Loss) -> None:
    if whole.snr_db is not None:
        noise.axvline(whole.snr_db, label="everything", **_WHOLE)
    agreement.axvline(whole.agreement, **_WHOLE)


def _title(found: Sensitivity, shown: int) -> str:
    """Return what was measured, on what, and which layers are to be seen."""
    how = f", ranges by {found.ranges}" if found.ranges else ""
    left = len(found.layers) - shown
    which = (
        f"the {shown} noisiest of {len(found.layers)} layers, {left} quieter ones left out" if left else "all layers"
    )
    return (
        f"{found.model}, {found.scheme} as in {found.format}{how}\nsimulated in fp32 on {found.measured} texts; {which}"
    )
