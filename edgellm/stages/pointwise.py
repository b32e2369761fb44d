"""Convolutions over single tokens, restated as linears.

`nn.Conv1d` with a kernel of 1 is a linear over channels, in a layout that has the tokens last. Quantizers and delegates
know linears: as a convolution it would stay fp32 in some formats and be moved around memory in others. SqueezeBERT is
made of them.
"""

from __future__ import annotations

import torch
from torch import nn


class _Pointwise(nn.Module):
    """A convolution over single tokens: [1, channels, tokens] to [1, other channels, tokens]."""

    def __init__(self, convolution: nn.Conv1d) -> None:
        super().__init__()
        groups = convolution.groups
        # One linear per group: a block-diagonal one would store and multiply the zeros between the groups.
        self.linears = nn.ModuleList()
        weights = convolution.weight.detach()[:, :, 0].chunk(groups)
        biases = convolution.bias.detach().chunk(groups) if convolution.bias is not None else (None,) * groups
        for weight, bias in zip(weights, biases, strict=True):
            linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
            linear.weight = nn.Parameter(weight.clone(), requires_grad=False)
            if bias is not None:
                linear.bias = nn.Parameter(bias.clone(), requires_grad=False)
            self.linears.append(linear)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens_first = x.transpose(1, 2)
        width = tokens_first.shape[2] // len(self.linears)
        # Not chunk: litert-torch 0.10 can't translate a split into one part.
        mixed = [
            linear(tokens_first if len(self.linears) == 1 else tokens_first[:, :, i * width : (i + 1) * width])
            for i, linear in enumerate(self.linears)
        ]
        return (mixed[0] if len(mixed) == 1 else torch.cat(mixed, dim=-1)).transpose(1, 2)


def restate_pointwise(module: nn.Module) -> int:
    """Replace every convolution over single tokens, in place, and return how many there were."""
    count = 0
    for name, child in module.named_children():
        if type(child) is nn.Conv1d and _is_pointwise(child):
            setattr(module, name, _Pointwise(child))
            count += 1
        else:
            count += restate_pointwise(child)
    return count


def _is_pointwise(convolution: nn.Conv1d) -> bool:
    return convolution.kernel_size == (1,) and convolution.stride == (1,) and convolution.padding in ((0,), "valid")
