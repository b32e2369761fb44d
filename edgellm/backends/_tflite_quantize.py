"""TFLite: each operator of a converted file as the scheme of its layer says, by ai-edge-quantizer.

Int4 weights of `FULLY_CONNECTED` have a scale per group of inputs where activations are quantized as they come, and one per
output channel where the linear computes in fp32: LiteRT has no other `DEQUANTIZE` for it, and runs that on every call, which
takes several times as long as fp32. Embedding tables have int4 per group of a row. fp16 weights are dequantized by the
delegate when a model loads: XNNPACK computes in fp32, and in fp16 where an application asks it to.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from edgellm.backends.rounding import GROUP, MIN_ROWS, factor_of, group_of, layer_of_constant
from edgellm.core.precision import Precisions
from edgellm.core.scheme import SCHEMES, Scheme

if TYPE_CHECKING:
    from ai_edge_quantizer.recipe_manager import RecipeManager

SLOW_INT4 = (
    "tflite unpacks the int4 weights of linears that compute in fp32 on every call, which takes several times as long as "
    "fp32; int4-dynamic does not."
)

_UNREACHED = -1e30

MATMUL, _LOOKUP = "FULLY_CONNECTED", "EMBEDDING_LOOKUP"
_WEIGHTS = {MATMUL: 1, _LOOKUP: 1}
"""Operators that read a layer's weights, to the input that holds them."""


def grouped(scheme: Scheme, width: int) -> int:
    """Return how many of `width` inputs of a linear share a scale."""
    return width if scheme.name == "int4-weight-only" else group_of(width)


def keep_apart(module: nn.Module, wanted: Callable[[str], bool]) -> None:
    """Keep the converter from folding what goes before a linear into its weight: it would leave its grid.

    It folds the scale of a LayerNorm, column by column, and nothing through a bound that no value reaches.
    """
    for name, child in module.named_modules():
        if isinstance(child, nn.Linear) and wanted(name):
            child.register_forward_pre_hook(
                lambda linear, args: (args[0].clamp(min=_UNREACHED), *args[1:]) if args else args
            )


def quantize(source: Path, module: nn.Module, precisions: Precisions, path: Path) -> None:
    """Write to `path` the file at `source`, quantized."""
    from ai_edge_quantizer import qtyping, quantizer, recipe_manager

    recipe = recipe_manager.RecipeManager()
    _add(recipe, ".*", qtyping.TFLOperationName.ALL_SUPPORTED, precisions.default)
    if precisions.layers or SCHEMES[precisions.default].bits == 4:
        for each in readers(source, module):
            scheme = SCHEMES[precisions.default] if each.layer is None else precisions.of(each.layer)
            # What is too small to be rounded on text is not worth 4 bits.
            few = scheme.bits == 4 and each.kind == _LOOKUP and each.rows < MIN_ROWS
            name = "int8-dynamic" if few else scheme.name
            kind = qtyping.TFLOperationName(each.kind)
            _add(recipe, f"^{re.escape(each.scope)}$", kind, name, whole_rows=each.width % GROUP != 0)
    quantizer.Quantizer(str(source), recipe.get_quantization_recipe()).quantize().export_model(
        str(path), overwrite=True
    )


def _add(recipe: RecipeManager, scope: str, operation: Any, scheme: str, *, whole_rows: bool = False) -> None:
    """Say how the operators of a scope are to be quantized; what is said later goes before."""
    from ai_edge_quantizer import qtyping
    from ai_edge_quantizer.algorithm_manager import AlgorithmName

    grain = qtyping.QuantGranularity
    if scheme == "fp32":
        recipe.add_quantization_config(scope, operation, algorithm_key=AlgorithmName.NO_QUANTIZE)
    elif scheme == "fp16":
        half = qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT)
        how = qtyping.OpQuantizationConfig(
            weight_tensor_config=half, compute_precision=qtyping.ComputePrecision.FLOAT, explicit_dequantize=True
        )
        recipe.add_quantization_config(scope, operation, how, AlgorithmName.FLOAT_CASTING)
    elif scheme in ("int8-dynamic", "int8-static"):  # of tables, and of what has no calibrated range
        recipe.add_dynamic_config(scope, operation, num_bits=8)
    elif scheme == "int8-weight-only":
        recipe.add_weight_only_config(scope, operation, num_bits=8)
    elif scheme == "int4-weight-only" and operation != qtyping.TFLOperationName.EMBEDDING_LOOKUP:
        recipe.add_weight_only_config(scope, operation, num_bits=4)
    else:
        granularity = grain.CHANNELWISE if whole_rows else grain.BLOCKWISE_32
        recipe.add_dynamic_config(scope, operation, num_bits=4, granularity=granularity)


@dataclass(frozen=True)
class Reader:
    """An operator that reads a matrix of constants.

    Attributes:
        scope: what recipes know it by.
        kind: of operator.
        layer: whose weight it is, if it is one's.
        rows, width: of the matrix.
        factor: what the converter multiplied the layer's weight by.

    """

    scope: str
    kind: str
    layer: str | None
    rows: int
    width: int
    factor: float = 1.0


def readers(source: Path, module: nn.Module) -> Iterator[Reader]:
    """Yield the operators of an fp32 file that read the weights of a module's layers, or other matrices of constants."""
    from ai_edge_quantizer.utils import tfl_flatbuffer_utils as file

    layer_of = layer_of_constant(module)
    model = file.read_model(str(source))
    found: dict[int, str | None] = {}  # signatures share buffers
    for graph in model.subgraphs:
        for operator in graph.operators:
            operation = file.TFL_OP_CODE_TO_NAME.get(model.operatorCodes[operator.opcodeIndex].builtinCode)
            kind = "" if operation is None else str(operation.value)
            if kind not in _WEIGHTS:
                continue
            tensor = graph.tensors[operator.inputs[_WEIGHTS[kind]]]
            data = file.get_tensor_data(tensor, model.buffers)
            if data is None or data.ndim != 2 or data.dtype != np.float32:
                continue
            if tensor.buffer not in found:
                found[tensor.buffer] = layer_of(data)
            layer = found[tensor.buffer]
            factor = 1.0 if layer is None else factor_of(data, module.get_submodule(layer).weight.detach().numpy())
            yield Reader(file.get_op_scope(operator, graph.tensors), kind, layer, data.shape[0], data.shape[1], factor)
