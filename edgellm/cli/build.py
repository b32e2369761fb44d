"""`edgellm build`."""

from __future__ import annotations

import click

from edgellm.cli.options import FORMAT, JSON, Numbers, print_json
from edgellm.core import strict


@click.command()
@click.argument("model", required=False)
@click.option("--target", required=True, help="What to build for; 'edgellm targets' lists them.")
@FORMAT
@click.option(
    "--scheme", multiple=True, metavar="[FORMAT=]SCHEME",
    help="What is quantized how, in every format or in one; the target's default if left out.",
)  # fmt: skip
@click.option("--layers", help="TOML or JSON file with a scheme for each layer, for --scheme mixed.")
@click.option("--task", help="Hugging Face pipeline id; from the model's architecture if left out.")
@click.option("--tokenizer", help="Folder with tokenizer.json, where the model's folder has none.")
@click.option("--pooling", help="mean, cls or none, for feature-extraction; as the model's own files ask if left out.")
@click.option("--calibration", help="File of one text per line, or data like --eval's, for schemes that calibrate.")
@click.option("--ranges", help="How int8-static chooses ranges: mse (the default), minmax, percentile or entropy.")
@click.option(
    "--golden",
    help="File of one text per line, like those of the product: the gate runs them, and the bundle keeps them.",
)
@click.option("--eval", "evaluation", help="Labelled examples: .tsv, .csv, .jsonl, or a saved Hugging Face dataset.")
@click.option(
    "--max-drop", type=float, help="Points that --eval's first metric may lose, if the loss is no noise; 1 if left out."
)
@click.option(
    "--vocab-from",
    help="File of one text per line that the product reads: pieces of the vocabulary that they don't need are dropped, and "
    "their rows of the embedding table; these texts are answered as before, others may not be.",
)
@click.option(
    "--alternatives", default=1, help="For ctc-seq2seq: likeliest tokens of a slot that are kept to choose among."
)
@click.option("--no-equalize", is_flag=True, help="Leave outlying channels as they are.")
@click.option(
    "--no-fit", is_flag=True, help="Round weights to the nearest, where they would be fitted to calibration texts."
)
@click.option(
    "--correct-bias", is_flag=True, help="Let biases make up for what rounding weights adds to a linear's mean output."
)
@click.option(
    "--max-fallback", type=float,
    help="Share of the multiply-accumulates that may stay outside the delegate, 0 to 1; if left out, none on an NPU.",
)  # fmt: skip
@click.option("--min-agreement", default=0.99, show_default=True, help="The gate: mean agreement with the fp32 model.")
@click.option(
    "--min-exact", type=float, help="The gate of answers that are texts: share that is the fp32 model's to the letter."
)
@click.option(
    "--seq-len", type=Numbers(), help="Token counts to serve without padding beyond; the last is the longest."
)
@click.option("--out", help="The bundle's folder; MODEL-TARGET if left out.")
@click.option("--verify-on-device", is_flag=True, help="Gate on the target's own devices too ('edgellm targets NAME').")
@click.option("--no-cache", is_flag=True, help="Make everything anew, and keep nothing for the next build.")
@click.option("--quiet", is_flag=True, help="No progress.")
@JSON
def build(
    model: str | None, target: str, formats: tuple[str, ...], scheme: tuple[str, ...], layers: str | None, task: str | None,
    tokenizer: str | None, pooling: str | None, calibration: str | None, ranges: str | None, golden: str | None,
    evaluation: str | None, max_drop: float | None, vocab_from: str | None, alternatives: int, no_equalize: bool,
    no_fit: bool, correct_bias: bool, max_fallback: float | None, min_agreement: float, min_exact: float | None,
    seq_len: tuple[int, ...] | None, out: str | None, verify_on_device: bool, no_cache: bool, quiet: bool, as_json: bool,
) -> None:  # fmt: skip
    """Build a verified bundle from MODEL.

    MODEL is a folder written by save_pretrained, or package.module:function that returns an nn.Module; left out, it is
    the sentence encoder of the demo extra.
    """
    from edgellm.cli import render
    from edgellm.cli.progress import build_progress
    from edgellm.pipeline import build_timed

    with build_progress(quiet=quiet or as_json) as progress:
        done = build_timed(
            model, target=target, formats=formats, scheme=scheme or None, layers=layers, task=task, tokenizer=tokenizer,
            pooling=pooling,
            calibration=calibration, ranges=ranges, golden=golden, eval=evaluation, max_drop=max_drop, vocab_from=vocab_from,
            alternatives=alternatives, equalize=not no_equalize, fit=not no_fit, correct_bias=correct_bias,
            max_fallback=max_fallback,
            min_agreement=min_agreement, min_exact=min_exact, seq_len=seq_len, out=out, verify_on_device=verify_on_device,
            cache=not no_cache, progress=progress,
        )  # fmt: skip
    if as_json:
        manifest = strict.plain(done.bundle.manifest)
        devices = strict.plain(done.devices)
        print_json({"bundle": str(done.bundle.path), "manifest": manifest, "seconds": done.seconds, "devices": devices})
    elif not quiet:
        click.echo(render.built(done.bundle.manifest, str(done.bundle.path)))
        for result in done.devices:
            click.echo("\n" + render.verified(result))
