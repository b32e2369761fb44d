"""Tied tables in ONNX: one matrix that both looks up tokens and scores them, as in masked language models.

Exported, the head reads the embedding table through a Transpose, which hides it from everything that quantizes. So the
two are taken apart before that, and where they come out the same int8, the file holds it once: a Transpose of a constant,
which runtimes compute when they load a model.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

_STRAY = 1e-4
"""Share of values that may be one step apart: the two are rounded by different code."""


def untie(model: onnx.ModelProto) -> int:
    """Give each matmul that reads a transposed constant a constant of its own; return how many there were."""
    graph = model.graph
    constants = {item.name: item for item in graph.initializer}
    transposes = {node.output[0]: node for node in graph.node if _swaps(node) and node.input[0] in constants}
    made: set[str] = set()
    for node in graph.node:
        if node.op_type != "MatMul" or node.input[1] not in transposes:
            continue
        source = transposes[node.input[1]].input[0]
        table = numpy_helper.to_array(constants[source])
        if table.ndim != 2:
            continue
        node.input[1] = f"{source}.transposed"
        if node.input[1] not in made:
            made.add(node.input[1])
            graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(table.T), node.input[1]))
    read = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
    for name, node in transposes.items():
        if name not in read:
            graph.node.remove(node)
    return len(made)


def share(model: onnx.ModelProto) -> int:
    """State each int8 constant that is a looked-up int8 table, transposed, as that; return how many there were."""
    graph = model.graph
    int8 = {
        item.name: numpy_helper.to_array(item)
        for item in graph.initializer
        if item.data_type == onnx.TensorProto.INT8 and len(item.dims) == 2
    }
    looked_up = {node.input[0] for node in graph.node if node.op_type == "Gather"} & int8.keys()
    shared = 0
    for name in int8.keys() - looked_up:
        table = next((table for table in sorted(looked_up) if _same(int8[table].T, int8[name])), None)
        if table is None:
            continue
        graph.initializer.remove(next(item for item in graph.initializer if item.name == name))
        graph.node.insert(0, helper.make_node("Transpose", [table], [name], name=f"{name}.tied", perm=[1, 0]))
        shared += 1
    return shared


def _swaps(node: onnx.NodeProto) -> bool:
    """Tell whether a node transposes a matrix."""
    perms = [list(helper.get_attribute_value(item)) for item in node.attribute if item.name == "perm"]
    return node.op_type == "Transpose" and perms in ([], [[1, 0]])


def _same(x: NDArray[np.int8], y: NDArray[np.int8]) -> bool:
    if x.shape != y.shape:
        return False
    apart = np.abs(x.astype(np.int16) - y)
    return bool(apart.max() <= 1 and (apart != 0).mean() <= _STRAY)
