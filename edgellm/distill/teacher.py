"""Teacher: what answers texts so that a student can learn from it."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch

from edgellm.distill.onepass import Collate
from edgellm.runtime.bundle import sha256_file

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel

_BATCH = 128
"""Texts that are labelled side by side, at most."""


class Teacher(Protocol):
    """A sequence-to-sequence model, or several that answer together.

    Attributes:
        read, write: tokenizers of inputs and outputs.
        longest: tokens of an input at most.

    """

    read: Tokenizer
    write: Tokenizer
    longest: int

    @property
    def folders(self) -> tuple[Path, ...]:
        """Of `save_pretrained`, each with those tokenizers."""

    @property
    def parameters(self) -> int:
        """How many there are, in all models."""

    def digest(self) -> str:
        """Return the SHA-256 of weights, configurations and tokenizers."""

    def answer(self, texts: Sequence[str], *, beams: int, slots: int) -> list[str]:
        """Return the likeliest output of each text that is found; an empty one where none comes to an end.

        Args:
            texts: to label.
            beams: of the search, where something is searched.
            slots: tokens of an output at most, for each token of the input, where nothing else bounds it.

        """


class SingleTeacher(ABC):
    """One model; see `Teacher`.

    Attributes:
        folder: of `save_pretrained`.
        model: in evaluation mode.
        read, write: tokenizers of inputs and outputs.
        longest: tokens of an input at most.

    """

    folder: Path
    model: PreTrainedModel
    read: Tokenizer
    write: Tokenizer
    longest: int

    @property
    def folders(self) -> tuple[Path, ...]:
        """The one."""
        return (self.folder,)

    @property
    def parameters(self) -> int:
        """How many there are."""
        return int(self.model.num_parameters())

    def digest(self) -> str:
        """Return the SHA-256 of weights, configurations and tokenizers."""
        kinds = ("*config.json", "*.safetensors", "*tokenizer.json")
        files = [file for kind in kinds for file in sorted(self.folder.glob(kind))]
        return hashlib.sha256("".join(map(sha256_file, files)).encode()).hexdigest()

    @abstractmethod
    def answer(self, texts: Sequence[str], *, beams: int, slots: int) -> list[str]:
        """Return the output of each text; see `Teacher`."""

    @abstractmethod
    def check_likelihoods(self) -> None:
        """Check that the model has a probability for what another says.

        Raises:
            InputError: it has none.

        """

    @abstractmethod
    def likelihoods(self, texts: Sequence[str], outputs: Sequence[str]) -> list[float]:
        """Return the logarithm of the probability of each output, in nats; -inf where the model can't say it.

        Args:
            texts: that the model can read whole.
            outputs: one for each text.

        """

    def _encoded(self, texts: Sequence[str], outputs: Sequence[str]) -> tuple[list[list[int]], list[list[int]]]:
        asked = self.read.encode_batch(list(texts))
        said = self.write.encode_batch(list(outputs), add_special_tokens=False)
        return [encoding.ids for encoding in asked], [encoding.ids for encoding in said]

    def _batches(
        self, ids: Sequence[Sequence[int]], chosen: Iterable[int]
    ) -> Iterator[tuple[list[int], dict[str, torch.Tensor]]]:
        """Give places in `ids` of like lengths, and their batch as the model takes it, until all chosen were given."""
        order = sorted((i for i in chosen if ids[i]), key=lambda i: len(ids[i]))
        for start in range(0, len(order), _BATCH):
            places = order[start : start + _BATCH]
            batch = Collate(self.model.config.pad_token_id)([{"input_ids": ids[i]} for i in places])
            yield places, {name: tensor.to(self.model.device) for name, tensor in batch.items()}
