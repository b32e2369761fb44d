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
"""By how much a weaker mask may let padding change an answer more, relative to the largest output: a tenth of what `faithful`
lets pass."""

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

    def leaks(masked: float) -> list[float]:
        """Return how far the answers to padded probes are from those to the same without padding."""
        replace_attention(model, masked)
        with torch.no_grad():
            answers = [module(**alone) for alone, _ in probes]
            apart = difference(module, answers)
            return [apart(answer, module(**padded)) for answer, (_, padded) in zip(answers, probes, strict=True)]

    least = leaks(MASKS[-1])  # of a model that looks at padding by other ways than attention, more than nothing
    for masked in MASKS[:-1]:
        if all(found <= best + _HIDDEN for found, best in zip(leaks(masked), least, strict=True)):
            return masked
    replace_attention(model, MASKS[-1])
    return MASKS[-1]


def _probes(source: SourceModel) -> Iterator[tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]]:
    """Yield texts of random tokens, without padding and with it: int64 [1, tokens] by name."""
    drawn = torch.Generator().manual_seed(0)
    longest = source.max_positions or max(_PROBED) + _PADDING
    for read in _PROBED:
        if read >= longest:
            return
        alone = {spec.name: torch.full((1, read), spec.pad) for spec in source.inputs}
        alone["input_ids"] = torch.randint(source.inputs[0].bound, (1, read), generator=drawn)
        alone["attention_mask"] = torch.ones((1, read), dtype=torch.int64)
        if source.options.mask:
            alone["input_ids"][0, 0] = source.options.mask_id  # what such a model is asked about
        padding = (0, min(_PADDING, longest - read))
        yield alone, {spec.name: nn.functional.pad(alone[spec.name], padding, value=spec.pad) for spec in source.inputs}


def _wrap(source: SourceModel, model: nn.Module) -> nn.Module:
    return load_task(source.task).wrap(model, source.options).eval().requires_grad_(False)
