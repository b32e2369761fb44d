"""ONNX rewrites for ONNX Runtime's kernels, in plain ONNX, so that every consumer gains.

- `Sum` for each `Add` that feeds a LayerNormalization: ONNX Runtime fuses the pair into a kernel that is slower than
  the two apart, and never fuses `Sum`;
- matmuls over one input merged: the activation is quantized once instead of three times.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgellm.backends._onnx_graph import constants_of, drop_unused, only_reader, readers_of, replace


def gemm_to_matmul(model: onnx.ModelProto) -> None:
    """Write each plain Gemm over a constant as MatMul and Add: quantize_dynamic takes only MatMul."""
    constants = constants_of(model)
    for node in list(model.graph.node):
        if node.op_type != "Gemm" or node.input[1] not in constants:
            continue
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if attributes.get("alpha", 1.0) != 1.0 or attributes.get("beta", 1.0) != 1.0 or attributes.get("transA", 0):
            continue
        weight = constants[node.input[1]]
        if attributes.get("transB", 0):
            weight = np.ascontiguousarray(weight.T)
        name = node.name or node.output[0]
        model.graph.initializer.append(numpy_helper.from_array(weight, f"{name}.weight"))
        biased = len(node.input) > 2 and node.input[2]
        product = f"{name}.product" if biased else node.output[0]
        replacement = [helper.make_node("MatMul", [node.input[0], f"{name}.weight"], [product], name=f"{name}.matmul")]
        if biased:
            replacement.append(helper.make_node("Add", [product, node.input[2]], list(node.output), name=f"{name}.add"))
        replace(model, [node], replacement)
    drop_unused(model)


def merge_matmuls(model: onnx.ModelProto, schemes: dict[str, str] | None = None) -> int:
    """Merge `MatMul, Add` pairs that read one value into one wide pair, and return how many groups were merged.

    Pairs whose weights have different schemes stay apart. `schemes`, by constant, is told those of merged weights.

    Where every pair goes on to split heads (`Reshape` to [1, tokens, heads, width], `Transpose`), the merged pair
    does that once, and the split falls on the outer axis, where it copies whole blocks. Where each then drops the first
    axis (`Reshape` to [heads, tokens, width]), the merged pair never makes it.
    """
    constants = constants_of(model)
    readers = readers_of(model)
    schemes = {} if schemes is None else schemes
    groups: dict[tuple[str, str], list[onnx.NodeProto]] = defaultdict(list)
    for node in model.graph.node:
        if node.op_type == "MatMul" and node.input[1] in constants and constants[node.input[1]].ndim == 2:
            groups[node.input[0], schemes.get(node.input[1], "")].append(node)
    merged = 0
    for (value, scheme), matmuls in groups.items():
        adds = [only_reader(readers, node.output[0], "Add") for node in matmuls]
        if len(matmuls) < 2 or not all(adds):
            continue
        pairs = [(m, a) for m, a in zip(matmuls, adds, strict=True) if a is not None]
        biases = [_bias(constants, add) for _, add in pairs]
        if any(
            bias is None or len(bias) != constants[m.input[1]].shape[1]
            for bias, (m, _) in zip(biases, pairs, strict=True)
        ):
            continue
        schemes[_merge(model, value, pairs, [b for b in biases if b is not None], constants, readers)] = scheme
        merged += 1
    drop_unused(model)
    return merged


def _merge(
    model: onnx.ModelProto,
    value: str,
    pairs: list[tuple[onnx.NodeProto, onnx.NodeProto]],
    biases: list[NDArray[np.float32]],
    constants: dict[str, NDArray[np.float32]],
    readers: dict[str, list[onnx.NodeProto]],
) -> str:
    """Merge pairs, and return the name of their weight."""
    weights = [constants[matmul.input[1]] for matmul, _ in pairs]
    name = f"{pairs[0][0].name}.merged"
    old = [node for pair in pairs for node in pair]
    ends = [add.output[0] for _, add in pairs]
    sizes, axis = [w.shape[1] for w in weights], -1
    tail = [
        helper.make_node("MatMul", [value, f"{name}.weight"], [f"{name}.product"], name=f"{name}.matmul"),
        helper.make_node("Add", [f"{name}.product", f"{name}.bias"], [f"{name}.sum"], name=f"{name}.add"),
    ]
    last = f"{name}.sum"
    heads = _head_splits(ends, constants, readers, {output.name for output in model.graph.output})
    if heads is not None:
        old += heads.nodes
        ends = heads.ends
        sizes, axis = [size // heads.width for size in sizes], 0 if heads.flat else 1
        shape = [] if heads.flat else [1]
        shape += [-1, sum(sizes), heads.width]
        model.graph.initializer.append(numpy_helper.from_array(np.array(shape, dtype=np.int64), f"{name}.shape"))
        perm = [1, 0, 2] if heads.flat else [0, 2, 1, 3]
        tail += [
            helper.make_node("Reshape", [last, f"{name}.shape"], [f"{name}.heads"], name=f"{name}.reshape"),
            helper.make_node("Transpose", [f"{name}.heads"], [f"{name}.outer"], name=f"{name}.transpose", perm=perm),
        ]
        last = f"{name}.outer"
    tail.append(helper.make_node("Split", [last, f"{name}.sizes"], ends, name=f"{name}.split", axis=axis))
    model.graph.initializer.extend(
        [
            numpy_helper.from_array(np.concatenate(weights, axis=1), f"{name}.weight"),
            numpy_helper.from_array(np.concatenate(biases), f"{name}.bias"),
            numpy_helper.from_array(np.array(sizes, dtype=np.int64), f"{name}.sizes"),
        ]
    )
    replace(model, old, tail)
    return f"{name}.weight"


@dataclass(frozen=True)
class _Heads:
    """How values are split into heads: the nodes that do it, the values they end in, [heads, tokens, width] if `flat`."""

    nodes: list[onnx.NodeProto]
    ends: list[str]
    width: int
    flat: bool


def _head_splits(
    values: list[str], constants: dict[str, NDArray[np.float32]], readers: dict[str, list[onnx.NodeProto]],
    outputs: set[str],
) -> _Heads | None:  # fmt: skip
    """Return how `values` are split into heads, if all are in the same way; `outputs` are the graph's, which stay as they are."""
    nodes: list[onnx.NodeProto] = []
    ends: list[str] = []
    flattened: list[onnx.NodeProto] = []
    widths = set()
    for value in values:
        reshape = only_reader(readers, value, "Reshape")
        if reshape is None or reshape.input[1] not in constants:
            return None
        transpose = only_reader(readers, reshape.output[0], "Transpose")
        shape = constants[reshape.input[1]].tolist()
        if transpose is None or len(shape) != 4 or shape[0] != 1:
            return None
        if list(helper.get_attribute_value(transpose.attribute[0])) != [0, 2, 1, 3]:
            return None
        nodes += [reshape, transpose]
        ends.append(transpose.output[0])
        widths.add(int(shape[3]))
        flat = only_reader(readers, transpose.output[0], "Reshape")
        if flat is not None and flat.input[1] in constants and transpose.output[0] not in outputs:
            wanted = constants[flat.input[1]].tolist()
            if len(wanted) == 3 and wanted[0] == shape[2] > 0 and wanted[2] == shape[3]:
                flattened.append(flat)
    if len(widths) != 1 or -1 in widths:
        return None
    if len(flattened) == len(values):
        return _Heads([*nodes, *flattened], [node.output[0] for node in flattened], widths.pop(), flat=True)
    return _Heads(nodes, ends, widths.pop(), flat=False)


def _bias(constants: dict[str, NDArray[np.float32]], add: onnx.NodeProto) -> NDArray[np.float32] | None:
    found = [constants[name] for name in add.input if name in constants and constants[name].ndim == 1]
    return found[0] if len(found) == 1 else None


def unfuse_residuals(model: onnx.ModelProto) -> int:
    """Write each Add that feeds a LayerNormalization as Sum, and return how many there were."""
    normalized = {node.input[0] for node in model.graph.node if node.op_type == "LayerNormalization"}
    changed = 0
    for node in model.graph.node:
        if node.op_type == "Add" and node.output[0] in normalized:
            node.op_type = "Sum"
            changed += 1
    return changed
