"""Convolutions over single tokens become linears that compute the same."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgellm.stages.pointwise import restate_pointwise


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("groups", [1, 4])
def test_the_linears_are_the_convolution(groups: int, bias: bool) -> None:
    torch.manual_seed(3)
    convolution = nn.Conv1d(16, 32, kernel_size=1, groups=groups, bias=bias)
    module = nn.Sequential(nn.Sequential(convolution), nn.ReLU())
    x = torch.randn(1, 16, 7)
    expected = module(x)
    assert restate_pointwise(module) == 1
    torch.testing.assert_close(module(x), expected, atol=1e-6, rtol=1e-5)
    linears = [child for child in module.modules() if isinstance(child, nn.Linear)]
    assert sum(linear.weight.numel() for linear in linears) == convolution.weight.numel()
    assert not any(isinstance(child, nn.Conv1d) for child in module.modules())


@pytest.mark.parametrize(
    "options", [{"kernel_size": 3}, {"kernel_size": 1, "stride": 2}, {"kernel_size": 1, "padding": 1}]
)
def test_convolutions_that_see_neighbours_stay(options: dict[str, int]) -> None:
    module = nn.Sequential(nn.Conv1d(4, 4, **options))
    assert restate_pointwise(module) == 0
    assert isinstance(module[0], nn.Conv1d)
