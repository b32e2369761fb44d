"""Fine-tunes a sentence encoder on the CPU, and writes a folder that `edgellm build` takes.

The columns of the data choose what it becomes: `text` and `label` make a text classifier, `tokens` and `tags` a tagger.
The dev texts choose the epoch. The test texts choose nothing: they are scored once, at the end.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import click
from rows import Labelled, Row, Tagged, read, tag_tokens

from edgellm.core.training import PRECISIONS
from edgellm.errors import EdgellmError, InputError, MissingDependencyError, UsageError
from edgellm.runtime.machine import machine
from edgellm.stages.source import check_folder, default_model
from edgellm.stages.texts import ensure_disjoint

if TYPE_CHECKING:
    from transformers import EvalPrediction, PreTrainedModel, PreTrainedTokenizerBase, Trainer

Encoded = list[dict[str, object]]
FACTS = "training.json"
"""What the folder was trained with, beside the model."""
BATCH = 32
IGNORED = -100
"""Label of a token that is not scored: the loss of torch passes over it."""


class Facts(TypedDict):
    """How a training went: dev accuracy by epoch, the one kept (from 1), its test scores, and the time it took.

    Scores are of texts, or, where words are tagged, of words.
    """

    dev_accuracy: list[float]
    chosen_epoch: int
    test_accuracy: float
    test_macro_f1: float
    seconds: float


def read_parts(folder: Path) -> dict[str, list[Row]]:
    """Return the rows of the three parts, which share no text and whose labels are those of train.jsonl.

    Raises:
        InputError: a file can't be used, shares a text with another, or is of another kind.

    """
    parts = {name: read(folder / f"{name}.jsonl") for name in ("train", "dev", "test")}
    ensure_disjoint(**{name: [row.text for row in rows] for name, rows in parts.items()})
    known = set(labels_of(parts["train"]))
    for name, rows in parts.items():
        if type(rows[0]) is not type(parts["train"][0]):
            raise InputError(f"{folder / name}.jsonl has other columns than train.jsonl.")
        if strange := set(labels_of(rows)) - known:
            raise InputError(
                f"{folder / name}.jsonl has labels that train.jsonl has not: {', '.join(sorted(strange))}."
            )
    if len(known) < 2:
        raise InputError(f"{folder}/train.jsonl has one label; a classifier needs two.")
    return parts


def labels_of(rows: Sequence[Row]) -> list[str]:
    """Return the labels that occur, sorted and as they are written: tags need no B- or I- before them."""
    return sorted({label for row in rows for label in row.labels})


def load(
    folder: Path, labels: Sequence[str], max_tokens: int, *, tags: bool
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return the encoder with a new head, and its tokenizer, which cuts at `max_tokens`. Nothing is downloaded."""
    from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, model_max_length=max_tokens)
    head = AutoModelForTokenClassification if tags else AutoModelForSequenceClassification
    model = head.from_pretrained(
        folder,
        local_files_only=True,
        use_safetensors=True,
        num_labels=len(labels),
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
    )
    return model, tokenizer


def encode(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, labels: Sequence[str]) -> Encoded:
    """Return ids without padding, shortest text first; batches are padded to their own longest text.

    Words to tag are tokenized as the text that they make, as they will be when the model is used; the first token of a
    word has its tag.
    """
    ids = tokenizer(
        [row.text for row in rows], truncation=True, padding=False, return_offsets_mapping=isinstance(rows[0], Tagged)
    )
    offsets = ids.pop("offset_mapping", None)
    encoded: Encoded = []
    for i in sorted(range(len(rows)), key=lambda i: len(ids["input_ids"][i])):
        row = rows[i]
        if isinstance(row, Labelled):
            label: object = labels.index(row.label)
        else:
            label = [IGNORED if tag is None else labels.index(tag) for tag in tag_tokens(row, offsets[i])]
        encoded.append({**{key: ids[key][i] for key in ids}, "labels": label})
    return encoded


def score(predicted: EvalPrediction) -> dict[str, float]:
    """Return accuracy and macro-F1, of texts or of words."""
    from sklearn.metrics import accuracy_score, f1_score

    scored = predicted.label_ids != IGNORED
    expected, decided = predicted.label_ids[scored], predicted.predictions.argmax(-1)[scored]
    macro_f1 = f1_score(expected, decided, average="macro", zero_division=0.0)
    return {"accuracy": float(accuracy_score(expected, decided)), "macro_f1": float(macro_f1)}


def trainer(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, sets: dict[str, Encoded], *, epochs: int, rate: float,
    seed: int, folder: str, tags: bool, precision: str,
) -> Trainer:  # fmt: skip
    """Return the Trainer, which keeps the epoch with the best dev accuracy in `folder` and loads it at the end."""
    from transformers import DataCollatorForTokenClassification, DataCollatorWithPadding, Trainer, TrainingArguments

    arguments = TrainingArguments(
        output_dir=folder,
        num_train_epochs=epochs,
        per_device_train_batch_size=BATCH,
        per_device_eval_batch_size=BATCH,
        learning_rate=rate,
        lr_scheduler_type="linear",
        warmup_steps=0.1,  # a part of all steps
        weight_decay=0.01,
        train_sampling_strategy="group_by_length",
        eval_strategy="epoch",
        save_strategy="epoch",
        save_only_model=True,
        save_total_limit=1,
        load_best_model_at_end=True,
        metric_for_best_model="accuracy",
        logging_strategy="epoch",
        report_to="none",
        seed=seed,
        use_cpu=True,
        bf16=precision == "bf16",
        dataloader_pin_memory=False,
    )
    return Trainer(
        model=model, args=arguments, train_dataset=sets["train"], eval_dataset=sets["dev"],
        processing_class=tokenizer, compute_metrics=score,
        data_collator=(DataCollatorForTokenClassification if tags else DataCollatorWithPadding)(tokenizer),
    )  # fmt: skip


def fit(
    parts: dict[str, list[Row]], source: Path, out: Path, *, epochs: int, rate: float, max_tokens: int, seed: int,
    precision: str = "fp32",
) -> Facts:  # fmt: skip
    """Train on parts["train"], write the best epoch by parts["dev"] to `out`, and return how it did."""
    from transformers import set_seed

    set_seed(seed)  # the new head's weights; the Trainer sets it again for all that follows
    labels, tags = labels_of(parts["train"]), isinstance(parts["train"][0], Tagged)
    network, tokenizer = load(source, labels, max_tokens, tags=tags)
    sets = {name: encode(rows, tokenizer, labels) for name, rows in parts.items()}
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".train-") as checkpoints:
        running = trainer(
            network, tokenizer, sets, epochs=epochs, rate=rate, seed=seed, folder=checkpoints, tags=tags, precision=precision
        )  # fmt: skip
        start = time.perf_counter()
        running.train()
        seconds = time.perf_counter() - start
        dev = [entry["eval_accuracy"] for entry in running.state.log_history if "eval_accuracy" in entry]
        test = running.predict(sets["test"], metric_key_prefix="test").metrics
    network.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return {
        "dev_accuracy": dev,
        "chosen_epoch": dev.index(max(dev)) + 1,
        "test_accuracy": test["test_accuracy"],
        "test_macro_f1": test["test_macro_f1"],
        "seconds": round(seconds, 1),
    }


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for the model; a new one.")
@click.option("--model", type=click.Path(path_type=Path), help="Folder of the encoder; the default model if left out.")
@click.option("--epochs", default=3, show_default=True, type=click.IntRange(min=1))
@click.option("--rate", default=5e-5, show_default=True, help="Highest learning rate.")
@click.option("--max-tokens", default=64, show_default=True, type=click.IntRange(min=4), help="Texts are cut there.")
@click.option("--seed", default=11, show_default=True)
@click.option(
    "--precision",
    default="fp32",
    show_default=True,
    type=click.Choice(list(PRECISIONS)),
    help="Of matrix products; bf16 is faster where the processor has instructions for it.",
)
@click.option("--threads", type=click.IntRange(min=1), help="Of torch; all cores if left out.")
def train(
    folder: Path, out: Path, model: Path | None, epochs: int, rate: float, max_tokens: int, seed: int, precision: str,
    threads: int | None,
) -> None:  # fmt: skip
    """Fine-tune on FOLDER/train.jsonl, choose the epoch by dev.jsonl, and report test.jsonl."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} is there already.", hint="Name another --out, or remove it.")
    parts, encoder = read_parts(folder), check_folder(model) if model else default_model()
    if importlib.util.find_spec("accelerate") is None:
        raise MissingDependencyError("Training needs accelerate.", hint="Install it with: pip install 'edgellm[train]'")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    options: dict[str, float] = {"epochs": epochs, "rate": rate, "max_tokens": max_tokens, "seed": seed}
    facts = fit(parts, encoder, out, epochs=epochs, rate=rate, max_tokens=max_tokens, seed=seed, precision=precision)
    counts = {name: len(rows) for name, rows in parts.items()}
    scored = "words" if isinstance(parts["train"][0], Tagged) else "texts"
    tools = {name: version(name) for name in ("torch", "transformers")}
    record = {
        "data": folder.name,
        "texts": counts,
        "scored": scored,
        **options,
        "precision": precision,
        "batch": BATCH,
        **facts,
        "machine": str(machine()),
        **tools,
    }
    (out / FACTS).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    dev = ", ".join(f"{value:.4f}" for value in facts["dev_accuracy"])
    click.echo(f"""seed {seed}, {epochs} epochs in {facts["seconds"]:.0f} s, {record["machine"]}
dev  accuracy of {scored} by epoch: {dev}; epoch {facts["chosen_epoch"]} is kept
test accuracy of {scored} {facts["test_accuracy"]:.4f}, macro-F1 {facts["test_macro_f1"]:.4f}, {counts["test"]} texts
{out}""")


if __name__ == "__main__":
    try:
        train()
    except EdgellmError as error:
        click.echo(f"train: {' '.join(str(error).split())}", err=True)
        sys.exit(error.exit_code)
