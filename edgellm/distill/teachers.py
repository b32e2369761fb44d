"""Teachers: models that make a text of another, token by token or in one pass."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch

from edgellm.distill.kinds import OnePass, opened
from edgellm.distill.onepass import Collate, answers
from edgellm.distill.pairs import open_tokenizers
from edgellm.distill.students import CTC_TYPE, MASK_PREDICT_TYPE, type_of
from edgellm.errors import InputError, first_line
from edgellm.runtime.bundle import sha256_file
from edgellm.stages.source import check_folder

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel

_BATCH = 128
"""Texts that are labelled side by side, at most."""


class Teacher(Protocol):
    """A sequence-to-sequence model.

    Attributes:
        folder: of `save_pretrained`.
        model: in evaluation mode.
        read, write: its tokenizers of inputs and outputs.
        longest: tokens of an input at most.

    """

    folder: Path
    model: PreTrainedModel
    read: Tokenizer
    write: Tokenizer
    longest: int

    def answer(self, texts: Sequence[str], *, beams: int, slots: int) -> list[str]:
        """Return the likeliest output of each text that it finds; an empty one where it comes to no end.

        Args:
            texts: to label.
            beams: of the search, where it searches.
            slots: tokens of an output at most, for each token of the input, where nothing else bounds it.

        """


def open_teacher(folder: Path) -> Teacher:
    """Return the teacher in a folder.

    Raises:
        InputError: the folder holds no such model.

    """
    check_folder(folder)
    return OnePassTeacher(folder) if type_of(folder) in (CTC_TYPE, MASK_PREDICT_TYPE) else Autoregressive(folder)


def digest(teacher: Teacher) -> str:
    """Return the SHA-256 of a teacher's weights, configurations and tokenizers."""
    folder = teacher.folder
    files = [
        *sorted(folder.glob("*config.json")),
        *sorted(folder.glob("*.safetensors")),
        *sorted(folder.glob("*tokenizer.json")),
    ]
    return hashlib.sha256("".join(map(sha256_file, files)).encode()).hexdigest()


class Autoregressive:
    """A teacher that answers token by token; see `Teacher`.

    Raises:
        InputError: the folder holds no such model.

    """

    def __init__(self, folder: Path) -> None:
        """Open it."""
        import transformers

        self.folder = folder
        try:
            self.model: PreTrainedModel = transformers.AutoModelForSeq2SeqLM.from_pretrained(
                folder, dtype=torch.float32, use_safetensors=True, local_files_only=True, trust_remote_code=False
            ).eval()
        except (ValueError, KeyError, OSError, RuntimeError) as error:
            raise InputError(
                f"{folder} is no sequence-to-sequence teacher: {first_line(error)}.",
                hint="A teacher is a model that AutoModelForSeq2SeqLM loads, or one that 'edgellm distill' made, with its "
                "tokenizer.json.",
            ) from None
        self.read, self.write = open_tokenizers(folder)
        self.longest = int(getattr(self.model.config, "max_position_embeddings", None) or 1024)

    def answer(self, texts: Sequence[str], *, beams: int, slots: int) -> list[str]:
        """Return the likeliest output of each text that beam search finds; nothing of what was cut off, or has no tokens."""
        ends = self._ends()
        encoded = [encoding.ids for encoding in self.read.encode_batch(list(texts))]
        order = sorted((i for i, ids in enumerate(encoded) if ids), key=lambda i: len(encoded[i]))
        said = [""] * len(texts)
        for start in range(0, len(order), _BATCH):
            batch = order[start : start + _BATCH]
            longest = max(len(encoded[i]) for i in batch)
            fed = Collate(self.model.config.pad_token_id)([{"input_ids": encoded[i]} for i in batch])
            with torch.no_grad():
                made = self.model.generate(
                    **{name: tensor.to(self.model.device) for name, tensor in fed.items()},
                    num_beams=beams, do_sample=False, max_new_tokens=min(slots * longest + 1, self.longest - 1),
                    length_penalty=1.0,
                )  # fmt: skip
            for i, ids in zip(batch, made.tolist(), strict=True):
                if not ends or ends & set(ids[1:]):  # the first may be the end as well, and starts it here
                    said[i] = self.write.decode(ids, skip_special_tokens=True)
        return said

    def _ends(self) -> set[int]:
        """Return the ids that end an output."""
        settings = self.model.generation_config
        ends = None if settings is None else settings.eos_token_id
        return set(ends) if isinstance(ends, list) else set() if ends is None else {int(ends)}

    def begin(self, target: str) -> tuple[int, ...]:
        """Return the ids that are read before an output's first token: the start, and the one that `generate` is made to say.

        Where it is made to say none, what the tokenizer puts there.

        Args:
            target: any output that has a token.

        Raises:
            InputError: the configuration does not name the start.

        """
        start = getattr(self.model.config, "decoder_start_token_id", None)
        if start is None:
            raise InputError(f"The config.json of {self.folder} has no decoder_start_token_id.")
        settings = self.model.generation_config
        forced = None if settings is None else settings.forced_bos_token_id
        if forced is not None:
            return int(start), int(forced)
        encoding = self.write.encode(target)
        first = next((i for i, special in enumerate(encoding.special_tokens_mask) if not special), 0)
        return (int(start), *encoding.ids[:first])


class OnePassTeacher:
    """A teacher that answers in one pass; see `Teacher`.

    Raises:
        InputError: the folder holds no such model.

    """

    def __init__(self, folder: Path) -> None:
        """Open it."""
        self.folder = folder
        self.model: OnePass = opened(folder).eval()
        self.read, self.write = open_tokenizers(folder)
        self.longest = int(self.model.config.max_position_embeddings)

    def answer(self, texts: Sequence[str], *, beams: int, slots: int) -> list[str]:
        """Return the output of each text by the likeliest token of each place: nothing is searched."""
        return [self.write.decode(list(ids), skip_special_tokens=True) for ids in answers(self.model, self.read, texts)]
