"""Trains a model that says a word's phones one after the other: the teacher, and the baseline that one pass is held against.

The dev words choose the step that is kept. Run it again with the same options, and it goes on from where it was cut off.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgellm.distill.pairs import Pair, read_pairs
from edgellm.errors import EdgellmError, InputError, UsageError
from edgellm.stages.source import check_folder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn
    from transformers import BartConfig, BartForConditionalGeneration, PreTrainedTokenizerFast

MAX_LENGTH = 48
"""Of letters or phones, with the mark of the end."""

SMOOTHING = 0.1
"""Share of each label that goes to all other phones."""

CHECKPOINTS = "checkpoints"
"""Folder in the output folder, until the training has ended."""


def read_words(path: Path) -> list[Pair]:
    """Return words and pronunciations."""
    try:
        return read_pairs(path)
    except InputError as error:
        raise InputError(error.args[0], hint="data.py writes it.") from None


def open_tokenizer(folder: Path, name: str = "tokenizer.json") -> PreTrainedTokenizerFast:
    """Return a tokenizer that knows its special tokens."""
    if not (folder / name).is_file():
        raise InputError(f"There is no {folder / name}.", hint="data.py writes it.")
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_file=str(folder / name), pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>",
        model_max_length=MAX_LENGTH, clean_up_tokenization_spaces=False,
    )  # fmt: skip


def encode(pairs: Sequence[Pair], folder: Path) -> list[dict[str, list[int]]]:
    """Return ids of letters, and of phones with the mark of the end."""
    source, target = open_tokenizer(folder), open_tokenizer(folder, "target_tokenizer.json")
    end = target.eos_token_id
    asked = source([pair.text for pair in pairs])["input_ids"]
    said = target([pair.target for pair in pairs])["input_ids"]
    return [{"input_ids": a, "labels": [*b, end]} for a, b in zip(asked, said, strict=True)]


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the model.")
@click.option("--start", type=click.Path(path_type=Path, exists=True), help="Folder of a model to train on.")
@click.option("--encoder-layers", type=int, help="3 if left out.")
@click.option("--decoder-layers", type=int, help="3 if left out.")
@click.option("--width", type=int, help="256 if left out.")
@click.option("--epochs", default=20, show_default=True)
@click.option("--batch", default=256, show_default=True, help="Pairs in a step.")
@click.option("--rate", default=1e-3, show_default=True, help="The highest learning rate.")
@click.option("--precision", default="fp32", show_default=True, help="fp32 or bf16, as 'edgellm distill' has it.")
@click.option("--seed", default=0, show_default=True)
@click.option("--threads", type=int, help="Of torch; all cores if left out.")
@click.option("--seconds", type=float, help="Stop with a checkpoint after these; the same command goes on.")
def train(
    folder: Path, out: Path, start: Path | None, encoder_layers: int | None, decoder_layers: int | None,
    width: int | None, epochs: int, batch: int, rate: float, precision: str, seed: int, threads: int | None,
    seconds: float | None,
) -> None:  # fmt: skip
    """Train on FOLDER, which data.py wrote."""
    import torch
    from transformers import BartForConditionalGeneration, DataCollatorForSeq2Seq

    from edgellm.core.training import Training
    from edgellm.training.fit import fit, prepare

    options = Training(
        epochs=epochs, batch=batch, rate=rate, precision=precision, seed=seed, threads=threads, seconds=seconds,
        schedule="cosine",
    )  # fmt: skip
    if (out / "config.json").exists():
        raise UsageError(f"{out} holds a model already.", hint="Train it on with --start, or choose another --out.")
    if start is not None:
        check_folder(start)
    prepare(options)
    tokenizer = open_tokenizer(folder / "tokenizer")
    begins = ""
    if start is None:
        model = BartForConditionalGeneration(shape(tokenizer, encoder_layers or 3, decoder_layers or 3, width or 256))
    elif encoder_layers or decoder_layers or width:
        raise UsageError("A model that is trained on keeps its shape.", hint="Leave out layers and width, or --start.")
    else:
        model = BartForConditionalGeneration.from_pretrained(
            start, dtype=torch.float32, local_files_only=True, use_safetensors=True
        )
        begins = hashlib.sha256((start / "model.safetensors").read_bytes()).hexdigest()
    sets = {part: encode(read_words(folder / f"{part}.tsv"), folder / "tokenizer") for part in ("train", "dev")}
    digests = {name: hashlib.sha256(json.dumps(rows).encode()).hexdigest() for name, rows in sets.items()}
    trained = fit(
        smoothed(model), options, out, identity={"config": model.config.to_diff_dict(), "begins as": begins, **digests},
        train=sets["train"], dev=sets["dev"], collate=DataCollatorForSeq2Seq(tokenizer, model=model), keep=True,
    )  # fmt: skip
    if trained.status == "paused":
        click.echo(f"Stopped at step {trained.steps} of {trained.of_steps}; the same command goes on from there.")
        return
    model.save_pretrained(out)
    for name in ("tokenizer.json", "target_tokenizer.json"):
        (out / name).write_bytes((folder / "tokenizer" / name).read_bytes())
    shutil.rmtree(out / CHECKPOINTS)
    click.echo(
        f"Step {trained.best_step} of {trained.of_steps} is kept, dev loss {trained.best:.4f}; {trained.cpu_seconds:.0f} s of "
        "CPU time in this run."
    )


def shape(tokenizer: PreTrainedTokenizerFast, encoder_layers: int, decoder_layers: int, width: int) -> BartConfig:
    """Return the configuration of a new model."""
    from transformers import BartConfig

    return BartConfig(
        vocab_size=len(tokenizer), d_model=width, encoder_layers=encoder_layers, decoder_layers=decoder_layers,
        encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=4 * width, decoder_ffn_dim=4 * width,
        max_position_embeddings=MAX_LENGTH, pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, decoder_start_token_id=tokenizer.eos_token_id, forced_eos_token_id=None,
    )  # fmt: skip


def smoothed(model: BartForConditionalGeneration) -> nn.Module:
    """Return a module whose loss is the model's with smoothed labels while it learns."""
    from torch import nn
    from torch.nn import functional

    class Smoothed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, labels: Tensor, **fed: Tensor) -> dict[str, Tensor]:
            logits = self.model(labels=labels, **fed).logits
            smoothing = SMOOTHING if self.training else 0.0
            return {
                "loss": functional.cross_entropy(
                    logits.float().flatten(0, 1), labels.flatten(), label_smoothing=smoothing
                )
            }

    return Smoothed()


if __name__ == "__main__":
    try:
        train()
    except EdgellmError as error:
        click.echo(f"train: {' '.join(str(error).split())}", err=True)
        sys.exit(error.exit_code)
