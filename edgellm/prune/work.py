"""Work: scores a model's structures, removes them, and proves that what is written is the model with its gates closed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from edgellm.core.prune import Change, Layer
from edgellm.errors import GateError, InputError, UsageError
from edgellm.prune import losses, surgery
from edgellm.prune.blocks import Encoder, find
from edgellm.prune.choose import Kept, choose, ensure_reachable, remaining
from edgellm.prune.importance import Batch, importance
from edgellm.prune.setup import Setup
from edgellm.prune.write import write_model
from edgellm.stages.load import load
from edgellm.stages.source import SourceModel, read_source

_PROVED_ON = 8
"""Texts that the smaller model is run on."""


@dataclass(frozen=True)
class Smaller:
    """A model that was cut and written.

    Attributes:
        layers: what each lost.
        encoder, parameters, macs: counts before and after.

    """

    layers: tuple[Layer, ...]
    encoder: Change
    parameters: Change
    macs: Change


def shrink(setup: Setup, folder: Path, say: Callable[[str], None]) -> Smaller:
    """Write a smaller model into `folder`.

    Raises:
        UsageError: so much can't be removed.
        InputError: the architecture can't be pruned so, or the examples can't be used.
        GateError: the model that was written is not what was chosen.

    """
    source = setup.source
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    model: Any = load(source).eval().requires_grad_(False)
    encoder = find(model)
    made = losses.items(source, setup.scoring, setup.max_tokens)
    runs = losses.outputs(source, model, made[:: -(-len(made) // _PROVED_ON)])
    _ensure_possible(encoder, setup, runs[0])
    kept = _chosen(encoder, setup, losses.batches(source, model, made, setup.options.seed), say)
    expected = surgery.masked(encoder, kept, runs)
    shapes = encoder.shapes()
    layers = _layers(encoder, kept)
    before = surgery.multiply_accumulates(model, setup.max_tokens)
    encoder_parameters = Change(sum(shape.parameters for shape in shapes), remaining(shapes, kept))
    surgery.cut(encoder, kept)
    write_model(model, source, folder)
    pruned = pruned_source(source, folder)
    smaller: Any = load(pruned).eval()
    proof = losses.outputs(source, smaller, made[:: -(-len(made) // _PROVED_ON)])
    with torch.no_grad():
        worst = max(surgery.apart(a, run()) for a, run in zip(expected, proof, strict=True))
    if not worst < surgery.EXACT:
        raise GateError(
            f"The model that was written is not the source without what was removed: its outputs differ by {worst:.0e}."
        )
    after = surgery.multiply_accumulates(smaller, setup.max_tokens)
    return Smaller(layers, encoder_parameters, Change(source.parameters, pruned.parameters), Change(before, after))


def pruned_source(source: SourceModel, folder: Path) -> SourceModel:
    """Return the description of a pruned model in a folder, with the options of what it was made of."""
    pooling = source.options.pooling if source.task == "feature-extraction" else None
    read = read_source(str(folder), task=source.task, tokenizer=None, pooling=pooling, describe=lambda name: {})
    return dataclasses.replace(read, options=source.options, name=source.name)


def _ensure_possible(encoder: Encoder, setup: Setup, run: surgery.Run) -> None:
    reasons = surgery.probe(encoder, setup.structures, run)
    if reasons:
        named = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
        rest = [name for name in setup.structures if name not in reasons]
        raise InputError(
            f"{type(encoder.model).__name__} can't lose what was asked for ({named}).",
            hint=f"Use --structure {','.join(rest)}." if rest else "Use another --structure.",
        )


def _chosen(encoder: Encoder, setup: Setup, batches: Sequence[Batch], say: Callable[[str], None]) -> Kept:
    """Return what is left after all rounds; each scores what is left anew."""
    options, shapes = setup.options, encoder.shapes()
    kept = Kept.everything(shapes)
    total = sum(shape.parameters for shape in shapes)
    ensure_reachable(shapes, setup.structures, options.sparsity)
    for number in range(1, options.rounds + 1):
        scores = importance(encoder, batches, kept)
        aim = options.sparsity if number == options.rounds else options.sparsity * number / options.rounds
        kept = choose(shapes, scores, kept, structures=setup.structures, sparsity=aim, limit=options.sparsity)
        say(
            f"round {number} of {options.rounds}: {1 - remaining(shapes, kept) / total:.1%} of the layers' parameters removed"
        )
    if remaining(shapes, kept) == total:
        raise UsageError(
            f"--sparsity {options.sparsity:g} is less than half of the smallest thing that --structure {options.structure} "
            "can remove.",
            hint="Remove more, or name ffn as well.",
        )
    return kept


def _layers(encoder: Encoder, kept: Kept) -> tuple[Layer, ...]:
    layers = []
    for number, block in enumerate(encoder.blocks):
        stays = bool(kept.layers[number])
        heads, neurons = kept.heads[number], kept.neurons[number]
        layers.append(
            Layer(
                block.name, not stays, int(heads.sum()) * stays, heads.size, int(neurons.sum()) * stays, neurons.size,
                tuple(map(int, np.flatnonzero(~heads))) if stays else tuple(range(heads.size)),
            )
        )  # fmt: skip
    return tuple(layers)
