"""`edgellm prune`, and how its result looks to a person."""

from __future__ import annotations

import json

import click

from edgellm.core import strict
from edgellm.core.prune import Change, Layer, Pruned, Quality, Speed


@click.command()
@click.argument("model", required=False)
@click.option("--sparsity", type=float, required=True, help="Share of the layers' parameters to remove, 0 to 1.")
@click.option("--structure", default="heads,ffn", show_default=True, help="What may go: heads, ffn, layers.")
@click.option(
    "--data", help="Labelled examples that choose what goes; for feature-extraction, a file of one text per line too."
)
@click.option("--test", help="Examples that the result is measured on; a third of --data if left out.")
@click.option(
    "--max-drop", type=float, default=1.0, show_default=True, help="Points of the first metric that may be lost."
)
@click.option("--recover", type=int, default=0, show_default=True, help="Epochs of distillation from MODEL; none if 0.")
@click.option("--rate", type=float, help="The highest learning rate of these; 1e-4 if left out.")
@click.option(
    "--precision", help="Of these: fp32, or bf16 where the processor has instructions for it; fp32 if left out."
)
@click.option("--out", help="Folder to write; MODEL-pruned if left out.")
@click.option(
    "--rounds", type=int, default=8, show_default=True, help="In how many rounds things go; each scores anew."
)
@click.option("--samples", type=int, default=512, show_default=True, help="Examples at most that score.")
@click.option(
    "--max-tokens", type=int, help="The longest text that is read whole; 128, or the model's limit, if left out."
)
@click.option("--task", help="Hugging Face pipeline id; from the model's architecture if left out.")
@click.option("--tokenizer", help="Folder with tokenizer.json, where the model's folder has none.")
@click.option("--pooling", help="mean, cls or none, for feature-extraction; as the model's own files ask if left out.")
@click.option(
    "--measure/--no-measure", default=True, show_default=True, help="Build both models, and time them in turns."
)
@click.option("--format", "formats", multiple=True, help="A format to time (may be repeated); all if left out.")
@click.option("--scheme", help="What is quantized how when they are timed; int8-dynamic if left out.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of everything random.")
@click.option("--threads", type=int, help="Of torch on a CPU; all cores if left out.")
@click.option("--quiet", is_flag=True, help="No progress.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
def prune(
    model: str | None, sparsity: float, structure: str, data: str | None, test: str | None, max_drop: float,
    recover: int, rate: float | None, precision: str | None, out: str | None, rounds: int, samples: int,
    max_tokens: int | None, task: str | None, tokenizer: str | None, pooling: str | None, measure: bool,
    formats: tuple[str, ...], scheme: str | None, seed: int, threads: int | None, quiet: bool, as_json: bool,
) -> None:  # fmt: skip
    """Write a smaller MODEL, without the heads, feed-forward neurons or layers that it needs least.

    What is written is a folder like MODEL, whose matrices are smaller: every format runs it faster.
    """
    from edgellm.prune import Options, prune

    silent = quiet or as_json
    found = prune(
        Options(
            model, sparsity, structure=structure, data=data, test=test, max_drop=max_drop, recover=recover, rate=rate,
            precision=precision, out=out, rounds=rounds, samples=samples, max_tokens=max_tokens, task=task,
            tokenizer=tokenizer, pooling=pooling, measure=measure, formats=formats, scheme=scheme, seed=seed,
            threads=threads, quiet=silent,
        ),
        say=lambda what: None if silent else click.echo(what, err=True),
    )  # fmt: skip
    if as_json:
        click.echo(json.dumps(strict.plain(found), ensure_ascii=False, allow_nan=False))
    else:
        click.echo(shown(found))


def shown(found: Pruned) -> str:
    """Return what was removed and what that changed."""
    from edgellm.cli.render import columns

    layers = columns(("layer", "heads", "of", "neurons", "of"), [_row(layer) for layer in found.layers])
    counts = columns(
        ("", "before", "after", "left"),
        [
            ("parameters of the layers", *_change(found.encoder)),
            ("parameters", *_change(found.parameters)),
            (f"multiply-accumulates, {found.tokens} tokens", *_change(found.macs)),
        ],
    )
    return "\n".join(
        [
            f"{found.model}: {found.sparsity:.1%} of the layers' parameters removed as {' and '.join(found.structures)}",
            "",
            layers,
            "",
            counts,
            "",
            _quality(found.quality),
            *([] if found.speed is None else ["", *_speed(found.speed)]),
            "",
            f"Ranked by {found.score}, on {found.chose_on}.",
            f"{found.out} is written; 'edgellm build {found.out}' builds it.",
        ]
    )


def _row(layer: Layer) -> tuple[str, ...]:
    left = ("gone", "gone") if layer.removed else (str(layer.heads), str(layer.ffn))
    return layer.name, left[0], str(layer.of_heads), left[1], str(layer.of_ffn)


def _change(change: Change) -> tuple[str, str, str]:
    return f"{change.before:,}", f"{change.after:,}", f"{change.share:.1%}"


def _quality(found: Quality) -> str:
    before = "" if found.before is None else f" {found.before:.4f} before,"
    after = "" if found.recovered is None else f", {found.recovered:.4f} after distillation"
    return (
        f"{found.metric}:{before} {found.pruned:.4f} pruned{after}; lost {found.lost.points:z.2f} points, 95 % interval "
        f"{found.lost.low:z.2f} to {found.lost.high:z.2f}, on {found.n} examples ({found.data})."
    )


def _speed(found: Speed) -> list[str]:
    from edgellm.cli.render import columns

    rows = [
        (a.format, str(a.tokens), f"{a.p50_ms:.2f}", f"{b.p50_ms:.2f}", f"{b.p50_ms / a.p50_ms:.2f}")
        for a, b in zip(found.before, found.after, strict=True)
    ]
    return [
        columns((f"format, {found.scheme}", "tokens", "ms before", "ms after", "ratio"), rows),
        f"Measured on {found.measured_on}; both models took turns.",
    ]
