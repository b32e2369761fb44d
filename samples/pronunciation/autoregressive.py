"""Trains a model that says a word's phones one after the other: the teacher, and the baseline that one pass is held against.

The dev words only show how it goes: the last weights are kept. Run it again with the same options, and it goes on from where
it was cut off.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgellm.errors import EdgellmError, InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

BATCH = 256
MAX_LENGTH = 48
"""Of letters or phones, with the mark of the end."""


def read_pairs(path: Path) -> list[tuple[str, str]]:
    """Return words and pronunciations."""
    try:
        rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror}.", hint="data.py writes it.") from None
    return [(word, said) for word, said in rows]


def open_tokenizer(folder: Path, name: str = "tokenizer.json") -> PreTrainedTokenizerFast:
    """Return a tokenizer that knows its special tokens."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_file=str(folder / name), pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>",
        model_max_length=MAX_LENGTH, clean_up_tokenization_spaces=False,
    )  # fmt: skip


def encode(pairs: list[tuple[str, str]], folder: Path) -> list[dict[str, list[int]]]:
    """Return ids of letters, and of phones with the mark of the end."""
    source, target = open_tokenizer(folder), open_tokenizer(folder, "target_tokenizer.json")
    end = target.eos_token_id
    asked = source([word for word, _ in pairs])["input_ids"]
    said = target([said for _, said in pairs])["input_ids"]
    return [{"input_ids": a, "labels": [*b, end]} for a, b in zip(asked, said, strict=True)]


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the model.")
@click.option("--encoder-layers", default=3, show_default=True)
@click.option("--decoder-layers", default=3, show_default=True)
@click.option("--width", default=256, show_default=True)
@click.option("--epochs", default=20, show_default=True)
@click.option("--rate", default=1e-3, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--threads", default=0, help="Of torch; all cores if left out.")
def train(
    folder: Path, out: Path, encoder_layers: int, decoder_layers: int, width: int, epochs: int, rate: float, seed: int,
    threads: int,
) -> None:  # fmt: skip
    """Train on FOLDER, which data.py wrote."""
    import torch
    from transformers import (
        BartConfig,
        BartForConditionalGeneration,
        DataCollatorForSeq2Seq,
        Trainer,
        TrainingArguments,
        set_seed,
    )
    from transformers.trainer_utils import get_last_checkpoint

    if threads:
        torch.set_num_threads(threads)
    set_seed(seed)
    tokenizer = open_tokenizer(folder / "tokenizer")
    model = BartForConditionalGeneration(
        BartConfig(
            vocab_size=len(tokenizer), d_model=width, encoder_layers=encoder_layers, decoder_layers=decoder_layers,
            encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=4 * width, decoder_ffn_dim=4 * width,
            max_position_embeddings=MAX_LENGTH, pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id, decoder_start_token_id=tokenizer.eos_token_id, forced_eos_token_id=None,
        )
    )  # fmt: skip
    sets = {part: encode(read_pairs(folder / f"{part}.tsv"), folder / "tokenizer") for part in ("train", "dev")}
    checkpoints = out / "checkpoints"
    arguments = TrainingArguments(
        output_dir=str(checkpoints), num_train_epochs=epochs, per_device_train_batch_size=BATCH,
        per_device_eval_batch_size=BATCH, learning_rate=rate, lr_scheduler_type="cosine", warmup_steps=0.05,
        weight_decay=0.01, label_smoothing_factor=0.1, train_sampling_strategy="group_by_length",
        eval_strategy="epoch", save_strategy="steps", save_steps=200, save_total_limit=1, logging_steps=50, seed=seed,
        use_cpu=True, report_to=[], disable_tqdm=not sys.stderr.isatty(),
    )  # fmt: skip
    collator = DataCollatorForSeq2Seq(tokenizer, model=model)
    trainer = Trainer(
        model=model, args=arguments, train_dataset=sets["train"], eval_dataset=sets["dev"], data_collator=collator
    )
    last = get_last_checkpoint(str(checkpoints)) if checkpoints.is_dir() else None
    trainer.train(resume_from_checkpoint=last)
    model.save_pretrained(out)
    for name in ("tokenizer.json", "target_tokenizer.json"):
        (out / name).write_bytes((folder / "tokenizer" / name).read_bytes())


if __name__ == "__main__":
    try:
        train()
    except EdgellmError as error:
        click.echo(f"train: {' '.join(str(error).split())}", err=True)
        sys.exit(error.exit_code)
