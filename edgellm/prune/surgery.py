"""Surgery: makes a model's matrices smaller, and proves beforehand that its architecture computes on with what is left."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from edgellm.errors import InputError, first_line
from edgellm.prune.blocks import Block, Encoder, columns, rows
from edgellm.prune.choose import EIGHT, Flags, Kept
from edgellm.prune.importance import Gates, gated

EXACT = 1e-4
"""Largest difference between the smaller model and the whole one with gates at 0, relative to the largest output: of fp32 sums
in another order, and nothing else."""

Run = Callable[[], torch.Tensor]
"""Runs the model on some text and returns its output."""


def cut(encoder: Encoder, kept: Kept) -> None:
    """Remove from a model, in place, what is not kept; the encoder is of no use afterwards.

    The configuration says how many layers are left. The width of each is what the checkpoint's matrices say, as no
    configuration has a field for it; `edgellm.stages.load` reads it from there.
    """
    for number, block in enumerate(encoder.blocks):
        _cut_heads(block, kept.heads[number])
        _cut_neurons(block, kept.neurons[number])
    first = 0
    for stack in encoder.stacks:
        stay = [place for place in range(len(stack.layers)) if kept.layers[first + place]]
        first += len(stack.layers)
        if len(stay) == len(stack.layers):
            continue
        _renumber(encoder.model.config, stack.count, stay)
        owner = encoder.model.get_submodule(stack.name.rpartition(".")[0])
        setattr(owner, stack.name.rpartition(".")[2], nn.ModuleList([stack.layers[place] for place in stay]))
        if isinstance(getattr(owner, "times", None), int):  # of CtcForSeq2Seq, which may share layers
            owner.times = len(stay)


def probe(encoder: Encoder, structures: Sequence[str], run: Run) -> dict[str, str]:
    """Return why structures can't be removed from this architecture, by name; empty where all can.

    One of each kind is removed from the first block for the length of a forward pass, which has to give what the whole model
    gives with that gate at 0. What was cut is put back.
    """
    shapes = encoder.shapes()
    trials: dict[str, Callable[[Kept], None]] = {
        "heads": lambda kept: kept.heads[0].__setitem__(0, False),
        "ffn": lambda kept: kept.neurons[0].__setitem__(slice(0, EIGHT), False),
    }
    reasons = {}
    for name in structures:
        if name not in trials:
            continue
        kept = Kept.everything(shapes)
        if (kept.heads if name == "heads" else kept.neurons)[0].size <= (1 if name == "heads" else EIGHT):
            continue
        trials[name](kept)
        reason = _fails(encoder, kept, run)
        if reason:
            reasons[name] = reason
    if "layers" in structures and not any(shape.removable for shape in shapes):
        shared = any(stack.shared for stack in encoder.stacks)
        reasons["layers"] = "its layers share one layer's weights" if shared else "each has to stay"
    return reasons


def _fails(encoder: Encoder, kept: Kept, run: Run) -> str:
    """Return why a block can't be cut, or an empty string."""
    block = encoder.blocks[0]
    if any(linear.out_features != block.attended.in_features for linear in block.attention):
        return "queries, keys and values have different widths"
    with torch.no_grad(), gated(encoder, Gates.of(kept, 1)):
        expected = run()
    linears = (*block.attention, block.attended, *block.feed, block.fed)
    before = [(linear.weight, linear.bias, linear.in_features, linear.out_features) for linear in linears]
    try:
        _cut_heads(block, kept.heads[0])
        _cut_neurons(block, kept.neurons[0])
        with torch.no_grad():
            got = run()
    except (RuntimeError, ValueError) as error:
        return first_line(error)
    finally:
        for linear, (weight, bias, inputs, outputs) in zip(linears, before, strict=True):
            linear.weight, linear.bias, linear.in_features, linear.out_features = weight, bias, inputs, outputs
    return "" if apart(expected, got) < EXACT else "what is left computes something else"


def apart(expected: torch.Tensor, got: torch.Tensor) -> float:
    """Return the largest difference of two outputs, relative to the largest of the first."""
    if expected.shape != got.shape:
        return float("inf")
    return float((expected - got).abs().max() / expected.abs().max().clamp(min=1e-12))


def masked(encoder: Encoder, kept: Kept, runs: Sequence[Run]) -> list[torch.Tensor]:
    """Return the outputs of the whole model with the gates of what is not kept at 0."""
    with torch.no_grad(), gated(encoder, Gates.of(kept, 1)):
        return [run() for run in runs]


def multiply_accumulates(model: Any, tokens: int) -> int:
    """Return the multiply-accumulates of one inference, as torch counts them (two operations each).

    Args:
        model: of transformers.
        tokens: of the text.

    """
    implementation = model.config._attn_implementation
    ids = torch.ones((1, tokens), dtype=torch.long)
    try:
        model.set_attn_implementation("eager")  # whose two products are counted
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(input_ids=ids, attention_mask=torch.ones_like(ids))
    except (RuntimeError, ValueError, TypeError) as error:
        raise InputError(f"{type(model).__name__} can't be run on {tokens} tokens: {first_line(error)}.") from None
    finally:
        model.set_attn_implementation(implementation)
    return int(counter.get_total_flops()) // 2


def _cut_heads(block: Block, flags: Flags) -> None:
    if flags.all():
        return
    keep = torch.from_numpy(np.repeat(flags, block.head))
    for linear in block.attention:
        rows(linear, keep)
    columns(block.attended, keep)


def _cut_neurons(block: Block, flags: Flags) -> None:
    if flags.all():
        return
    keep = torch.from_numpy(flags.copy())
    for linear in block.feed:
        rows(linear, keep)
    columns(block.fed, keep)


def _renumber(config: Any, count: str, stay: Sequence[int]) -> None:
    """Write into a configuration which layers are left."""
    if count == getattr(config, "last_stack", ""):
        places = {layer + 1: place for place, layer in enumerate(stay, 1)}
        config.conditioned_layers = [places[number] for number in config.conditioned_layers]
        supervised = [places[number] for number in config.supervised_layers if number in places]
        config.supervised_layers = [place for place in supervised if place < len(stay)]  # the last one is, anyhow
    setattr(config, count, len(stay))
