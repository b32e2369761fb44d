"""Scores a fine-tuned classifier on its test texts: as PyTorch runs it in fp32, and as each artifact of its bundle does.

Artifacts answer through the runtime that ships, one raw text at a time; a README can have the table pasted into it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
from data import Labelled, read

from edgellm.errors import BundleError, EdgellmError, InputError
from edgellm.runtime import Bundle, Session
from edgellm.runtime.machine import machine

FP32 = "PyTorch, fp32"


@dataclass(frozen=True)
class Scored:
    """How one way of running the model did on the test texts.

    Attributes:
        name: of the way.
        megabytes: of the weights' file.
        accuracy, macro_f1: from 0 to 1.
        decisions: one label per text.

    """

    name: str
    megabytes: float
    accuracy: float
    macro_f1: float
    decisions: tuple[str, ...]


def ask_torch(folder: Path, texts: Iterable[str], max_tokens: int) -> list[str]:
    """Return the label that the fp32 model gives each text, cut where the bundle cuts."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModelForSequenceClassification.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    model.eval()
    decisions = []
    with torch.inference_mode():
        for text in texts:
            feeds = tokenizer(text, truncation=True, max_length=max_tokens, return_tensors="pt")
            decisions.append(str(model.config.id2label[int(model(**feeds).logits.argmax())]))
    return decisions


def ask_artifact(session: Session, texts: Iterable[str]) -> list[str]:
    """Return the label that an artifact gives each text."""
    return [str(session(text).value[0]["label"]) for text in texts]  # type: ignore[index]


def scored(name: str, file: Path, rows: Sequence[Labelled], decisions: Sequence[str]) -> Scored:
    """Return the scores of decisions about labelled texts."""
    from sklearn.metrics import accuracy_score, f1_score

    labels = [row.label for row in rows]
    return Scored(
        name,
        file.stat().st_size / 1e6,
        float(accuracy_score(labels, decisions)),
        float(f1_score(labels, decisions, average="macro", zero_division=0.0)),
        tuple(decisions),
    )


def table(results: Sequence[Scored], labels: Sequence[str]) -> str:
    """Return a Markdown table; every way after the first is compared with the first."""
    first = results[0]
    lines = [
        "| | MB | accuracy | macro-F1 | points lost | decisions flipped | of them lost / won |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for one in results:
        changed = "| | | |"
        if one is not first:
            pairs = [
                (a, b, label) for a, b, label in zip(first.decisions, one.decisions, labels, strict=True) if a != b
            ]
            lost, won = sum(a == label for a, _, label in pairs), sum(b == label for _, b, label in pairs)
            points = (first.accuracy - one.accuracy) * 100
            changed = f"| {points:.2f} | {len(pairs)} ({len(pairs) / len(labels):.2%}) | {lost} / {won} |"
        lines.append(f"| {one.name} | {one.megabytes:.1f} | {one.accuracy:.2%} | {one.macro_f1:.2%} {changed}")
    return "\n".join(lines).replace("%", " %")


def measured_on(model: Path, bundle: Bundle, rows: Sequence[Labelled], data: Path) -> str:
    """Return what the figures were measured on, and how the model was made."""
    counts = {label: sum(row.label == label for row in rows) for label in sorted({row.label for row in rows})}
    tools = [f"{name} {number}" for name, number in sorted(bundle.manifest.tools.items())]
    made = ""
    if (model / "training.json").is_file():
        facts = json.loads((model / "training.json").read_bytes())
        dev = ", ".join(f"{value:.2%}".replace("%", " %") for value in facts["dev_accuracy"])
        made = (
            f"\nTrained on {facts['texts']['train']} texts in {facts['seconds']:.0f} s, seed {facts['seed']}; dev accuracy "
            f"by epoch {dev}, epoch {facts['chosen_epoch']} was kept."
        )
    return (
        f"{len(rows)} texts of {data.name} ({', '.join(f'{count} {label}' for label, count in counts.items())}), cut at "
        f"{bundle.manifest.max_tokens} tokens; target {bundle.manifest.target}, run from raw text on {machine()}.{made}\n"
        f"{', '.join(tools)}."
    )


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
    """Score MODEL and the artifacts of its BUNDLE on DATA/test.tsv."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    opened = Bundle.open(bundle)
    if opened.manifest.task != "text-classification":
        raise BundleError(f"{bundle} is no classifier; its task is {opened.manifest.task}.")
    if not (model / "model.safetensors").is_file():
        raise InputError(f"{model} holds no model.safetensors.", hint="Name the folder that train.py wrote.")
    place = around(document, data.name) if document else ("", "")
    rows = read(data / "test.tsv")
    texts, labels = [row.text for row in rows], [row.label for row in rows]
    if strange := sorted(set(labels) - set(opened.manifest.task_options.labels)):
        raise InputError(f"{data}/test.tsv has labels that the model does not know: {', '.join(strange)}.")
    with click.progressbar(texts, label=FP32, file=sys.stderr) as bar:
        decisions = ask_torch(model, bar, opened.manifest.max_tokens)
    results = [scored(FP32, model / "model.safetensors", rows, decisions)]
    for artifact in opened.manifest.artifacts:
        session = Session.open(opened, format=artifact.id)
        with click.progressbar(texts, label=artifact.id, file=sys.stderr) as bar:
            decisions = ask_artifact(session, bar)
        results.append(scored(f"{artifact.format}, {artifact.scheme}", opened.path / artifact.file, rows, decisions))
    text = f"{table(results, labels)}\n\n{measured_on(model, opened, rows, data)}"
    if document:
        document.write_text(f"{place[0]}\n{text}\n\n{place[1]}", encoding="utf-8")
    click.echo(text)


if __name__ == "__main__":
    try:
        report()
    except EdgellmError as error:
        click.echo(f"report: {' '.join(str(error).split())}", err=True)
        sys.exit(error.exit_code)
