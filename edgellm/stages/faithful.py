"""Faithful: whether a rewritten module still computes what its source does, padded and not, before anything is lowered."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import nn

from edgellm.errors import EdgellmError

if TYPE_CHECKING:
    from edgellm.core.signature import Feeds

TOLERANCE = 1e-4
"""Largest difference between prepared and reference outputs, relative to the largest reference value.

fp32 reassociation gives about 1e-6 on six layers."""


@dataclass(frozen=True)
class Faithful:
    """How far outputs are apart, relative to the source's largest.

    Attributes:
        rewritten: the rewritten module from the source.
        padding: the source's own outputs with padding from those without: 1e-6 or so where it masks padding. Some
            architectures mix neighbouring tokens, padding among them (Fourier transforms, convolutions). Whether that is
            too much for artifacts that pad is the gate's to say.

    """

    rewritten: float
    padding: float

    @property
    def looks_at_padding(self) -> bool:
        """Whether the source answers differently when a text is padded."""
        return not self.padding <= TOLERANCE


def ensure_faithful(
    reference: nn.Module, prepared: Callable[..., torch.Tensor], feeds: Sequence[Feeds], longest: int | None = None
) -> Faithful:
    """Return the largest differences over padded and unpadded feeds.

    Padded, the prepared module has to give what the source gives unpadded, unless the source itself looks at padding:
    then what the source gives padded.

    Args:
        reference: the source; see `difference`.
        prepared: the same, rewritten.
        feeds: to compare on.
        longest: tokens beyond which `prepared` takes none, padding included.

    Raises:
        EdgellmError: they differ by more than TOLERANCE: a rewrite does not fit this architecture.

    """
    rewritten, padding = [0.0], [0.0]
    given = [to_tensors(item) for item in feeds]
    with torch.no_grad():
        answers = [reference(**inputs) for inputs in given]
        apart = difference(reference, answers)
        for inputs, alone in zip(given, answers, strict=True):
            padded = _padded(inputs, longest)
            beside = reference(**padded)
            padding.append(apart(alone, beside))
            expected = alone if padding[-1] <= TOLERANCE else beside
            rewritten += [apart(alone, prepared(**inputs)), apart(expected, prepared(**padded))]
    found = Faithful(_largest(rewritten), _largest(padding))
    if not found.rewritten <= TOLERANCE:
        raise EdgellmError(
            f"The prepared module differs from the source by {found.rewritten:.1e} (relative; {TOLERANCE:.0e} is allowed): "
            "a rewrite does not fit this architecture.",
            hint="Please report it with the model's config.json.",
        )
    return found


def difference(module: nn.Module, answers: Sequence[torch.Tensor]) -> Callable[[torch.Tensor, torch.Tensor], float]:
    """Return what tells how far a second output of `module` is from a first, relative to its largest one.

    Args:
        module: one whose outputs are no numbers to subtract has a method `apart(expected, got)`.
        answers: to several texts: the one number of a regression may be next to 0 for one of them.

    """
    own: Callable[[torch.Tensor, torch.Tensor], float] | None = getattr(module, "apart", None)
    if own is not None:
        return own
    largest = max([1e-6, *(float(answer.abs().max()) for answer in answers)])
    return partial(_apart, largest)


def to_tensors(feeds: Feeds) -> dict[str, torch.Tensor]:
    """Return feeds as tensors of their own memory."""
    return {name: torch.from_numpy(array.copy()) for name, array in feeds.items()}


def _padded(inputs: dict[str, torch.Tensor], longest: int | None) -> dict[str, torch.Tensor]:
    tokens = inputs["input_ids"].shape[1]
    padding = min(7, (longest or tokens + 7) - tokens)
    return {name: nn.functional.pad(tensor, (0, padding)) for name, tensor in inputs.items()}


def _apart(largest: float, expected: torch.Tensor, got: torch.Tensor) -> float:
    """Return the largest difference as a part of `largest`; of vectors per token, over those that both have."""
    if got.dim() == 3:
        tokens = min(got.shape[1], expected.shape[1])
        got, expected = got[:, :tokens], expected[:, :tokens]
    return float((got - expected).abs().max()) / largest


def _largest(values: Sequence[float]) -> float:
    """Return the largest, or NaN if one is: max() would drop it."""
    return math.nan if any(map(math.isnan, values)) else max(values)
