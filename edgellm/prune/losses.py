"""Losses: what a task's model loses on an example, for the gradients of its gates."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional

from edgellm.core.training import IGNORED
from edgellm.distill import pairs
from edgellm.distill.labelled import tags
from edgellm.errors import InputError
from edgellm.models.ctc import ctc_loss
from edgellm.prune.importance import Batch
from edgellm.runtime.tokenizer import Tokenizer
from edgellm.stages.source import SourceModel
from edgellm.stages.vocabulary import as_shipped
from edgellm.tasks import Encoding, Example, load_task

_BATCH = 16


@dataclass(frozen=True)
class Item:
    """One forward pass of one example.

    Attributes:
        ids, types: int, one per token.
        target: what is right for it: a class, a number or one per label, one per token, or ids.

    """

    ids: tuple[int, ...]
    types: tuple[int, ...]
    target: object = None


def items(source: SourceModel, examples: Sequence[Example], max_tokens: int) -> list[Item]:
    """Return the forward passes of labelled examples, or of texts.

    Raises:
        InputError: none of them can be used.

    """
    if source.task == "ctc-seq2seq":
        return _ctc(source, examples, max_tokens)
    with tempfile.TemporaryDirectory(prefix="edgellm-") as folder:
        path = Path(folder) / "tokenizer.json"
        own = Path(source.tokenizer).read_text(encoding="utf-8")
        path.write_text(as_shipped(own, lowercase=source.lowercase), encoding="utf-8")
        tokenizer = Tokenizer(path, max_tokens)
    task, made = load_task(source.task), []
    for example in examples:
        for raw in example.inputs:
            for number, encoding in enumerate(task.encode(raw, tokenizer, source.options)):
                target = _target(source, example, raw, encoding, first=number == 0)
                if not isinstance(target, tuple) or any(each != IGNORED for each in target):
                    made.append(Item(encoding.ids, encoding.type_ids, target))
    if not made:
        raise InputError("None of the examples has a word to score.")
    return made


def batches(source: SourceModel, model: nn.Module, made: Sequence[Item], seed: int = 0) -> list[Batch]:
    """Return examples of like lengths in batches, each of which runs the model and returns its losses.

    Args:
        source: whose task says what is lost; without labels it is the product of the output with random signs.
        model: of transformers, in evaluation mode.
        made: forward passes.
        seed: of the signs.

    """
    losses = _LOSSES[source.task]
    ordered = sorted(made, key=lambda item: len(item.ids))
    groups = [ordered[start : start + _BATCH] for start in range(0, len(ordered), _BATCH)]
    return [
        Batch(len(group), partial(losses, source, model, group, seed + number)) for number, group in enumerate(groups)
    ]


def outputs(source: SourceModel, model: nn.Module, made: Sequence[Item]) -> list[Callable[[], torch.Tensor]]:
    """Return functions that run the model, with its task's head, on one forward pass each."""
    return [partial(_output, source, model, [item]) for item in made]


def _feeds(source: SourceModel, group: Sequence[Item]) -> dict[str, torch.Tensor]:
    longest = max(len(item.ids) for item in group)

    def padded(rows: Sequence[tuple[int, ...]], value: int) -> torch.Tensor:
        return torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows])

    columns = {
        "input_ids": [item.ids for item in group],
        "attention_mask": [(1,) * len(item.ids) for item in group],
        "token_type_ids": [item.types for item in group],
    }
    return {spec.name: padded(columns[spec.name], spec.pad) for spec in source.inputs}


def _output(source: SourceModel, model: nn.Module, group: Sequence[Item]) -> torch.Tensor:
    """Return what the source's output is made of: logits, or vectors."""
    feeds = _feeds(source, group)
    if source.task == "feature-extraction":
        vectors: torch.Tensor = load_task(source.task).wrap(model, source.options)(**feeds)
        if vectors.dim() == 3:
            vectors = vectors * feeds["attention_mask"].unsqueeze(-1)
        return vectors
    logits: torch.Tensor = model(**feeds).logits
    return logits


def _vectors(source: SourceModel, model: nn.Module, group: Sequence[Item], seed: int) -> torch.Tensor:
    found = _output(source, model, group)
    signs = torch.randint(0, 2, found.shape, generator=torch.Generator().manual_seed(seed)) * 2.0 - 1.0
    return (found * signs).flatten(1).sum(1)


def _classes(source: SourceModel, model: nn.Module, group: Sequence[Item], seed: int) -> torch.Tensor:
    logits = _output(source, model, group)
    targets = torch.tensor([cast(Any, item.target) for item in group])
    if source.options.scores == "softmax":
        return functional.cross_entropy(logits, targets, reduction="none")
    if source.options.scores == "none":
        return (logits - targets).square().sum(-1)
    return functional.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(-1)


def _tags(source: SourceModel, model: nn.Module, group: Sequence[Item], seed: int) -> torch.Tensor:
    logits = _output(source, model, group)
    targets = torch.full(logits.shape[:2], IGNORED)
    for row, item in enumerate(group):
        given = cast("tuple[int, ...]", item.target)
        targets[row, : len(given)] = torch.tensor(given)
    each = functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none", ignore_index=IGNORED)
    return each.sum(1) / (targets != IGNORED).sum(1)


def _sequences(source: SourceModel, model: nn.Module, group: Sequence[Item], seed: int) -> torch.Tensor:
    found: Any = model(**_feeds(source, group))
    blank = cast(int, source.options.pad_id)

    def one(logits: torch.Tensor, row: int) -> torch.Tensor:
        target = torch.tensor([cast("tuple[int, ...]", group[row].target)])
        return ctc_loss(logits[row : row + 1], found.slot_mask[row : row + 1], target, blank)

    inner = found.inner_logits or ()
    # As CtcForSeq2Seq adds them up.
    return torch.stack(
        [
            one(found.logits, row) if not inner
            else 0.5 * one(found.logits, row) + 0.5 * torch.stack([one(each, row) for each in inner]).mean()
            for row in range(len(group))
        ]
    )  # fmt: skip


_LOSSES: dict[str, Callable[[SourceModel, nn.Module, Sequence[Item], int], torch.Tensor]] = {
    "ctc-seq2seq": _sequences,
    "feature-extraction": _vectors,
    "text-classification": _classes,
    "token-classification": _tags,
}


def _target(source: SourceModel, example: Example, raw: object, encoding: Encoding, *, first: bool) -> object:
    labels, gold = source.options.labels, example.gold
    if source.task == "feature-extraction":
        return None
    if source.task == "token-classification":
        return tuple(tags(raw, gold, encoding, source.options, first=first))
    if source.options.scores == "softmax":
        return labels.index(cast(str, gold))
    if source.options.scores == "none":
        return [cast(float, gold)]
    return [float(label in cast("tuple[str, ...]", gold)) for label in labels]


def _ctc(source: SourceModel, examples: Sequence[Example], max_tokens: int) -> list[Item]:
    folder = Path(source.tokenizer).parent
    given = [
        pairs.Pair(cast(str, each.inputs[0]), target)
        for each in examples
        for target in cast("tuple[str, ...]", each.gold)[:1]
    ]
    encoded = pairs.encode(
        given, pairs.open_tokenizers(folder), slots=source.options.slots, longest=max_tokens, unknown=None
    )
    if not encoded.examples:
        raise InputError(f"None of the pairs can be used. {encoded.left_out()}")
    return [
        Item(tuple(each["input_ids"]), (0,) * len(each["input_ids"]), tuple(each["labels"]))
        for each in encoded.examples
    ]
