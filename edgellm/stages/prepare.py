"""Prepare: rewrite the source's module so that every format gets a graph it can take.

Two modules come of one source: the reference, as its authors meant it, and the prepared one, with its attention rewritten
(`attention`) and convolutions over single tokens as linears (`pointwise`). `faithful` compares them.

The mask of padding follows the model, and the model alone: every stage prepares anew, and has to get the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from edgellm.stages.attention import MASKS, replace_attention
from edgellm.stages.faithful import difference
from edgellm.stages.load import load
from edgellm.stages.pointwise import restate_pointwise
from edgellm.stages.source import SourceModel
from edgellm.tasks import load_task

_HIDDEN = 1e-5
"""Largest difference, relative to the largest output, that a weaker mask may make. A tenth of what `faithful` lets pass."""

_PROBED = (1, 2, 3, 5, 8, 12, 16)
"""Lengths of the texts of random tokens that choose the mask. Short ones matter: few scores of text stand beside padding's."""

_PADDING = 8
"""Tokens of padding after each."""


def reference(source: SourceModel) -> nn.Module:
    """Return the source in fp32 with the task's head, unchanged: what every artifact is compared with.

    Raises:
        InputError: it can't be loaded, or weights that it needs are missing.

    """
    return _wrap(source, load(source))


@dataclass(frozen=True)
class Rewritten:
    """A prepared module.

    Attributes:
        module: takes int64 tensors [1, tokens] by name.
        finite_mask: whether its masks are finite already; where not, the traced graph has to be clamped.
        notes: what could not be rewritten, for the user.

    """

    module: nn.Module
    finite_mask: bool
    notes: tuple[str, ...]


def prepare(source: SourceModel) -> Rewritten:
    """Return the rewritten module. One whose attention can't be replaced keeps its own, and a note says so."""
    model = load(source)
    reason = replace_attention(model)
    restate_pointwise(model)
    module = _wrap(source, model)
    if reason:
        return Rewritten(module, False, (f"The attention was not rewritten ({reason}), which costs speed.",))
    masked = _hide_padding(model, module, source)
    if masked == MASKS[0]:
        return Rewritten(module, True, ())
    return Rewritten(
        module, True,
        (f"Padding is masked with {masked:g}, as this model's attention scores ask for, which leaves 8-bit activations coarser "
         f"than {MASKS[0]:g} would.",),
    )  # fmt: skip


def _hide_padding(model: nn.Module, module: nn.Module, source: SourceModel) -> float:
    """Give `model` the weakest of MASKS that hides padding as the strongest does, and return it."""
    probes = list(_probes(source))
    apart = difference(module)

    def answers(masked: float) -> list[torch.Tensor]:
        replace_attention(model, masked)
        with torch.no_grad():
            return [module(**probe) for probe in probes]

    strongest = answers(MASKS[-1])
    for masked in MASKS[:-1]:
        if all(apart(*pair) <= _HIDDEN for pair in zip(strongest, answers(masked), strict=True)):
            return masked
    replace_attention(model, MASKS[-1])
    return MASKS[-1]


def _probes(source: SourceModel) -> Iterator[dict[str, torch.Tensor]]:
    """Yield texts of random tokens, padded: int64 [1, tokens] by name."""
    drawn = torch.Generator().manual_seed(0)
    for read in _PROBED:
        tokens = min(read + _PADDING, source.max_positions or read + _PADDING)
        probe = {spec.name: torch.full((1, tokens), spec.pad) for spec in source.inputs}
        probe["input_ids"][:, :read] = torch.randint(source.inputs[0].bound, (1, min(read, tokens)), generator=drawn)
        probe["attention_mask"][:, :read] = 1
        yield probe


def _wrap(source: SourceModel, model: nn.Module) -> nn.Module:
    return load_task(source.task).wrap(model, source.options).eval().requires_grad_(False)
