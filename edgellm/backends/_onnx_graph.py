"""ONNX graphs: what their constants are, who reads a value, and nodes in the place of others."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper


def constants_of(model: onnx.ModelProto) -> dict[str, NDArray[np.float32]]:
    """Return the constants by name."""
    return {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}


def matrices_of(model: onnx.ModelProto) -> dict[str, NDArray[np.float32]]:
    """Return the fp32 constants of two dimensions by name."""
    return {name: value for name, value in constants_of(model).items() if value.ndim == 2 and value.dtype == np.float32}


def readers_of(model: onnx.ModelProto) -> dict[str, list[onnx.NodeProto]]:
    """Return the nodes that read each value."""
    readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in model.graph.node:
        for name in node.input:
            readers[name].append(node)
    return readers


def only_reader(readers: dict[str, list[onnx.NodeProto]], value: str, kind: str) -> onnx.NodeProto | None:
    """Return the node that reads a value, if there is one alone and it is of that kind."""
    nodes = readers.get(value, [])
    return nodes[0] if len(nodes) == 1 and nodes[0].op_type == kind else None


def replace(model: onnx.ModelProto, old: list[onnx.NodeProto], new: list[onnx.NodeProto]) -> None:
    """Put `new` where the first of `old` was; a graph's nodes stay in topological order."""
    nodes = list(model.graph.node)
    gone = [next(i for i, node in enumerate(nodes) if node is item or node == item) for item in old]
    first = min(gone)
    kept = [node for i, node in enumerate(nodes) if i not in gone]
    at = first - sum(1 for i in gone if i < first)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in [*kept[:at], *new, *kept[at:]]]
    del model.graph.node[:]
    model.graph.node.extend(copies)


def drop_unused(model: onnx.ModelProto) -> None:
    """Remove initializers that no node reads."""
    used = {name for node in model.graph.node for name in node.input} | {o.name for o in model.graph.output}
    kept = [item for item in model.graph.initializer if item.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def is_lookup(node: onnx.NodeProto, table: str) -> bool:
    """Tell whether a node does nothing with `table` but look up rows of it."""
    axes = [helper.get_attribute_value(a) for a in node.attribute if a.name == "axis"]
    return node.op_type == "Gather" and node.input[0] == table and axes in ([], [0])
