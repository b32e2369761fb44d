"""The space that a search for each layer's precision goes through: groups of layers, what each may have, where to begin.

An encoder has dozens of linears, and a search of a few dozen trials finds nothing in as many dimensions. Layers of one kind
in neighbouring blocks lose alike, so they share a scheme: embedding tables, attention, what goes into a feed-forward part
and what comes out of it, each in at most three runs of blocks.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from edgellm.core.precision import Precisions, mixable
from edgellm.core.scheme import SCHEMES
from edgellm.core.search import Bounds, Group, Point
from edgellm.errors import UsageError, unknown

_COARSER = {"int8-dynamic": "int4-dynamic", "a16w8": "int8-static"}
"""Base to what loses most beside it: its losses order layers."""

_PRECISE = "int8-weight-only"
"""Computes in fp32 as well, in a quarter of the bytes; what its weights lose does not show."""

RUNS = 3
"""Runs of blocks at most that a kind of layer is told apart in."""

MIN_SHARE = 0.01
"""Part of all weights below which a group has nothing to save and stays as it is."""

_PREFIXES = 6
"""Seeds at most that are beginnings of the sensitivity order."""

_BLOCK = re.compile(r"\.(\d+)\.")
_ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)


@dataclass(frozen=True)
class Layer:
    """A linear or an embedding table.

    Attributes:
        name: of the module.
        outputs, inputs: dimensions of the weight; rows and width of a table.
        table: whether it is looked up.
        noise: see `core.search.Group`.
        tied: whether its weight is that of a layer named before it, which it shares the scheme of.

    """

    name: str
    outputs: int
    inputs: int
    table: bool
    noise: float | None
    tied: bool = False

    @property
    def weights(self) -> int:
        """How many it has of its own."""
        return 0 if self.tied else self.outputs * self.inputs


def base_of(backend: str) -> str:
    """Return what everything is compared with, and what layers have that are in no group."""
    return next(name for name in _COARSER if backend in SCHEMES[name].backends)


def coarser_than(base: str) -> str:
    """Return the scheme whose losses order layers: the coarsest that every backend with that base takes."""
    return _COARSER[base]


def schemes_for(backend: str, asked: Sequence[str], *, timed: bool) -> tuple[str, ...]:
    """Return the schemes that single layers may have, the fewest bits first.

    Args:
        backend: what lowers, one of `core.scheme.MIXING`: others take one scheme for the whole model.
        asked: by the user; all that fit if empty.
        timed: whether time or instructions count. Where only size does, calibrated ranges have nothing to give; and fp32
            is left to backends that have nothing else that computes in it.

    Raises:
        UsageError: one does not exist, or is not for single layers, or the backend can't express it.

    """
    able, base = mixable(backend), base_of(backend)
    for name in asked:
        if name not in SCHEMES:
            raise unknown("scheme", name, able)
        if name not in able:
            raise UsageError(f"{backend} can't give {name} to single layers; it takes {', '.join(able)}.")
    useless = {name for name in able if SCHEMES[name].static and not timed}
    if _PRECISE in able:
        useless.add("fp32")
    chosen = [name for name in able if (name in asked if asked else name not in useless)]
    return tuple(sorted({*chosen, base}, key=lambda name: (SCHEMES[name].bits, name)))


def group_layers(layers: Sequence[Layer], schemes: Sequence[str]) -> tuple[Group, ...]:
    """Return groups in the order of sensitivity: first what loses least for each weight.

    Groups with too few weights to save anything are left out, as are those that have no choice, and layers whose rounding
    changes nothing: no output comes of them, and they are in no file. Of a table only the weights
    count, so that it has one scheme for each number of bits, and fp32 only where there is nothing between.
    """
    layers = [layer for layer in layers if layer.noise != 0]
    total = sum(layer.weights for layer in layers)
    members: dict[str, list[Layer]] = {}
    runs = _runs(layers)
    for layer in layers:
        kind = _kind(layer)
        place = runs.get(_block(layer.name), "") if kind != "tables" else ""
        members.setdefault(f"{kind} {place}".strip() if place or kind == "tables" else "rest", []).append(layer)
    groups = []
    for name, inside in members.items():
        weights = sum(layer.weights for layer in inside)
        if weights < MIN_SHARE * total:
            continue
        known = [layer.noise for layer in inside]
        noise = None if None in known else math.fsum(value for value in known if value is not None)
        choices = _of_tables(schemes) if all(layer.table for layer in inside) else tuple(schemes)
        if len(choices) < 2:
            continue
        groups.append(Group(name, tuple(layer.name for layer in inside), weights, noise, choices))
    return tuple(sorted(groups, key=_per_weight))


def seeds(groups: Sequence[Group], schemes: Sequence[str], base: str) -> list[tuple[str, dict[str, str]]]:
    """Return what is tried first, with what each is for: uniform schemes, then coarse beginnings of the order."""
    found = [(f"all {base}", dict.fromkeys((group.name for group in groups), base))]
    for scheme in schemes:
        if scheme not in (base, "fp32"):
            found.append((f"all {scheme}", {g.name: _nearest(scheme, g.choices, base) for g in groups}))
    coarsest = coarser_than(base)
    coarse = next((name for name in (coarsest, *schemes) if name in schemes and _as_coarse(name, coarsest)), None)
    if coarse is not None:
        count = min(_PREFIXES, len(groups) - 1)
        ends = sorted({round((i + 1) * len(groups) / (count + 1)) for i in range(count)} - {0, len(groups)})
        for end in ends:
            first = {group.name for group in groups[:end]}
            mixture = {g.name: _nearest(coarse, g.choices, base) if g.name in first else base for g in groups}
            found.append((f"first {end} in {coarse}", mixture))
    unique: dict[tuple[tuple[str, str], ...], tuple[str, dict[str, str]]] = {}
    for name, schemes_of in found:
        unique.setdefault(tuple(sorted(schemes_of.items())), (name, schemes_of))
    return list(unique.values())


def precisions_of(groups: Iterable[Group], schemes: Mapping[str, str], base: str) -> Precisions:
    """Return the scheme of each layer; what has the base's is not named."""
    return Precisions(
        base, tuple((name, schemes[g.name]) for g in groups for name in g.layers if schemes[g.name] != base)
    )


def as_toml(precisions: Precisions, about: str) -> str:
    """Return the file that `edgellm build --scheme mixed --layers` takes; `about` is a comment of one line."""
    lines = [f"# {about}", f'default = "{precisions.default}"', "", "[layers]"]
    return "\n".join([*lines, *(f'"{name}" = "{scheme}"' for name, scheme in precisions.layers), ""])


def front_of(points: Sequence[Point], minimize: str) -> tuple[int, ...]:
    """Return the numbers of the points that no other betters in both objectives, cheapest first.

    Points lost are an objective, so that points beyond that bound may be on the front; those beyond another are not. Of points
    that are equal in both, the first stays.
    """
    within = [point for point in points if not set(point.broken) - {"drop"}]
    found: list[int] = []
    least = math.inf
    for point in sorted(within, key=lambda p: (*reversed(p.objectives(minimize)), p.number)):
        drop, _ = point.objectives(minimize)
        if drop < least:
            found.append(point.number)
            least = drop
    return tuple(found)


def chosen_of(points: Sequence[Point], minimize: str) -> Point | None:
    """Return the cheapest point within all bounds, of several the one that loses least; None if there is none."""
    within = [point for point in points if point.feasible]
    return min(within, key=lambda p: (*reversed(p.objectives(minimize)), p.number), default=None)


def closest_of(points: Sequence[Point], bounds: Bounds) -> Point | None:
    """Return the point that breaks its worst bound least, in units of that bound."""

    def worst(point: Point) -> float:
        excess = dict(point.broken)
        if "drop" in excess:
            excess["drop"] /= max(bounds.max_drop, 0.1)
        return max(excess.values(), default=0.0)

    return min(points, key=lambda point: (worst(point), point.number), default=None)


def _kind(layer: Layer) -> str:
    if layer.table:
        return "tables"
    if _ATTENTION.search(layer.name) or layer.outputs == layer.inputs:
        return "attention"
    return "ffn-in" if layer.outputs > layer.inputs else "ffn-out"


def _block(name: str) -> str:
    """Return what says which block a layer is in, or an empty string."""
    match = _BLOCK.search(name)
    return "" if match is None else name[: match.end()]


def _runs(layers: Iterable[Layer]) -> dict[str, str]:
    """Return block to the run of neighbouring blocks that it is in, as people call it: "0-1"."""
    blocks = [block for block in dict.fromkeys(_block(layer.name) for layer in layers if not layer.table) if block]
    count = min(RUNS, len(blocks))
    found = {}
    for run in range(count):
        first, end = (i * len(blocks) // count for i in (run, run + 1))
        name = str(first) if end - first == 1 else f"{first}-{end - 1}"
        found.update(dict.fromkeys(blocks[first:end], name))
    return found


def _of_tables(schemes: Sequence[str]) -> tuple[str, ...]:
    by_bits = {SCHEMES[name].bits: name for name in sorted(schemes, key=lambda n: (not n.endswith("dynamic"), n))[::-1]}
    return tuple(name for bits, name in sorted(by_bits.items()) if bits != 32 or len(by_bits) < 3)


def _as_coarse(name: str, coarsest: str) -> bool:
    return name == coarsest or SCHEMES[name].bits == SCHEMES[coarsest].bits == 4


def _nearest(scheme: str, choices: Sequence[str], base: str) -> str:
    """Return the scheme, or the choice with as many bits."""
    same = [name for name in choices if SCHEMES[name].bits == SCHEMES[scheme].bits]
    return scheme if scheme in choices else (same or [base])[0]


def _per_weight(group: Group) -> float:
    return math.inf if group.noise is None else group.noise / group.weights
