"""Options that several commands have."""

from __future__ import annotations

import json

import click

JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
FORMAT = click.option("--format", "formats", multiple=True, help="A format (may be repeated); all if left out.")

DEVICE = click.option(
    "--device", "devices", multiple=True, help="Where to run (may be repeated); the host if left out."
)


class Numbers(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """Whole numbers separated by commas."""

    name = "n,n,..."

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Return the numbers, or fail as click does."""
        if isinstance(value, tuple):
            return value
        try:
            return tuple(int(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not whole numbers separated by commas.", param, ctx)


def print_json(data: object) -> None:
    """Print one JSON object; a number that is none would be no JSON."""
    click.echo(json.dumps(data, ensure_ascii=False, allow_nan=False))
