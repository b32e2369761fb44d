"""Teachers: models that make a text of another, token by token or in one pass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from edgellm.distill.kinds import OnePass, opened
from edgellm.distill.onepass import answers
from edgellm.distill.pairs import open_tokenizers
from edgellm.distill.students import CTC_TYPE, MASK_PREDICT_TYPE, type_of
from edgellm.distill.teacher import SingleTeacher
from edgellm.errors import InputError, first_line
from edgellm.models.ctc import CtcForSeq2Seq
from edgellm.stages.source import check_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Autoregressive(SingleTeacher):
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
        """Return the likeliest output of each text that beam search finds, and nothing where it was cut off."""
        ends = self._ends()
        encoded = [encoding.ids for encoding in self.read.encode_batch(list(texts))]
        said = [""] * len(texts)
        for places, batch in self._batches(encoded, range(len(encoded))):
            longest = batch["input_ids"].shape[1]
            with torch.no_grad():
                made = self.model.generate(
                    **batch, num_beams=beams, do_sample=False, length_penalty=1.0,
                    max_new_tokens=min(slots * longest + 1, self.longest - 1),
                )  # fmt: skip
            for i, ids in zip(places, made.tolist(), strict=True):
                if not ends or ends & set(ids[1:]):  # the first may be the end as well, and starts it here
                    said[i] = self.write.decode(ids, skip_special_tokens=True)
        return said

    def check_likelihoods(self) -> None:
        """Raise where no token ends an output."""
        if not self._ends():
            raise InputError(
                f"{self.folder} names no token that ends an output: whole outputs have no probability.",
                hint="Set eos_token_id in its generation_config.json, or let the others teach without it.",
            )

    def likelihoods(self, texts: Sequence[str], outputs: Sequence[str]) -> list[float]:
        """Return the logarithm of the probability of each output and its end, which are read as if the model had said them."""
        if not outputs:
            return []
        ends = sorted(self._ends())
        begin = self.begin(max(outputs, key=len))
        ids, targets = self._encoded(texts, outputs)
        found = [-math.inf] * len(texts)
        for places, batch in self._batches(
            ids, (i for i, said in enumerate(targets) if len(begin) + len(said) <= self.longest)
        ):
            said = [targets[i] for i in places]
            given = torch.full((len(said), len(begin) + max(map(len, said))), self.model.config.pad_token_id)
            for row, target in zip(given, said, strict=True):
                row[: len(begin) + len(target)] = torch.tensor([*begin, *target])
            with torch.no_grad():
                logits = self.model(**batch, decoder_input_ids=given.to(self.model.device), use_cache=False).logits
            for i, row, target in zip(places, logits[:, len(begin) - 1 :], said, strict=True):
                chances = row[: len(target) + 1].float().log_softmax(-1)
                found[i] = float(chances[range(len(target)), target].sum() + chances[-1, ends].logsumexp(-1))
        return found

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


class OnePassTeacher(SingleTeacher):
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

    def check_likelihoods(self) -> None:
        """Raise where the model fills masks: what it goes over again has no probability."""
        if not isinstance(self.model, CtcForSeq2Seq):
            raise InputError(
                f"{self.folder} predicts masks, and has no probability for what another model says.",
                hint="Models that answer token by token, and CTC models, can teach together.",
            )

    def likelihoods(self, texts: Sequence[str], outputs: Sequence[str]) -> list[float]:
        """Return the logarithm of the sum of the probabilities of all paths that say each output, in nats."""
        blank = self.model.config.pad_token_id
        ids, targets = self._encoded(texts, outputs)
        found = [-math.inf] * len(texts)
        for places, batch in self._batches(ids, range(len(ids))):
            labels = [torch.tensor(targets[i]) for i in places]
            with torch.no_grad():
                made = self.model(**batch)
                losses = functional.ctc_loss(
                    made.logits.float().log_softmax(-1).transpose(0, 1), torch.cat(labels).to(self.model.device),
                    made.slot_mask.sum(-1).long(), torch.tensor([len(each) for each in labels]), blank=blank, reduction="none",
                )  # fmt: skip
            for i, loss in zip(places, losses.tolist(), strict=True):
                found[i] = -loss
        return found


def open_teacher(folder: Path) -> SingleTeacher:
    """Return the teacher in a folder.

    Raises:
        InputError: the folder holds no such model.

    """
    check_folder(folder)
    return OnePassTeacher(folder) if type_of(folder) in (CTC_TYPE, MASK_PREDICT_TYPE) else Autoregressive(folder)
