"""ONNX in fp16: constants are stored in half the bytes and widened when a model loads, or after the lookup.

What is computed stays fp32. ONNX Runtime's CPU kernels for x86 have no fp16 arithmetic: a graph in fp16 runs there as this
one does, with casts that it puts in itself (measured alike), and those for Arm have it for some operators, release by
release. So answers are those of fp32 but for the rounding of weights, on every CPU.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgellm.backends._onnx_graph import constants_of, drop_unused, is_lookup, readers_of, replace

_SMALLEST = 1024
"""Constants of fewer values stay fp32: nothing to save."""


def halve(model: onnx.ModelProto) -> int:
    """Store fp32 constants in fp16, but for small ones and those that fp16 can't hold; return how many there were."""
    readers = readers_of(model)
    halves = {name: value.astype(np.float16) for name, value in constants_of(model).items() if _worth(value)}
    kept = [item for item in model.graph.initializer if item.name not in halves]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    model.graph.initializer.extend(numpy_helper.from_array(value, f"{name}.fp16") for name, value in halves.items())
    for name in halves:
        for node in [node for node in readers.get(name, []) if is_lookup(node, name)]:
            out = node.output[0]
            lookup = helper.make_node(
                "Gather", [f"{name}.fp16", node.input[1]], [f"{out}.fp16"], name=node.name, axis=0
            )
            replace(model, [node], [lookup, _widen(out)])
    read = {name for node in model.graph.node for name in node.input} | {output.name for output in model.graph.output}
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend([*(_widen(name) for name in halves if name in read), *nodes])
    drop_unused(model)
    return len(halves)


def _worth(value: NDArray[np.float32]) -> bool:
    fits = value.dtype == np.float32 and value.size >= _SMALLEST
    return fits and float(np.abs(value).max()) <= float(np.finfo(np.float16).max)


def _widen(name: str) -> onnx.NodeProto:
    """Return what makes fp32 of `<name>.fp16`."""
    return helper.make_node("Cast", [f"{name}.fp16"], [name], name=f"{name}.widen", to=onnx.TensorProto.FLOAT)
