"""`edgellm sensitivity`, and how its result looks to a person."""

from __future__ import annotations

import json
from pathlib import Path

import click

from edgellm.core import strict
from edgellm.core.sensitivity import Loss, Part, Sensitivity
from edgellm.errors import DeviceError

_BAR = 20
_SHOWN = 20
"""Layers in the table; --json has all."""


@click.command()
@click.argument("model", required=False)
@click.option("--scheme", default="int8-static", show_default=True, help="What is quantized how.")
@click.option("--format", "fmt", default="executorch", show_default=True, help="Whose way of quantizing is simulated.")
@click.option("--task", help="Pipeline id; from the model's architecture if left out.")
@click.option("--tokenizer", help="Folder with tokenizer.json, where the model's has none.")
@click.option("--pooling", help="mean, cls or none, for feature-extraction.")
@click.option("--calibration", help="File of one text per line; two thirds choose ranges, one is measured on.")
@click.option("--ranges", help="How int8-static chooses ranges: mse (the default), minmax, percentile or entropy.")
@click.option("--plot", "picture", metavar="FILE.svg", help="Draw the result as well.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
def sensitivity(
    model: str | None, scheme: str, fmt: str, task: str | None, tokenizer: str | None, pooling: str | None,
    calibration: str | None, ranges: str | None, picture: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Say which layers of MODEL lose what by a scheme.

    Each layer is quantized alone, and everything but it, in a simulation; so is each kind of quantization.
    """
    from edgellm.sensitivity import measure_sensitivity
    from edgellm.stages import svg

    if picture is not None:
        svg.ensure_writable(Path(picture), "--plot")
    found = measure_sensitivity(
        model, scheme=scheme, format=fmt, task=task, tokenizer=tokenizer, pooling=pooling, calibration=calibration,
        ranges=ranges,
    )  # fmt: skip
    if as_json:
        click.echo(json.dumps(strict.plain(found), ensure_ascii=False, allow_nan=False))
    else:
        own = "" if calibration else "\nThese are edgellm's own texts; --calibration takes texts of your domain."
        click.echo(shown(found) + own)
    if picture is not None:
        _draw(found, Path(picture))


def shown(found: Sensitivity) -> str:
    """Return the tables of kinds and layers, and what they were measured on."""
    from edgellm.cli.render import columns

    head = ("alone dB", "agreement", "all but it dB", "agreement", "noise alone")
    layers = found.layers[:_SHOWN]
    tables = [
        columns((name, *head), [_row(part, found) for part in parts])
        for name, parts in (("kind", found.kinds), ("layer", layers))
    ]
    rest = len(found.layers) - len(layers)
    more = f"\n{rest} more layers, each quieter; --json has them." if rest else ""
    if found.left_out:
        more += f"\nNot simulated, because what they read can't be observed: {', '.join(found.left_out)}."
    how = f", ranges by {found.ranges}" if found.ranges else ""
    return (
        f"{found.model}, {found.scheme} as in {found.format}{how}: {_db(found.whole)} dB, agreement "
        f"{found.whole.agreement:.4f}\n\n" + "\n\n".join(tables) + f"{more}\n\n"
        f"Simulated in fp32 on {found.measured} texts; {found.calibrated} others chose scales and ranges. dB: signal to noise of "
        f"the model's outputs; agreement: {found.metric}. 'edgellm build' says what an artifact does."
    )


def _draw(found: Sensitivity, path: Path) -> None:
    """Write the picture: the result was printed before, so that a full disk takes nothing along."""
    from edgellm.stages.sensitivity_plot import plot

    try:
        plot(found, path)
    except OSError as error:
        raise DeviceError(f"The picture {path} was not written: {error.strerror or error}.") from None


def _row(part: Part, found: Sensitivity) -> tuple[str, ...]:
    return (
        part.name, _db(part.alone), f"{part.alone.agreement:.4f}", _db(part.without), f"{part.without.agreement:.4f}",
        _bar(part.alone, found.whole),
    )  # fmt: skip


def _db(loss: Loss) -> str:
    return "exact" if loss.snr_db is None else f"{loss.snr_db:.1f}"


def _bar(loss: Loss, whole: Loss) -> str:
    """Return the part's noise as a share of the whole's; parts don't add up, so that one may pass it."""
    if loss.snr_db is None or whole.snr_db is None:
        return " " * _BAR
    share = min(1.0, 10 ** ((whole.snr_db - loss.snr_db) / 10))
    return ("#" * round(share * _BAR)).ljust(_BAR)
