"""`edgellm support`, and how the matrix of architectures looks to a person."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence

import click

from edgellm.core import strict
from edgellm.support import Architecture, Measured, Support, read_support

_WIDTH = 110
_KEPT = "attention was not rewritten"


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
def support(as_json: bool) -> None:
    """Say which architectures build in which formats, as it was tested."""
    result = read_support()
    click.echo(json.dumps(strict.plain(result), ensure_ascii=False) if as_json else supported(result))


def supported(result: Support) -> str:
    """Return the matrix of architectures, why cells failed, and what all of it was measured on."""
    parts = []
    for listed, name in ((True, "architecture"), (False, "tried as well")):
        rows = [row for row in result.architectures if row.listed is listed]
        if rows:
            parts.append(_table(name, rows))
    remarks = [line for row in result.architectures for line in _remarks(row)]
    if remarks:
        parts.append("\n".join(remarks))
    cells = [cell for row in result.architectures if row.listed for cell in row.cells]
    if cells:
        built = sum(cell.mean is not None for cell in cells)
        parts.append(
            f"{built} of {len(cells)} promised cells build and pass the gate of {result.measured.gate:g}. "
            "Attention that could not be rewritten is kept as it is, which is slower."
        )
    return "\n\n".join([*parts, _conditions(result.measured)])


def _table(name: str, rows: Sequence[Architecture]) -> str:
    from edgellm.cli.render import columns

    formats = [cell.format for cell in rows[0].cells]
    cells = [
        (row.name, row.tokenizer, _attention(row), *("-" if c.mean is None else f"{c.mean:.4f}" for c in row.cells))
        for row in rows
    ]
    return columns((name, "tokenizer", "attention", *formats), cells, left=3)


def _attention(row: Architecture) -> str:
    """Return what became of an architecture's attention: rewritten for the formats, or kept."""
    if all(cell.mean is None for cell in row.cells):
        return "-"
    return "kept" if any(_KEPT in note for note in row.notes) else "rewritten"


def _remarks(row: Architecture) -> list[str]:
    """Return a paragraph per reason why cells failed, and per note but that about attention."""
    formats: dict[str, list[str]] = {}
    for cell in row.cells:
        if cell.reason:
            formats.setdefault(cell.reason, []).append(cell.format)
    lines = [f"{row.name}, {', '.join(names)}: {reason}" for reason, names in formats.items()]
    lines += [f"{row.name}: {note}" for note in row.notes if _KEPT not in note]
    return [textwrap.fill(line, _WIDTH, subsequent_indent="  ") for line in lines]


def _conditions(how: Measured) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in how.versions.items())
    return "\n".join(
        [
            textwrap.fill(
                f"Measured: mean {how.metric} with the fp32 model over {how.texts} texts, from raw text; {how.scheme}, "
                f"{how.task}, tiny models of random weights (standard deviation {how.deviation:g}), artifacts of "
                f"{how.target} on such a machine. It says that an architecture converts and computes the same, not how "
                "well a trained model takes int8: the gate of its build says that.",
                _WIDTH,
            ),
            textwrap.fill(f"Versions: {versions}.", _WIDTH),
        ]
    )
