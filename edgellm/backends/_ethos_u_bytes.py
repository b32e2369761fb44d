"""Linears of an Ethos-U file that read and write bytes, where all else has 16 bits.

ai-edge-quantizer puts a QUANTIZE before and behind such a linear. It knows one range for a tensor, whatever reads it: what a
linear reads goes on to other operators in 16 bits, whose range has to hold all of it, and 256 steps over that range are too
coarse for a linear. So the range of the bytes is written into the finished file, and the scale of the linear's bias with it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from edgellm.backends._tflite_quantize import MATMUL, readers
from edgellm.backends.calibrate import Range
from edgellm.errors import InputError


@dataclass(frozen=True)
class Narrow:
    """A linear that reads and writes bytes.

    Attributes:
        scope: what recipes know it by, a regular expression.
        output: name of the tensor that it writes.
        reads, writes: ranges, signed.

    """

    scope: str
    output: str
    reads: Range
    writes: Range


def narrowed(source: Path, module: nn.Module, ranges: Mapping[str, tuple[Range, Range]]) -> list[Narrow]:
    """Return the operators of an fp32 file that are linears with these ranges, by name of the layer.

    What a linear writes is multiplied like its weight, where the converter did so (queries, by attention's scaling).

    Raises:
        InputError: a layer is not to be found in the file.

    """
    found = []
    for each in readers(source, module) if ranges else ():
        if each.kind == MATMUL and each.layer is not None and each.layer in ranges:
            reads, writes = ranges[each.layer]
            low, high = sorted(each.factor * end for end in writes.ends)
            scaled = Range.of(low, high, signed=True)
            found.append(
                (each.layer, Narrow(f"^{re.escape(each.scope)}$", each.scope.removesuffix(";"), reads, scaled))
            )
    lost = sorted(ranges.keys() - {layer for layer, _ in found})
    if lost:
        raise InputError(
            f"The converter left no linear with the weights of {lost[0]}, so that it can't have 8-bit activations.",
            hint="Leave it out of the layers with int8-static.",
        )
    return [each for _, each in found]


def set_inputs(path: Path, narrow: Sequence[Narrow]) -> None:
    """Give what linears of a quantized file read the ranges of bytes, in place.

    Bytes that come right from another linear, or that something else reads as well, keep the range that they have.

    Raises:
        InputError: a range is so small that a bias has no place beside it.

    """
    if not narrow:
        return
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model(path)
    graph, kinds = model.subgraphs[0], schema.BuiltinOperator
    ranges = {each.output: each.reads for each in narrow}

    def is_a(operator: Any, kind: int) -> bool:
        return bool(model.operatorCodes[operator.opcodeIndex].builtinCode == kind)

    writers = {output: operator for operator in graph.operators for output in operator.outputs}
    for index, tensor in enumerate(graph.tensors):
        users = [operator for operator in graph.operators if index in operator.inputs]
        names = [_name(graph.tensors[user.outputs[0]]) for user in users]
        if (
            tensor.type != schema.TensorType.INT8 or index not in writers or not is_a(writers[index], kinds.QUANTIZE)
            or not users or not all(is_a(user, kinds.FULLY_CONNECTED) for user in users) or ranges.keys().isdisjoint(names)
        ):  # fmt: skip
            continue
        chosen = next(ranges[name] for name in names if name in ranges)
        ratio = float(tensor.quantization.scale[0]) / chosen.scale
        tensor.quantization.scale = np.array([chosen.scale], np.float32)
        tensor.quantization.zeroPoint = np.array([chosen.zero], np.int64)
        for user in users:
            if len(user.inputs) > 2 and user.inputs[2] >= 0:
                _rescale(model, schema, graph.tensors[user.inputs[2]], ratio, _name(graph.tensors[user.outputs[0]]))
    flatbuffer_utils.write_model(model, path)


def _rescale(model: Any, schema: Any, bias: Any, ratio: float, output: str) -> None:
    """Give the int32 bias of a linear a scale that is smaller by a ratio, in a buffer of its own: equal ones share one."""
    changed = np.round(np.frombuffer(bytes(model.buffers[bias.buffer].data), np.int32) * np.float64(ratio))
    if np.abs(changed).max() > np.iinfo(np.int32).max:
        raise InputError(
            f"What the linear that writes {output} reads is so small on calibration texts that its bias has no place beside it.",
            hint="Leave that layer out of the layers with int8-static.",
        )
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(changed.astype(np.int32).tobytes(), np.uint8)
    model.buffers.append(buffer)
    bias.buffer = len(model.buffers) - 1
    bias.quantization.scale = (np.asarray(bias.quantization.scale, np.float64) / ratio).astype(np.float32)


def _name(tensor: Any) -> str:
    return str(tensor.name.decode())
