"""ExecuTorch: linears and embedding tables as their schemes say, quantized in the module before it is traced.

XNNPACK's linear takes 8-bit activations with int8 weights per channel, or with int4 weights per group of inputs. Tables are
looked up by ExecuTorch's own kernels, int8 per row or int4 per group of a row.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import nn

from edgellm.backends import MIN_TOKENS, Prepared
from edgellm.backends.calibrate import calibrate, left_out, quantize_weights, rounded_weight
from edgellm.backends.fitting import round_prepared
from edgellm.backends.observe import linear, looked_up_by
from edgellm.backends.rounding import MIN_ROWS, grid, group_of, layers_of
from edgellm.backends.trace import example
from edgellm.core.precision import Precisions
from edgellm.core.scheme import Scheme


def quantize(prepared: Prepared, precisions: Precisions) -> tuple[str, ...]:
    """Quantize linears and tables in place, each as its scheme says, and return notes."""
    module = prepared.module
    _, notes = round_prepared(prepared, precisions, "executorch", nearest=_nearest)
    schemes = {child: precisions.of(name) for name, child in layers_of(module)}
    done: set[nn.Module] = {child for child, scheme in schemes.items() if scheme.bits != 8}
    if precisions.static:
        calibrated, left = calibrate(module, prepared.samples, method=prepared.ranges, wanted=precisions.is_static)
        quantize_weights(module, calibrated, stored=True)
        done |= {linear(module, name) for name in calibrated}
        notes += left_out(left, "executorch quantizes what they read as it comes")
    quantize_linears(module, done)
    _narrow_linears(module, {child for child, scheme in schemes.items() if scheme.bits == 4})
    _quantize_tables(module, example(prepared, MIN_TOKENS), {child: scheme.bits for child, scheme in schemes.items()})
    return notes


def quantize_linears(module: nn.Module, done: Collection[nn.Module]) -> None:
    """Quantize linears in place, but for those that are done: int8 per channel with dynamic 8-bit activations."""
    from torchao.quantization import Int8DynamicActivationIntxWeightConfig, quantize_
    from torchao.quantization.granularity import PerAxis
    from torchao.quantization.quant_api import _is_linear

    config = Int8DynamicActivationIntxWeightConfig(weight_dtype=torch.int8, weight_granularity=PerAxis(0))
    quantize_(module, config, lambda child, name: _is_linear(child) and child not in done)


def _nearest(scheme: Scheme, weight: torch.Tensor) -> torch.Tensor:
    """Return a weight [out, in] as it will be in 8 bits: by torchao, which takes the largest magnitude for 127.5 steps."""
    if scheme.static:
        return rounded_weight(weight)
    holder = nn.Sequential(nn.Linear(weight.shape[1], weight.shape[0], bias=False))
    holder[0].weight = nn.Parameter(weight.clone(), requires_grad=False)
    quantize_linears(holder, ())
    rounded: torch.Tensor = holder[0].weight.dequantize()
    return rounded


def _narrow_linears(module: nn.Module, wanted: Collection[nn.Module]) -> None:
    """Give linears 4-bit weights, on the grid that they lie on, with dynamic 8-bit activations.

    Not by torchao's own choice of scales, which takes the largest magnitude for 7.5 steps.
    """
    from torchao.quantization.quant_api import _is_linear
    from torchao.quantization.quantize_.workflows.intx.intx_unpacked_to_int8_tensor import (
        IntxUnpackedToInt8TensorActivationQuantization,
    )

    per_token = IntxUnpackedToInt8TensorActivationQuantization.INT8_ASYM_PER_TOKEN
    for child in module.modules():
        if child in wanted and isinstance(child, nn.Linear) and _is_linear(child):
            child.weight = nn.Parameter(_int4(child.weight.data, per_token), requires_grad=False)


def _int4(weight: torch.Tensor, activations: Any) -> torch.Tensor:
    """Return a weight or a table [out, in], which lies on a grid, as torchao's tensor of it."""
    from torchao.quantization import IntxUnpackedToInt8Tensor

    group = group_of(weight.shape[1])
    values, scale = grid(weight, group)
    zero = torch.zeros_like(scale, dtype=torch.int8)
    made: torch.Tensor = IntxUnpackedToInt8Tensor(
        values, scale, zero, torch.int4, (1, group), torch.float32, activations
    )
    return made


def _quantize_tables(module: nn.Module, feeds: dict[str, torch.Tensor], bits: Mapping[nn.Module, int]) -> None:
    """Quantize embeddings in place, to int8 per row or to int4 per group of a row.

    A table that the model computes with, instead of looking rows up (DeBERTa's relative positions), stays fp32.
    """
    from torchao.quantization import IntxWeightOnlyConfig, quantize_
    from torchao.quantization.granularity import PerAxis

    looked_up = {
        child
        for child in looked_up_by(module, feeds)
        if isinstance(child, nn.Embedding) and len(child.weight) >= MIN_ROWS
    }
    for table in module.modules():
        if isinstance(table, nn.Embedding):
            # A padding index keeps the int8 lookup from being fused ("Missing out variants: dequantize_affine").
            table.padding_idx = None
            if table in looked_up and bits[table] == 4:
                table.weight = nn.Parameter(_int4(table.weight.data, None), requires_grad=False)
    quantize_(
        module,
        IntxWeightOnlyConfig(weight_dtype=torch.int8, granularity=PerAxis(0)),
        lambda child, name: child in looked_up and bits[child] == 8,
    )


class Half(nn.Module):
    """Computes in fp16 and returns float32, whatever the module takes."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module.half()

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor | None = None
    ) -> torch.Tensor:
        feeds = {"input_ids": input_ids, "attention_mask": attention_mask}
        if token_type_ids is not None:
            feeds["token_type_ids"] = token_type_ids
        answer: torch.Tensor = self.module(**feeds)
        return answer.float()


def sizes_of(module: nn.Module, precisions: Precisions) -> dict[str, int]:
    """Return bytes of embedding tables and of matmul weights, as they will be in the file, without their scales."""
    sizes = {"embedding tables": 0, "matmul weights": 0}
    for name, child in layers_of(module):
        bits: int = precisions.of(name).bits
        if isinstance(child, nn.Embedding):
            left = bits < 16 and type(child.weight) is nn.Parameter
            sizes["embedding tables"] += child.num_embeddings * child.embedding_dim * (32 if left else bits) // 8
        else:
            sizes["matmul weights"] += child.in_features * child.out_features * bits // 8
    return sizes
