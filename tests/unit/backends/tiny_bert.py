"""A BERT of random weights, prepared as a build does it, and targets with other delegates."""

from __future__ import annotations

import dataclasses
import warnings

import torch
from torch import nn

from edgellm.backends import Prepared
from edgellm.core.manifest import TaskOptions
from edgellm.core.signature import InputSpec, OutputSpec
from edgellm.core.target import Target
from edgellm.stages.attention import replace_attention
from edgellm.targets import load_target
from edgellm.tasks import load_task

WIDTH = 64
INPUTS = tuple(
    InputSpec(name, "int64", (1, "tokens"), bound, 0)
    for name, bound in (("input_ids", 300), ("attention_mask", 2), ("token_type_ids", 2))
)
IOS = dataclasses.replace(load_target("ios-arm64"), name="ios-arm64-ane", abi="ios-18.0")
ANDROID = dataclasses.replace(load_target("android-arm64"), name="android-arm64-vulkan")


def of(target: Target, **changes: str) -> Target:
    """Return the target with some fields changed."""
    return dataclasses.replace(target, **changes)  # type: ignore[arg-type]


def tiny_bert(*buckets: int, then: nn.Module | None = None) -> Prepared:
    """Return a prepared encoder of one layer for those lengths; `then` is applied to its vector."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformers warns when it is imported
        from transformers import BertConfig, BertModel

        torch.manual_seed(5)
        config = BertConfig(
            vocab_size=300, hidden_size=WIDTH, num_hidden_layers=1, num_attention_heads=2, intermediate_size=128,
            max_position_embeddings=64,
        )  # fmt: skip
        model = BertModel(config, add_pooling_layer=False)
    assert not replace_attention(model)
    module = load_task("feature-extraction").wrap(model, TaskOptions(pooling="mean", normalize=True))
    if then is not None:
        module = _Then(module, then)
    module = module.eval().requires_grad_(False)
    return Prepared(module, INPUTS, OutputSpec("embedding", "float32", (1, WIDTH)), buckets)


class _Then(nn.Module):
    def __init__(self, model: nn.Module, then: nn.Module) -> None:
        super().__init__()
        self.model, self.then = model, then

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor
    ) -> torch.Tensor:
        out: torch.Tensor = self.then(
            self.model(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)
        )
        return out


class Refused(nn.Module):
    """An operator that neither Core ML nor Vulkan has."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.erfinv(x * 0.5)
