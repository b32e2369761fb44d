"""`edgellm eval`: what an artifact's answers are worth on labelled examples, and what int8 cost."""

from __future__ import annotations

import json

import click


@click.command(name="eval")
@click.argument("bundle")
@click.option("--data", required=True, help="Labelled examples: .tsv, .csv, .jsonl, or a saved Hugging Face dataset.")
@click.option("--format", "formats", multiple=True, help="A format (may be repeated); all if left out.")
@click.option("--device", "devices", multiple=True, help="Where to run (may be repeated); the host if left out.")
@click.option(
    "--source", help="The fp32 model to compare with: its folder, or a bundle of it built with --scheme fp32."
)
@click.option(
    "--max-drop", type=float, help="Points the first metric may lose against --source before it is a failure."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
def evaluate(
    bundle: str, data: str, formats: tuple[str, ...], devices: tuple[str, ...], source: str | None,
    max_drop: float | None, as_json: bool,
) -> None:  # fmt: skip
    """Score the artifacts of BUNDLE on labelled examples.

    With --source also: how much each lost against the fp32 model, whether that may be noise, and on which examples its
    decision changed. What it finds is kept in the bundle's reports/.
    """
    from edgellm import evaluation
    from edgellm.cli import render
    from edgellm.core import strict
    from edgellm.device import open_device
    from edgellm.errors import UsageError
    from edgellm.runtime import Bundle
    from edgellm.stages.report import write_evaluation

    if max_drop is not None and (source is None or not max_drop >= 0):
        raise UsageError(
            "--max-drop needs --source to compare with." if source is None else "--max-drop is 0 points or more."
        )
    opened = Bundle.open(bundle)
    results = []
    for name in dict.fromkeys(devices or ("host",)):
        device = open_device(name)

        def told(artifact: str, name: str = name) -> None:
            if not as_json:
                click.echo(f"ran {artifact} on {name}", err=True)

        results.append(
            evaluation.evaluate(opened, data, device, formats=formats, source=source, max_drop=max_drop, told=told)
        )
    ok = all(result.ok for result in results)
    if as_json:
        plain = [strict.plain(result) for result in results]
        whole = plain[0] if len(plain) == 1 else {"ok": ok, "devices": plain}
        click.echo(json.dumps(whole, ensure_ascii=False, allow_nan=False))
    else:
        click.echo("\n\n".join(render.evaluated(result) for result in results))
    for result in results:
        try:
            write_evaluation(opened, strict.plain(result))
        except OSError as error:
            click.echo(f"edgellm: The report was not kept: {error.strerror}.", err=True)
    if not ok:
        raise click.exceptions.Exit(5)
