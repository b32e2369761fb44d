"""ONNX in int8: tables, and the weights of matmuls in the way of each scheme.

Embedding tables are int8 per row, which `quantize_dynamic` only does per table. Static ranges are of what matmuls read; what
they write stays fp32, which ONNX Runtime's kernel gives for nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgellm.backends._onnx_graph import constants_of, drop_unused, is_lookup, readers_of, replace
from edgellm.backends.rounding import MIN_ROWS

_NONE = np.zeros((), dtype=np.float32)


Wanted = Callable[[str], bool]
"""Tells of a constant's name whether it is to be quantized."""


def every(name: str) -> bool:
    """Want all constants."""
    return True


def quantize_tables(model: onnx.ModelProto, wanted: Wanted = every) -> int:
    """Make embedding tables int8, symmetric per row, dequantized after the lookup; return how many there were."""
    constants = constants_of(model)
    readers = readers_of(model)
    count = 0
    for name, table in list(constants.items()):
        uses = readers.get(name, [])
        lookups = all(is_lookup(node, name) for node in uses)
        if (
            table.ndim != 2
            or table.dtype != np.float32
            or len(table) < MIN_ROWS
            or not uses
            or not lookups
            or not wanted(name)
        ):
            continue
        quantized, scale = _symmetric(table, axis=1)
        model.graph.initializer.extend(
            [numpy_helper.from_array(quantized, f"{name}.int8"), numpy_helper.from_array(scale, f"{name}.scale")]
        )
        for node in uses:
            out = node.output[0]
            rows, scales = f"{out}.rows", f"{out}.scales"
            attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            replace(
                model,
                [node],
                [
                    helper.make_node(
                        "Gather", [f"{name}.int8", node.input[1]], [f"{rows}.int8"], name=rows, **attributes
                    ),
                    helper.make_node("Cast", [f"{rows}.int8"], [rows], name=f"{rows}.cast", to=onnx.TensorProto.FLOAT),
                    helper.make_node("Gather", [f"{name}.scale", node.input[1]], [scales], name=scales, **attributes),
                    helper.make_node("Mul", [rows, scales], [out], name=f"{out}.dequantize"),
                ],
            )
        count += 1
    drop_unused(model)
    return count


def quantize_static(model: onnx.ModelProto, wanted: Wanted = every) -> int:
    """Make the weights of matmuls over calibrated inputs int8, symmetric per output channel; return how many there were.

    As `DequantizeLinear`: ONNX Runtime fuses it with the input's and the matmul into one integer kernel.
    """
    calibrated = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}

    def dequantize(name: str, scale: NDArray[np.float32]) -> list[onnx.NodeProto]:
        parts = {"scale": scale.reshape(-1), "zero": np.zeros(scale.size, dtype=np.int8)}
        model.graph.initializer.extend(
            numpy_helper.from_array(value, f"{name}.{part}") for part, value in parts.items()
        )
        inputs = [f"{name}.int8", *(f"{name}.{part}" for part in parts)]
        return [helper.make_node("DequantizeLinear", inputs, [name], name=f"{name}.dequantize", axis=1)]

    return _quantize_matmuls(model, lambda node: node.input[0] in calibrated and wanted(node.input[1]), dequantize)


def quantize_weights(model: onnx.ModelProto, wanted: Wanted = every) -> int:
    """Make constant matmul weights int8, symmetric per output channel, dequantized before the matmul.

    As `Cast, Mul`, not as `DequantizeLinear`: ONNX Runtime fuses the latter with the matmul into a kernel that
    quantizes activations as well, which is just what this scheme is chosen to avoid.
    """

    def dequantize(name: str, scale: NDArray[np.float32]) -> list[onnx.NodeProto]:
        model.graph.initializer.append(numpy_helper.from_array(scale, f"{name}.scale"))
        cast, values = f"{name}.cast", f"{name}.float"
        return [
            helper.make_node("Cast", [f"{name}.int8"], [values], name=cast, to=onnx.TensorProto.FLOAT),
            helper.make_node("Mul", [values, f"{name}.scale"], [name], name=f"{name}.dequantize"),
        ]

    return _quantize_matmuls(model, lambda node: wanted(node.input[1]), dequantize)


def _quantize_matmuls(
    model: onnx.ModelProto,
    wanted: Callable[[onnx.NodeProto], bool],
    dequantize: Callable[[str, NDArray[np.float32]], list[onnx.NodeProto]],
) -> int:
    """Make the constant weights of wanted matmuls int8, per output channel; return how many there were.

    `dequantize` gets the name of what the matmul will read and the scales [1, out], and returns the nodes that make it
    of the constant `<name>.int8`.
    """
    constants = constants_of(model)
    count = 0
    for node in list(model.graph.node):
        weight = constants.get(node.input[1]) if node.op_type == "MatMul" and wanted(node) else None
        if weight is None or weight.ndim != 2:
            continue
        name = f"{node.name or node.output[0]}.weight"
        quantized, scale = _symmetric(weight, axis=0)
        model.graph.initializer.append(numpy_helper.from_array(quantized, f"{name}.int8"))
        replacement = onnx.NodeProto()
        replacement.CopyFrom(node)
        replacement.input[1] = name
        replace(model, [node], [*dequantize(name, scale), replacement])
        count += 1
    drop_unused(model)
    return count


def quantize_dynamic(model: onnx.ModelProto, folder: Path, wanted: Wanted = every) -> onnx.ModelProto:
    """Return the model with int8 matmuls over activations that are quantized as they come."""
    from onnxruntime import quantization

    path = folder / "quantized.onnx"
    constants = constants_of(model)
    # A constant of three dimensions (a table of relative positions) has no per-channel kernel.
    linear = [
        node.name
        for node in model.graph.node
        if node.op_type == "MatMul" and constants.get(node.input[1], _NONE).ndim == 2 and wanted(node.input[1])
    ]
    if not linear:
        return model
    # Per output channel: one scale per tensor costs accuracy. Signed: unsigned weights take a slower kernel.
    quantization.quantize_dynamic(
        model,
        str(path),
        per_channel=True,
        op_types_to_quantize=["MatMul"],
        nodes_to_quantize=linear,
        weight_type=quantization.QuantType.QInt8,
    )
    quantized = onnx.load(str(path))
    path.unlink()
    return quantized


def _symmetric(array: NDArray[np.float32], *, axis: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return int8 values in [-127, 127] and the scale that reduces `axis`, kept as a dimension of 1."""
    scale = np.abs(array).max(axis=axis, keepdims=True).astype(np.float32) / np.float32(127)
    scale[scale == 0] = 1
    return np.clip(np.rint(array / scale), -127, 127).astype(np.int8), scale
