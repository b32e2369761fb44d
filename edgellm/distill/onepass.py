"""What one-pass models answer: to batches while they are trained, and to texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch.nn.utils.rnn import pad_sequence

from edgellm.core.distill import Score
from edgellm.core.training import IGNORED
from edgellm.distill.kinds import Kind, OnePass, kind_of
from edgellm.distill.pairs import Pair, open_tokenizers
from edgellm.tasks._ctc import edits

_BATCH = 256


class Collate:
    """Pads examples to a batch."""

    def __init__(self, pad: int) -> None:
        """Take the id of padding."""
        self.pad = pad

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Return input_ids and attention_mask [batch, tokens], and labels [batch, outputs] where there are some, int64."""
        ids = [torch.tensor(each["input_ids"], dtype=torch.long) for each in examples]
        batch = {
            "input_ids": pad_sequence(ids, batch_first=True, padding_value=self.pad),
            "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
        }
        if "labels" in examples[0]:
            labels = [torch.tensor(each["labels"]) for each in examples]
            batch["labels"] = pad_sequence(labels, batch_first=True, padding_value=IGNORED)
        return batch


class Errors:
    """What is wrong of a Trainer's predictions, each dev pair by itself.

    "token_errors" is the share of edits over all tokens, "errors" that of pairs that are not right to the letter.
    """

    def __init__(self, kind: Kind, pad: int) -> None:
        """Take the kind of the student, and its id of padding."""
        self.kind, self.pad = kind, pad

    def reduce(self, outputs: Sequence[torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
        """Return what is kept of a batch: the token of each place."""
        return self.kind.said(outputs)

    def __call__(self, predicted: Any) -> dict[str, float]:
        """Return both shares."""
        edited = length = wrong = 0
        for places, labels in zip(np.asarray(predicted.predictions), np.asarray(predicted.label_ids), strict=True):
            target = [id for id in labels.tolist() if id != IGNORED]
            distance = edits(target, self.kind.read(places.tolist(), self.pad))
            edited += distance
            wrong += distance > 0
            length += len(target)
        return {"token_errors": edited / length, "errors": wrong / len(predicted.predictions)}


def score(model: OnePass, tokenizer: Path, pairs: Sequence[Pair]) -> Score:
    """Return how a model does on pairs. Inputs that it can't read count as wrong."""
    read, write = open_tokenizers(tokenizer)
    targets: dict[str, list[list[int]]] = {}
    encoded = write.encode_batch([pair.target for pair in pairs], add_special_tokens=False)
    for pair, target in zip(pairs, encoded, strict=True):
        targets.setdefault(pair.text, []).append(target.ids)
    said = answers(model, read, list(targets))
    wrong = edited = length = 0
    for ids, right in zip(said, targets.values(), strict=True):
        nearest = min(right, key=lambda each: edits(each, ids))
        wrong += tuple(nearest) != ids
        edited += edits(nearest, ids)
        length += len(nearest)
    return Score(len(targets), 100 * wrong / len(targets), 100 * edited / length)


def answers(model: OnePass, read: Tokenizer, texts: Sequence[str]) -> list[tuple[int, ...]]:
    """Return the ids that a model gives for each text, by the likeliest token of each place."""
    model.eval()
    kind, pad, longest = kind_of(model), model.config.pad_token_id, model.config.max_position_embeddings
    encoded = [encoding.ids[:longest] for encoding in read.encode_batch(list(texts))]
    order = sorted((i for i, ids in enumerate(encoded) if ids), key=lambda i: len(encoded[i]))
    said: list[tuple[int, ...]] = [()] * len(texts)
    for start in range(0, len(order), _BATCH):
        rows = order[start : start + _BATCH]
        batch = Collate(pad)([{"input_ids": encoded[i]} for i in rows])
        with torch.no_grad():
            outputs = model(**{name: tensor.to(model.device) for name, tensor in batch.items()})
        for i, places in zip(rows, kind.said(outputs.to_tuple()).tolist(), strict=True):
            said[i] = kind.read(places, pad)
    return said
