"""A small encoder of random weights, inputs for it, and what rounding does to a weight."""

from __future__ import annotations

import torch
from torch import nn

from edgellm.backends.rounding import LARGEST, grid


class Encoder(nn.Module):
    """A table, two linears, and a head that is the table."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.table, self.types = nn.Embedding(100, width), nn.Embedding(2, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.head = nn.Linear(width, 100, bias=False)
        self.head.weight = self.table.weight

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        hidden = self.table(input_ids) + self.types(input_ids * 0)
        # What linears read has directions that matter more than others, as in a model that learned something.
        mixed = hidden + hidden.mean(-1, keepdim=True) * 4
        out: torch.Tensor = self.head(self.down(nn.functional.gelu(self.up(mixed))))
        return out


def samples(seed: int = 1) -> list[dict[str, torch.Tensor]]:
    torch.manual_seed(seed)
    return [{"input_ids": torch.randint(0, 100, (1, 20))} for _ in range(30)]


def prepared(width: int = 64) -> Encoder:
    return Encoder(width).eval().requires_grad_(False)


def error(weight: torch.Tensor, other: torch.Tensor, x: torch.Tensor) -> float:
    return float((x @ (weight - other).T).square().sum())


def on_grid(weight: torch.Tensor, group: int) -> bool:
    values, scale = grid(weight, group)
    again = values.reshape(len(weight), -1, group) * scale[..., None]
    return bool(torch.equal(again.reshape(weight.shape), weight)) and int(values.abs().max()) <= LARGEST
