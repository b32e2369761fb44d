"""Prepare: rewrite the source's module so that every format gets a graph it can take.

Two modules come of one source: the reference, as its authors meant it, and the prepared one, with its attention rewritten
(`attention`) and convolutions over single tokens as linears (`pointwise`). `faithful` compares them.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from edgellm.stages.attention import replace_attention
from edgellm.stages.load import load
from edgellm.stages.pointwise import restate_pointwise
from edgellm.stages.source import SourceModel
from edgellm.tasks import load_task


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
    notes = (f"The attention was not rewritten ({reason}), which costs speed.",) if reason else ()
    return Rewritten(_wrap(source, model), not reason, notes)


def _wrap(source: SourceModel, model: nn.Module) -> nn.Module:
    return load_task(source.task).wrap(model, source.options).eval().requires_grad_(False)
