"""Rounding: 4-bit weights, chosen once in the torch module for every format.

Rounded to the nearest, 4-bit weights ruin a small encoder: all-MiniLM-L6-v2 keeps a cosine of 0.87 with one scale per
channel, 0.94 with one per 32 weights. So each weight is rounded on calibration texts, after GPTQ (Frantar et al. 2022),
https://arxiv.org/abs/2210.17323: column by column, what a column's rounding does to the output is made up for by the
columns that come after it. That gives 0.98 (`python -m tests.figures --only schemes`).

A group is consecutive inputs of one output channel, with one scale of its own: `weight = q * scale`, q from -7 to 7. A range
may end before its largest weight, where that costs less than the coarser step that keeping it would take.

What is left in the module are fp32 weights that lie on their grid. The largest of each group is 7 steps, and a scale has 8
significant bits, so that whoever divides the largest by 7 finds the grid again exactly: the formats' own quantizers do,
whether they keep scales in fp32, fp16 or bfloat16.

Tried and left out, for nothing was gained: the columns in the order of how much they matter; layer
by layer, each on what the rounded ones before it give.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

GROUP = 32
"""Weights that share a scale: the least that XNNPACK and LiteRT take."""

LARGEST = 7
"""Of a 4-bit value; -8 is left out, so that a grid is known by its largest magnitude."""

BYTE = 127
"""Of an 8-bit value, symmetric."""

MIN_ROWS = 64
"""Embedding tables with fewer rows stay fp32: nothing to save."""

_SHARES = tuple(1 - 0.02 * step for step in range(26))
"""Candidates for where a group's range ends, as parts of its largest magnitude."""

_DAMPING = 0.01
"""Added to the diagonal of what inputs have in common, as a part of its mean: the paper's value."""

_NOTHING = 1e-7
"""A group whose weights are all smaller is rounded to nothing, more or less."""

_ALIKE = 0.9999
"""Cosine of a constant and the weight that it is a multiple of."""

_DRAWN = 0.56
"""How much of its largest value's step a range is drawn in by: 8 % of it in 4 bits, half a per cent in 8."""

_DRAWN_IN = 64
"""Times at most that a range is drawn in."""


def group_of(width: int) -> int:
    """Return how many of `width` inputs share a scale: GROUP, or all of them where that does not divide them."""
    return GROUP if width % GROUP == 0 else width


def layers_of(module: nn.Module) -> Iterator[tuple[str, nn.Linear | nn.Embedding]]:
    """Yield what can have a scheme of its own: linears and embedding tables, by name."""
    for name, child in module.named_modules():
        if isinstance(child, (nn.Linear, nn.Embedding)):
            yield name, child


def to_nearest(weight: torch.Tensor, group: int) -> torch.Tensor:
    """Return a weight [out, in] on the grid of the least squared error."""
    blocks = weight.reshape(-1, group)
    scale = _scale(blocks, torch.ones(group))
    return ((blocks / scale).round().clamp(-LARGEST, LARGEST) * scale).reshape(weight.shape)


def fitted(weight: torch.Tensor, products: torch.Tensor, group: int, largest: int = LARGEST) -> torch.Tensor:
    """Return a weight [out, in] on a grid that keeps its outputs, by GPTQ.

    Args:
        weight: fp32.
        products: [in, in], the sum of x x^T over inputs x.
        group: inputs that share a scale; divides `in`.
        largest: of a value: 7 for 4 bits, 127 for 8.

    """
    matter = products.diagonal().clone()
    matter += _DAMPING * matter.mean().clamp(min=1e-12)
    damped = products - products.diagonal().diag() + matter.diag()
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped.double()))
    upper = torch.linalg.cholesky(inverse, upper=True).float()
    left, rounded = weight.clone(), torch.empty_like(weight)
    for start in range(0, weight.shape[1], group):
        part = slice(start, start + group)
        rounded[:, part], errors = _fitted_group(left[:, part], upper[part, part], matter[part], largest)
        left[:, start + group :] -= errors @ upper[part, start + group :]
    return rounded


def _fitted_group(
    block: torch.Tensor, upper: torch.Tensor, matter: torch.Tensor, largest: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a group of columns [out, group] on its grid, and what each column leaves to the later groups."""
    scale = _scale(block, matter, largest)
    rounded, errors = _column_by_column(block, scale, upper, largest)
    for _ in range(_DRAWN_IN):
        # A range that nothing reaches any more is drawn in until something does, so that the grid can be found again.
        short = (rounded.abs().amax(1) < (largest - 0.5) * scale[:, 0]) & (block.abs().amax(1) > _NOTHING)
        if not bool(short.any()):
            break
        scale[short] = _short((1 - _DRAWN / largest) * scale[short])
        rounded[short], errors[short] = _column_by_column(block[short], scale[short], upper, largest)
    return rounded, errors


def _column_by_column(
    block: torch.Tensor, scale: torch.Tensor, upper: torch.Tensor, largest: int
) -> tuple[torch.Tensor, torch.Tensor]:
    left, rounded, errors = block.clone(), torch.empty_like(block), torch.empty_like(block)
    for at in range(block.shape[1]):
        column = left[:, at : at + 1]
        rounded[:, at : at + 1] = (column / scale).round().clamp(-largest, largest) * scale
        error = (column - rounded[:, at : at + 1]) / upper[at, at]
        errors[:, at : at + 1] = error
        left[:, at:] -= error * upper[at, at:]
    return rounded, errors


def _scale(block: torch.Tensor, matter: torch.Tensor, largest: int = LARGEST) -> torch.Tensor:
    """Return the scale [out, 1] of the least squared error of a group [out, group], by how much each column matters."""
    top = block.abs().amax(1, keepdim=True)
    best, lowest = torch.ones_like(top), torch.full_like(top, torch.inf)
    for share in _SHARES:
        scale = _short((top * (share / largest)).clamp(min=_NOTHING))
        rounded = (block / scale).round().clamp(-largest, largest) * scale
        error = ((rounded - block).square() * matter).sum(1, keepdim=True)
        better = error < lowest
        best, lowest = torch.where(better, scale, best), torch.where(better, error, lowest)
    return best


def _short(scale: torch.Tensor) -> torch.Tensor:
    """Return scales with 8 significant bits, which every format can hold."""
    return scale.to(torch.bfloat16).float()


def _scale_of(weight: torch.Tensor, group: int) -> torch.Tensor:
    scale = weight.reshape(len(weight), -1, group).abs().amax(-1) / LARGEST
    return torch.where(scale > 0, scale, 1.0)


def grid(weight: torch.Tensor, group: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the 4-bit values [out, in] (int8) and the scales [out, in / group] (fp32) of a weight that lies on a grid."""
    scale = _scale_of(weight, group)
    values = (weight.reshape(len(weight), -1, group) / scale[..., None]).round()
    return values.clamp(-LARGEST, LARGEST).to(torch.int8).reshape(weight.shape), scale


def layer_of_constant(module: nn.Module) -> Callable[[NDArray[np.float32]], str | None]:
    """Return what tells the layer of a constant in an exported graph, by its bytes: exporters keep those, and no names.

    A weight is found as it is, transposed, and as a multiple, which is what a converter makes of it that folds the scaling of
    attention into the query. None for a constant that is no layer's weight.
    """
    known: dict[bytes, str] = {}
    weights: dict[str, NDArray[np.float32]] = {}
    for name, child in layers_of(module):
        weight = child.weight.detach()
        if type(weight) in (torch.Tensor, nn.Parameter):  # and nothing that is quantized already
            weights[name] = weight.numpy()
            for turned in (weight, weight.T):
                known.setdefault(_digest(turned.contiguous().numpy()), name)

    def layer(constant: NDArray[np.float32]) -> str | None:
        found = known.get(_digest(constant))
        return found or next((name for name, weight in weights.items() if _multiple(constant, weight)), None)

    return layer


def factor_of(constant: NDArray[np.float32], weight: NDArray[np.float32]) -> float:
    """Return the number that a layer's weight was multiplied by to give a constant, of which `layer_of_constant` names it."""
    if constant.shape != weight.shape or np.array_equal(constant, weight):
        return 1.0
    return float(np.vdot(constant, weight) / np.vdot(weight, weight))


def _multiple(constant: NDArray[np.float32], weight: NDArray[np.float32]) -> bool:
    """Tell whether a constant is a weight times one number."""
    if constant.shape != weight.shape:
        return False
    product = abs(float(np.vdot(constant, weight)))
    return product > _ALIKE * float(np.linalg.norm(constant)) * float(np.linalg.norm(weight)) > 0


def _digest(array: NDArray[np.float32]) -> bytes:
    return hashlib.sha256(array.tobytes() + repr(array.shape).encode()).digest()
