"""Importance: by how much the loss is expected to change without a head, a neuron or a layer.

Each structure has a gate of 1 that its output is multiplied by, one for each example; a gate of a layer is between the layer
and nothing: at 0 its input goes past it. Removing a structure is to set its gate from 1 to 0.

A structure's score is the mean over examples of (dL / dgate)^2 / 2. For a neuron, dL / dgate is activation * gradient summed over
its activations, for a head what Michel et al. 2019 (arXiv:1905.10650) rank by; its square is the Taylor score of Molchanov et al.
2019 (arXiv:1906.10771).

- With labels, L is the task's loss, and the score is the diagonal of the empirical Fisher matrix: the change of the loss to
  second order where a trained model's gradients cancel out, as Kwon et al. 2022 (arXiv:2204.09656) rank heads and neurons.
- Without labels, the loss is half the squared distance of the output from what it was, whose second order is the Gauss-Newton
  matrix, with the diagonal |d output / dgate|^2 (LeCun et al. 1990, Optimal Brain Damage). It is estimated from products of
  the output with random signs (Hutchinson 1990): with such a product as L, the score has half that diagonal as its mean. For
  vectors of length 1, half the squared distance is 1 - cosine.

Squares are what can be added up over structures of different sizes: changes in different directions add as squares do, while
absolute values of thousands of neurons, most of which cancel out, pile up, and whole heads would seem cheap beside them.

A gate is 0 where something was removed before: scores are of what is left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from edgellm.errors import InputError
from edgellm.prune.blocks import Block, Encoder
from edgellm.prune.choose import Importance, Kept

Loss = Callable[[], torch.Tensor]
"""Runs a batch and returns its losses, float32 [examples]."""


@dataclass(frozen=True)
class Batch:
    """Examples that are run at once.

    Attributes:
        size: how many.
        losses: runs them.

    """

    size: int
    losses: Loss


@dataclass(frozen=True)
class Gates:
    """Factors of a batch's structures.

    Attributes:
        heads, neurons: of each block, float32 [examples or 1, structures].
        layers: float32 [examples or 1, blocks].

    """

    heads: tuple[torch.Tensor, ...]
    neurons: tuple[torch.Tensor, ...]
    layers: torch.Tensor

    @classmethod
    def of(cls, kept: Kept, examples: int, *, trained: bool = False) -> Gates:
        """Return gates that are 1 for what is kept and 0 for the rest."""

        def gate(flags: Any) -> torch.Tensor:
            row = torch.from_numpy(flags.astype(np.float32)).expand(examples, -1).clone()
            return row.requires_grad_(trained)

        return cls(tuple(map(gate, kept.heads)), tuple(map(gate, kept.neurons)), gate(kept.layers))

    @property
    def all(self) -> tuple[torch.Tensor, ...]:
        """Every tensor: heads, neurons, layers."""
        return (*self.heads, *self.neurons, self.layers)


@contextmanager
def gated(encoder: Encoder, gates: Gates) -> Iterator[None]:
    """Multiply the outputs of structures by their gates, as long as the block lasts."""
    handles = []
    try:
        for number, block in enumerate(encoder.blocks):
            handles += [
                block.attended.register_forward_pre_hook(_heads(gates.heads[number], block)),
                block.fed.register_forward_pre_hook(_neurons(gates.neurons[number])),
                block.module.register_forward_hook(_layer(gates.layers[:, number]), with_kwargs=True),
            ]
        yield
    finally:
        for handle in handles:
            handle.remove()


def importance(encoder: Encoder, batches: Iterable[Batch], kept: Kept) -> Importance:
    """Return the scores of all structures.

    Args:
        encoder: whose model is in evaluation mode.
        batches: examples.
        kept: what was not removed.

    Raises:
        InputError: a loss is no number.

    """
    sums = [np.zeros(flags.shape, dtype=np.float64) for flags in (*kept.heads, *kept.neurons, kept.layers)]
    examples = 0
    for batch in batches:
        gates = Gates.of(kept, batch.size, trained=True)
        with gated(encoder, gates):
            loss = batch.losses().sum()
        if not bool(torch.isfinite(loss)):
            raise InputError(
                "The loss of the model is no number on the given examples.", hint="Are they of the model's task?"
            )
        for total, gradient in zip(sums, torch.autograd.grad(loss, gates.all), strict=True):
            total += (gradient.double().square() / 2).sum(0).numpy()
        examples += batch.size
    scores = [total / max(examples, 1) for total in sums]
    blocks = len(encoder.blocks)
    return Importance(tuple(scores[:blocks]), tuple(scores[blocks : 2 * blocks]), scores[-1])


def _heads(gate: torch.Tensor, block: Block) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
    def hook(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        mixed = args[0]
        wide = gate.repeat_interleave(block.head, dim=1).unsqueeze(1)
        return (mixed * wide, *args[1:])

    return hook


def _neurons(gate: torch.Tensor) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
    def hook(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0] * gate.unsqueeze(1), *args[1:])

    return hook


def _layer(gate: torch.Tensor) -> Callable[..., Any]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        given = args[0] if args else kwargs["hidden_states"]
        first = output[0] if isinstance(output, tuple) else output
        passed = given + gate.reshape(-1, 1, 1) * (first - given)
        return (passed, *output[1:]) if isinstance(output, tuple) else passed

    return hook
