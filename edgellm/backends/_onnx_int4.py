"""ONNX in 4 bits: weights of matmuls, and embedding tables.

Matmuls become `MatMulNBits` of com.microsoft, which full builds of ONNX Runtime have since 1.17 (run with 1.17.0). Its
`accuracy_level` says what it computes in: 1 is fp32, 4 quantizes the activations to 8 bits as they come, a block at a time.

Tables are looked up in plain ONNX, which any release runs: two values a byte, told apart after the lookup. ONNX Runtime's own
operator for that (`GatherBlockQuantized`) is younger and does the same.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgellm.backends._onnx_graph import constants_of, drop_unused, is_lookup, readers_of, replace
from edgellm.backends.rounding import GROUP, MIN_ROWS, grid, group_of

PRIVATE = "com.microsoft"
FP32, INT8 = 1, 4
"""What `accuracy_level` takes: the least precise type that may be computed in."""

_ZERO = 8
"""Value of a nibble that means 0."""


def quantize_matmuls(model: onnx.ModelProto, level: Callable[[str], int | None]) -> int:
    """Make constant weights of matmuls int4, symmetric per group of inputs; return how many there were.

    `level` takes a weight's name, and returns what its matmul is to compute in, or None where it is to stay.
    """
    constants = constants_of(model)
    count = 0
    for node in list(model.graph.node):
        weight = constants.get(node.input[1]) if node.op_type == "MatMul" else None
        if weight is None or weight.ndim != 2 or (accuracy := level(node.input[1])) is None:
            continue
        name = f"{node.name or node.output[0]}.weight"
        blocks, scale = _blocks(weight.T)
        narrow, widen = _narrowed(scale.reshape(-1), f"{name}.scale")
        model.graph.initializer.extend([numpy_helper.from_array(blocks, f"{name}.int4"), narrow])
        inputs = [node.input[0], f"{name}.int4", f"{name}.scale"]
        attributes = {"K": weight.shape[0], "N": weight.shape[1], "bits": 4, "block_size": GROUP}
        product = helper.make_node(
            "MatMulNBits",
            inputs,
            list(node.output),
            name=node.name,
            domain=PRIVATE,
            accuracy_level=accuracy,
            **attributes,
        )
        replace(model, [node], [*widen, product])
        count += 1
    if count and not any(item.domain == PRIVATE for item in model.opset_import):
        model.opset_import.append(helper.make_opsetid(PRIVATE, 1))
    drop_unused(model)
    return count


def quantize_tables(model: onnx.ModelProto, wanted: Callable[[str], bool]) -> int:
    """Make embedding tables int4, symmetric per group of a row, dequantized after the lookup; return how many there were."""
    constants, readers = constants_of(model), readers_of(model)
    count = 0
    for name, table in list(constants.items()):
        uses = readers.get(name, [])
        if (
            table.ndim != 2
            or table.dtype != np.float32
            or len(table) < MIN_ROWS
            or table.shape[1] % 2
            or not wanted(name)
        ):
            continue
        if not uses or not all(is_lookup(node, name) for node in uses):
            continue
        values, scale = _grid(table)
        half = table.shape[1] // 2
        nibbles = (values + _ZERO).astype(np.uint8)
        spread = np.repeat(np.eye(scale.shape[1], dtype=np.float32), table.shape[1] // scale.shape[1], axis=1)
        kept = {
            "int4": nibbles[:, :half] | nibbles[:, half:] << 4,
            "scale": scale.astype(np.float16) if _fits_half(scale) else scale,
            "spread": spread,
            "low": np.array(15, dtype=np.uint8),
            "shift": np.array(4, dtype=np.uint8),
            "zero": np.array(_ZERO, dtype=np.float32),
        }
        model.graph.initializer.extend(numpy_helper.from_array(value, f"{name}.{part}") for part, value in kept.items())
        for node in uses:
            replace(model, [node], _lookup(node, name))
        count += 1
    drop_unused(model)
    return count


def _lookup(node: onnx.NodeProto, table: str) -> list[onnx.NodeProto]:
    """Return the nodes that look rows up. The first half of a row is in the low nibbles, the second in the high ones.

    A group's scale is spread over its columns by a matmul with ones and zeros, which is exact and fits ids of any rank.
    """
    out, ids = node.output[0], node.input[1]

    def make(kind: str, inputs: list[str], step: str, **attributes: object) -> onnx.NodeProto:
        output = out if step == "dequantize" else f"{out}.{step}"
        return helper.make_node(kind, inputs, [output], name=f"{out}.{step}", **attributes)

    return [
        make("Gather", [f"{table}.int4", ids], "bytes", axis=0),
        make("BitwiseAnd", [f"{out}.bytes", f"{table}.low"], "first"),
        make("BitShift", [f"{out}.bytes", f"{table}.shift"], "second", direction="RIGHT"),
        make("Concat", [f"{out}.first", f"{out}.second"], "nibbles", axis=-1),
        make("Cast", [f"{out}.nibbles"], "float", to=onnx.TensorProto.FLOAT),
        make("Sub", [f"{out}.float", f"{table}.zero"], "values"),
        make("Gather", [f"{table}.scale", ids], "scales", axis=0),
        make("Cast", [f"{out}.scales"], "steps", to=onnx.TensorProto.FLOAT),
        make("MatMul", [f"{out}.steps", f"{table}.spread"], "spread"),
        make("Mul", [f"{out}.values", f"{out}.spread"], "dequantize"),
    ]


def _grid(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return values [out, in] and scales [out, groups] of a weight [out, in]."""
    values, scale = grid(torch.from_numpy(np.array(weight)), group_of(weight.shape[1]))
    return values.numpy(), scale.numpy()


def _blocks(weight: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return a weight [out, in] as `MatMulNBits` wants it: [out, blocks, GROUP / 2] and scales [out, blocks].

    Of two values that share a byte, the first is in the low nibble. Where a scale is for the whole row, blocks repeat it.
    """
    values, scale = _grid(weight)
    blocks = -(-weight.shape[1] // GROUP)
    padded = np.zeros((len(weight), blocks * GROUP), dtype=np.int8)
    padded[:, : weight.shape[1]] = values
    nibbles = (padded + _ZERO).astype(np.uint8)
    packed = (nibbles[:, ::2] | nibbles[:, 1::2] << 4).astype(np.uint8)
    wide = scale if scale.shape[1] == blocks else np.repeat(scale, blocks, axis=1)
    return packed.reshape(len(weight), blocks, GROUP // 2), np.ascontiguousarray(wide)


def _narrowed(scale: NDArray[np.float32], name: str) -> tuple[onnx.TensorProto, list[onnx.NodeProto]]:
    """Return a constant that holds scales in half the bytes, if that is exact, and what widens it when a model loads."""
    if not _fits_half(scale):
        return numpy_helper.from_array(scale, name), []
    widen = helper.make_node("Cast", [f"{name}.fp16"], [name], name=f"{name}.widen", to=onnx.TensorProto.FLOAT)
    return numpy_helper.from_array(scale.astype(np.float16), f"{name}.fp16"), [widen]


def _fits_half(scale: NDArray[np.float32]) -> bool:
    with np.errstate(over="ignore"):
        return bool((scale.astype(np.float16).astype(np.float32) == scale).all())
