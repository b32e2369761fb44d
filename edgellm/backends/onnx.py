"""ONNX: exported with a dynamic length, rewritten for ONNX Runtime's kernels, quantized as a file.

The rewrites are plain ONNX, so every consumer gains (measured: `make bench`):
- `Sum` for each `Add` that feeds a LayerNormalization: ONNX Runtime fuses the pair into a kernel that is slower than
  the two apart, and never fuses `Sum`;
- matmuls over one input merged: the activation is quantized once instead of three times;
- embedding tables int8 per row, which `quantize_dynamic` only does per table, and once where the head reads them too.

Static ranges are of what matmuls read; what they write stays fp32, which ONNX Runtime's kernel gives away for free.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgellm.backends import MIN_TOKENS, Lowered, Prepared, contents_of
from edgellm.backends._tied import share, untie
from edgellm.backends.calibrate import calibrate, left_out
from edgellm.backends.constructs import converting
from edgellm.backends.trace import trace
from edgellm.core.signature import Signature
from edgellm.core.target import Target
from edgellm.errors import EdgellmError

_MIN_ROWS = 64
"""Embedding tables with fewer rows stay fp32: nothing to save."""


_NONE = np.zeros((), dtype=np.float32)


def lower(prepared: Prepared, scheme: str, target: Target, folder: Path) -> Lowered:
    """Write model-<scheme>.onnx, with the IR version and opset of the target."""
    import torch

    notes: tuple[str, ...] = ()
    if scheme == "int8-static":
        # Unsigned: on x86 the kernel for signed activations is far slower; on Arm they are alike.
        _, left = calibrate(prepared.module, prepared.samples, method=prepared.ranges, signed=False, outputs=False)
        notes = left_out(left, "in onnx their weights are int8, and what they compute is fp32")
    program = trace(prepared.module, prepared)
    with converting("onnx", lambda: program, prepared.module):
        exported = torch.onnx.export(
            program, dynamo=True, opset_version=target.onnx.opset, verbose=False, optimize=True
        )
    if exported is None:
        raise EdgellmError("torch.onnx.export returned nothing.")
    model = exported.model_proto
    del model.graph.value_info[:]  # stale shapes make quantize_dynamic fail on classifiers
    _strip_metadata(model)
    rename_output(model, prepared.output.name)
    gemm_to_matmul(model)
    merge_matmuls(model)
    unfuse_residuals(model)
    if scheme != "fp32":
        untie(model)
        quantize_tables(model)
    if scheme == "int8-dynamic":
        model = _quantize_dynamic(model, folder)
    elif scheme == "int8-static":
        quantize_static(model)
        quantize_weights(model)  # of matmuls that no range was calibrated for
    elif scheme == "int8-weight-only":
        quantize_weights(model)
    share(model)
    drop_unused(model)
    model.ir_version = target.onnx.ir_version
    model.producer_name, model.producer_version = "edgellm", ""
    data = model.SerializeToString(deterministic=True)
    path = folder / f"model-{scheme}.onnx"
    path.write_bytes(data)
    return Lowered(
        file=path.name,
        signature=Signature(prepared.inputs, (prepared.output,), min_tokens=MIN_TOKENS),
        session_options={},
        partitions=None,
        delegated_ops=None,
        total_ops=len(model.graph.node),
        contents=contents_of(_survey(model), len(data)),
        notes=notes,
    )


def _strip_metadata(model: onnx.ModelProto) -> None:
    """Remove stack traces and paths of the build machine, which the exporter writes beside every node."""
    graph = model.graph
    for item in [*graph.node, *graph.input, *graph.output, *graph.initializer, graph, model]:
        item.doc_string = ""
        if item is not model:
            del item.metadata_props[:]
    del model.metadata_props[:]


def rename_output(model: onnx.ModelProto, name: str) -> None:
    """Name the graph's one output; an inner value of the same name gets another one first."""
    graph = model.graph
    old = graph.output[0].name
    if old == name:
        return
    for node in graph.node:
        for values in (node.input, node.output):
            for index, value in enumerate(values):
                if value == old:
                    values[index] = name
                elif value == name:
                    values[index] = f"{name}.inner"
    for initializer in graph.initializer:
        if initializer.name == name:
            initializer.name = f"{name}.inner"
    graph.output[0].name = name


def gemm_to_matmul(model: onnx.ModelProto) -> None:
    """Write each plain Gemm over a constant as MatMul and Add: quantize_dynamic takes only MatMul."""
    constants = _constants(model)
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
        _replace(model, [node], replacement)
    drop_unused(model)


def merge_matmuls(model: onnx.ModelProto) -> int:
    """Merge `MatMul, Add` pairs that read one value into one wide pair, and return how many groups were merged.

    Where every pair goes on to split heads (`Reshape` to [1, tokens, heads, width], `Transpose`), the merged pair
    does that once, and the split falls on the outer axis, where it copies whole blocks.
    """
    constants = _constants(model)
    readers = _readers(model)
    groups: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in model.graph.node:
        if node.op_type == "MatMul" and node.input[1] in constants and constants[node.input[1]].ndim == 2:
            groups[node.input[0]].append(node)
    merged = 0
    for value, matmuls in groups.items():
        adds = [_only_reader(readers, node.output[0], "Add") for node in matmuls]
        if len(matmuls) < 2 or not all(adds):
            continue
        pairs = [(m, a) for m, a in zip(matmuls, adds, strict=True) if a is not None]
        biases = [_bias(constants, add) for _, add in pairs]
        if any(
            bias is None or len(bias) != constants[m.input[1]].shape[1]
            for bias, (m, _) in zip(biases, pairs, strict=True)
        ):
            continue
        _merge(model, value, pairs, [b for b in biases if b is not None], constants, readers)
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
) -> None:
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
    heads = _head_splits(ends, constants, readers)
    if heads is not None:
        nodes, width = heads
        old += nodes
        ends = [node.output[0] for node in nodes if node.op_type == "Transpose"]
        sizes, axis = [size // width for size in sizes], 1
        shape = np.array([1, -1, sum(sizes), width], dtype=np.int64)
        model.graph.initializer.append(numpy_helper.from_array(shape, f"{name}.shape"))
        tail += [
            helper.make_node("Reshape", [last, f"{name}.shape"], [f"{name}.heads"], name=f"{name}.reshape"),
            helper.make_node(
                "Transpose", [f"{name}.heads"], [f"{name}.outer"], name=f"{name}.transpose", perm=[0, 2, 1, 3]
            ),
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
    _replace(model, old, tail)


def _head_splits(
    values: list[str], constants: dict[str, NDArray[np.float32]], readers: dict[str, list[onnx.NodeProto]]
) -> tuple[list[onnx.NodeProto], int] | None:
    """Return the Reshape and Transpose nodes behind `values` and the head width, if all split heads the same way."""
    nodes = []
    widths = set()
    for value in values:
        reshape = _only_reader(readers, value, "Reshape")
        if reshape is None or reshape.input[1] not in constants:
            return None
        transpose = _only_reader(readers, reshape.output[0], "Transpose")
        shape = constants[reshape.input[1]].tolist()
        if transpose is None or len(shape) != 4 or shape[0] != 1:
            return None
        if list(helper.get_attribute_value(transpose.attribute[0])) != [0, 2, 1, 3]:
            return None
        nodes += [reshape, transpose]
        widths.add(int(shape[3]))
    return (nodes, widths.pop()) if len(widths) == 1 and -1 not in widths else None


def unfuse_residuals(model: onnx.ModelProto) -> int:
    """Write each Add that feeds a LayerNormalization as Sum, and return how many there were."""
    normalized = {node.input[0] for node in model.graph.node if node.op_type == "LayerNormalization"}
    changed = 0
    for node in model.graph.node:
        if node.op_type == "Add" and node.output[0] in normalized:
            node.op_type = "Sum"
            changed += 1
    return changed


def quantize_tables(model: onnx.ModelProto) -> int:
    """Make embedding tables int8, symmetric per row, dequantized after the lookup; return how many there were."""
    constants = _constants(model)
    readers = _readers(model)
    count = 0
    for name, table in list(constants.items()):
        uses = readers.get(name, [])
        lookups = all(_looks_up_rows(node, name) for node in uses)
        if table.ndim != 2 or table.dtype != np.float32 or len(table) < _MIN_ROWS or not uses or not lookups:
            continue
        quantized, scale = _symmetric(table, axis=1)
        model.graph.initializer.extend(
            [numpy_helper.from_array(quantized, f"{name}.int8"), numpy_helper.from_array(scale, f"{name}.scale")]
        )
        for node in uses:
            out = node.output[0]
            rows, scales = f"{out}.rows", f"{out}.scales"
            attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            _replace(
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


def quantize_static(model: onnx.ModelProto) -> int:
    """Make the weights of matmuls over calibrated inputs int8, symmetric per output channel; return how many there were.

    As `DequantizeLinear`: ONNX Runtime fuses it with the input's and the matmul into one integer kernel.
    """
    constants = _constants(model)
    calibrated = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    count = 0
    for node in list(model.graph.node):
        weight = constants.get(node.input[1]) if node.op_type == "MatMul" and node.input[0] in calibrated else None
        if weight is None or weight.ndim != 2:
            continue
        name = f"{node.name or node.output[0]}.weight"
        quantized, scale = _symmetric(weight, axis=0)
        parts = {"int8": quantized, "scale": scale.reshape(-1), "zero": np.zeros(scale.size, dtype=np.int8)}
        model.graph.initializer.extend(
            [numpy_helper.from_array(value, f"{name}.{part}") for part, value in parts.items()]
        )
        replacement = onnx.NodeProto()
        replacement.CopyFrom(node)
        replacement.input[1] = name
        parted = [f"{name}.{part}" for part in parts]
        dequantize = helper.make_node("DequantizeLinear", parted, [name], name=f"{name}.dequantize", axis=1)
        _replace(model, [node], [dequantize, replacement])
        count += 1
    drop_unused(model)
    return count


def quantize_weights(model: onnx.ModelProto) -> int:
    """Make constant matmul weights int8, symmetric per output channel, dequantized before the matmul.

    As `Cast, Mul`, not as `DequantizeLinear`: ONNX Runtime fuses the latter with the matmul into a kernel that
    quantizes activations as well, which is just what this scheme is chosen to avoid.
    """
    constants = _constants(model)
    count = 0
    for node in list(model.graph.node):
        weight = constants.get(node.input[1]) if node.op_type == "MatMul" else None
        if weight is None or weight.ndim != 2:
            continue
        name = f"{node.name or node.output[0]}.weight"
        quantized, scale = _symmetric(weight, axis=0)
        model.graph.initializer.extend(
            [numpy_helper.from_array(quantized, f"{name}.int8"), numpy_helper.from_array(scale, f"{name}.scale")]
        )
        replacement = onnx.NodeProto()
        replacement.CopyFrom(node)
        replacement.input[1] = name
        cast = helper.make_node(
            "Cast", [f"{name}.int8"], [f"{name}.float"], name=f"{name}.cast", to=onnx.TensorProto.FLOAT
        )
        scaled = helper.make_node("Mul", [f"{name}.float", f"{name}.scale"], [name], name=f"{name}.dequantize")
        _replace(model, [node], [cast, scaled, replacement])
        count += 1
    drop_unused(model)
    return count


def drop_unused(model: onnx.ModelProto) -> None:
    """Remove initializers that no node reads."""
    used = {name for node in model.graph.node for name in node.input} | {o.name for o in model.graph.output}
    kept = [item for item in model.graph.initializer if item.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def _quantize_dynamic(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    path = folder / "quantized.onnx"
    constants = _constants(model)
    # A constant of three dimensions (a table of relative positions) has no per-channel kernel.
    linear = [n.name for n in model.graph.node if n.op_type == "MatMul" and constants.get(n.input[1], _NONE).ndim == 2]
    if not linear:
        return model
    # Per output channel: one scale per tensor costs accuracy. Signed: unsigned weights take a slower kernel.
    quantize_dynamic(
        model,
        str(path),
        per_channel=True,
        op_types_to_quantize=["MatMul"],
        nodes_to_quantize=linear,
        weight_type=QuantType.QInt8,
    )
    quantized = onnx.load(str(path))
    path.unlink()
    return quantized


def _symmetric(array: NDArray[np.float32], *, axis: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return int8 values in [-127, 127] and the scale that reduces `axis`, kept as a dimension of 1."""
    scale = np.abs(array).max(axis=axis, keepdims=True).astype(np.float32) / np.float32(127)
    scale[scale == 0] = 1
    return np.clip(np.rint(array / scale), -127, 127).astype(np.int8), scale


def _constants(model: onnx.ModelProto) -> dict[str, NDArray[np.float32]]:
    return {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}


def _readers(model: onnx.ModelProto) -> dict[str, list[onnx.NodeProto]]:
    readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in model.graph.node:
        for name in node.input:
            readers[name].append(node)
    return readers


def _only_reader(readers: dict[str, list[onnx.NodeProto]], value: str, kind: str) -> onnx.NodeProto | None:
    nodes = readers.get(value, [])
    return nodes[0] if len(nodes) == 1 and nodes[0].op_type == kind else None


def _bias(constants: dict[str, NDArray[np.float32]], add: onnx.NodeProto) -> NDArray[np.float32] | None:
    found = [constants[name] for name in add.input if name in constants and constants[name].ndim == 1]
    return found[0] if len(found) == 1 else None


def _replace(model: onnx.ModelProto, old: list[onnx.NodeProto], new: list[onnx.NodeProto]) -> None:
    """Put `new` where the first of `old` was; a graph's nodes stay in topological order."""
    nodes = list(model.graph.node)
    gone = [next(i for i, node in enumerate(nodes) if node is item or node == item) for item in old]
    first = min(gone)
    kept = [node for i, node in enumerate(nodes) if i not in gone]
    at = first - sum(1 for i in gone if i < first)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in [*kept[:at], *new, *kept[at:]]]
    del model.graph.node[:]
    model.graph.node.extend(copies)


def _looks_up_rows(node: onnx.NodeProto, table: str) -> bool:
    """Tell whether a node does nothing with `table` but look up rows of it."""
    axes = [helper.get_attribute_value(a) for a in node.attribute if a.name == "axis"]
    return node.op_type == "Gather" and node.input[0] == table and axes in ([], [0])


def _survey(model: onnx.ModelProto) -> dict[str, int]:
    """Return the bytes of constants by what reads them."""
    readers = _readers(model)
    kinds: dict[str, int] = defaultdict(int)
    for item in model.graph.initializer:
        operators = {node.op_type for node in readers[item.name]}
        if "Gather" in operators:
            kind = "embedding tables"
        elif operators & {"Cast", "DequantizeLinear", "MatMul", "MatMulInteger"}:
            kind = "matmul weights"
        else:
            kind = "other constants"
        kinds[kind] += numpy_helper.to_array(item).nbytes
    return dict(kinds)
