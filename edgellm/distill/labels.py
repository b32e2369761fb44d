"""Labels: what an autoregressive teacher makes of texts by beam search, kept in shards.

Sequence-level distillation (Kim and Rush 2016, https://arxiv.org/abs/1606.07947): a teacher's likeliest outputs are easier to
learn than people's, and there are as many as there are texts. A shard is written at once or not at all, and is named by what
it is of, so that several machines can make some each, a labelling that was cut off goes on, and the next training reads them.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from edgellm.distill.pairs import Pair, open_tokenizers, read_pairs
from edgellm.errors import InputError, UsageError, first_line
from edgellm.runtime.bundle import sha256_file
from edgellm.stages.source import check_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SHARD = 4096
"""Texts in a shard."""

_BATCH = 128
"""Texts that are labelled side by side, at most."""


class Teacher:
    """A sequence-to-sequence model that answers token by token.

    Attributes:
        folder: of `save_pretrained`.
        model: in evaluation mode.
        read, write: its tokenizers of inputs and outputs.
        longest: tokens of an input or an output at most.

    Raises:
        InputError: the folder holds no such model.

    """

    def __init__(self, folder: Path) -> None:
        import transformers

        self.folder = check_folder(folder)
        try:
            self.model: PreTrainedModel = transformers.AutoModelForSeq2SeqLM.from_pretrained(
                folder, dtype=torch.float32, use_safetensors=True, local_files_only=True, trust_remote_code=False
            ).eval()
        except (ValueError, KeyError, OSError, RuntimeError) as error:
            raise InputError(
                f"{folder} is no sequence-to-sequence teacher: {first_line(error)}.",
                hint="A teacher is a model that AutoModelForSeq2SeqLM loads, with its tokenizer.json.",
            ) from None
        self.read, self.write = open_tokenizers(folder)
        self.longest = int(getattr(self.model.config, "max_position_embeddings", None) or 1024)

    def digest(self) -> str:
        """Return the SHA-256 of weights, configuration and tokenizers."""
        files = [
            self.folder / "config.json",
            *sorted(self.folder.glob("*.safetensors")),
            *sorted(self.folder.glob("*tokenizer.json")),
        ]
        return hashlib.sha256("".join(map(sha256_file, files)).encode()).hexdigest()

    def answer(self, texts: Sequence[str], *, beams: int, slots: int) -> list[str]:
        """Return the likeliest output of each text that beam search finds.

        Args:
            texts: to label.
            beams: of the search.
            slots: tokens of an output at most, for each token of the input.

        """
        encoded = self.read.encode_batch(list(texts))
        order = sorted(range(len(texts)), key=lambda i: len(encoded[i].ids))
        pad = self.model.config.pad_token_id
        answers = [""] * len(texts)
        for start in range(0, len(order), _BATCH):
            batch = order[start : start + _BATCH]
            longest = max(len(encoded[i].ids) for i in batch)
            ids = torch.full((len(batch), longest), pad)
            for row, i in enumerate(batch):
                ids[row, : len(encoded[i].ids)] = torch.tensor(encoded[i].ids)
            with torch.no_grad():
                made = self.model.generate(
                    input_ids=ids, attention_mask=(ids != pad).long(), num_beams=beams, do_sample=False,
                    max_new_tokens=min(slots * longest, self.longest - 1), length_penalty=1.0,
                )  # fmt: skip
            for i, said in zip(batch, made.tolist(), strict=True):
                answers[i] = self.write.decode(said, skip_special_tokens=True)
        return answers


def label(
    teacher: Teacher, texts: Sequence[str], folder: Path, *, beams: int, slots: int, part: tuple[int, int] = (1, 1),
    report: Callable[[int, int], None] = lambda done, total: None,
) -> list[Path]:  # fmt: skip
    """Write the shards that miss of this part, and return the paths of all shards of it.

    Args:
        teacher: that answers.
        texts: in the same order on every machine.
        folder: of the shards.
        beams, slots: as `Teacher.answer` takes them.
        part: the third of five machines is (3, 5).
        report: told the texts that are labelled, and all of them.

    Raises:
        UsageError: there is no such part.

    """
    number, parts = part
    if not 1 <= number <= parts:
        raise UsageError(f"There is no part {number} of {parts}.", hint="--part 1/4 is the first of four.")
    shards = list(_shards(teacher, texts, folder, beams=beams, slots=slots))[number - 1 :: parts]
    total, done = sum(len(lines) for _, lines in shards), 0
    folder.mkdir(parents=True, exist_ok=True)
    for path, lines in shards:
        if not path.is_file():
            answers = teacher.answer(lines, beams=beams, slots=slots)
            said = [" ".join(answer.split()) for answer in answers]
            rows = [f"{text}\t{answer}\n" for text, answer in zip(lines, said, strict=True) if answer]
            part_file = path.with_suffix(f".{os.getpid()}.part")
            part_file.write_text("".join(rows), encoding="utf-8")
            part_file.replace(path)
        done += len(lines)
        report(done, total)
    return [path for path, _ in shards]


def read_labels(paths: Sequence[Path]) -> list[Pair]:
    """Return what shards hold; one in which the teacher was silent is empty."""
    return [pair for path in paths if path.stat().st_size for pair in read_pairs(path)]


def _shards(
    teacher: Teacher, texts: Sequence[str], folder: Path, *, beams: int, slots: int
) -> Iterator[tuple[Path, Sequence[str]]]:
    made_by = f"{teacher.digest()} {beams} {slots}"
    for start in range(0, len(texts), SHARD):
        lines = texts[start : start + SHARD]
        digest = hashlib.sha256("\n".join([made_by, *lines]).encode("utf-8", "surrogatepass")).hexdigest()
        yield folder / f"{digest[:24]}.tsv", lines
