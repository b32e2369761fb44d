"""Scores the artifacts of a fine-tuned model's bundle on its test texts, beside the model in fp32, as a Markdown table.

The figures are those of `edgellm eval BUNDLE --data DATA/test.jsonl --source MODEL`: artifacts answer through the runtime
that ships, one raw text at a time. A README can have the table pasted into it.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import click
from rows import describe, read

from edgellm.errors import EdgellmError, InputError
from edgellm.evaluation import Evaluated, evaluate
from edgellm.runtime import Bundle
from edgellm.runtime.machine import machine


def table(found: Evaluated, bundle: Bundle, source_bytes: int) -> str:
    """Return a Markdown table: the fp32 model, then each artifact with what it lost against it."""
    pairs = [(bundle.artifact(scored.id), scored.evaluation) for scored in found.artifacts if scored.evaluation]
    first = pairs[0][1]
    head = ["", "MB", *first.metrics, f"points of {first.metric} lost", "McNemar p", "decisions changed"]
    source = ["PyTorch, fp32", _megabytes(source_bytes), *(_percent(score) for score, _ in first.metrics.values())]
    rows = [head, ["---"] * len(head), [*source, "", "", ""]]
    for artifact, one in pairs:
        drop = one.drop
        scores = [_percent(score) for _, score in one.metrics.values()]
        lost = f"{drop.points:z.2f} ({drop.low:z.2f} to {drop.high:z.2f})"
        chance = "" if one.mcnemar_p is None else f"{one.mcnemar_p:.2g}"
        changed = f"{one.flipped} ({_percent(one.flipped_share)})"
        name = f"{artifact.format}, {artifact.scheme}"
        rows.append([name, _megabytes(artifact.bytes), *scores, lost, chance, changed])
    return "\n".join("|" + "".join(f" {cell} |" if cell else " |" for cell in row) for row in rows)


def measured_on(found: Evaluated, bundle: Bundle, model: Path, data: Path) -> str:
    """Return what the figures were measured on, and how the model was made."""
    manifest = bundle.manifest
    lines = [
        f"{found.n} texts of {data.name} ({describe(read(data / found.data))}), {found.artifacts[0].truncated} of them cut "
        f"at {manifest.max_tokens} tokens; target {manifest.target}, run from raw text on {machine()}."
    ]
    if (model / "training.json").is_file():
        facts = json.loads((model / "training.json").read_bytes())
        dev = ", ".join(map(_percent, facts["dev_accuracy"]))
        lines.append(
            f"Trained on {facts['texts']['train']} texts in {facts['seconds']:.0f} s, seed {facts['seed']}; dev accuracy of "
            f"{facts['scored']} by epoch {dev}, epoch {facts['chosen_epoch']} was kept."
        )
    lines.append(", ".join(f"{name} {number}" for name, number in sorted(manifest.tools.items())) + ".")
    return "\n".join(lines)


def around(document: Path, name: str) -> tuple[str, str]:
    """Return what stands before and after the place between `<!-- NAME -->` and `<!-- end of NAME -->`.

    Raises:
        InputError: the document can't be read, or has no such place.

    """
    try:
        text = document.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{document} can't be read: {error}.") from None
    first, last = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    before, begins, rest = text.partition(first)
    _, ends, after = rest.partition(last)
    if not begins or not ends:
        raise InputError(f"{document} has no place between <!-- {name} --> and <!-- end of {name} -->.")
    return before + first, last + after


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--paste", "document", type=click.Path(path_type=Path), help="A Markdown file that takes the table.")
def report(model: Path, bundle: Path, data: Path, document: Path | None) -> None:
    """Score MODEL and the artifacts of its BUNDLE on DATA/test.jsonl."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    place = around(document, data.name) if document else ("", "")
    opened = Bundle.open(bundle)
    found = evaluate(
        opened, data / "test.jsonl", source=str(model), told=lambda artifact: click.echo(f"ran {artifact}", err=True)
    )
    source_bytes = sum(file.stat().st_size for file in model.glob("*.safetensors"))
    text = f"{table(found, opened, source_bytes)}\n\n{measured_on(found, opened, model, data)}"
    if document:
        document.write_text(f"{place[0]}\n{text}\n\n{place[1]}", encoding="utf-8")
    click.echo(text)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f}"


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


if __name__ == "__main__":
    try:
        report()
    except EdgellmError as error:
        click.echo(f"report: {' '.join(str(error).split())}", err=True)
        sys.exit(error.exit_code)
