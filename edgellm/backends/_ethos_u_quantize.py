"""Static quantization of a whole TFLite graph: int8 weights per channel, 16-bit activations, embedding tables per row.

Linears may have 8-bit activations (see `_ethos_u_bytes`): by Vela's estimate an Ethos-U multiplies bytes in less time.

The ranges are edgellm's own and true ones: ai-edge-quantizer's calibration keeps a moving average of what it sees, which
cuts off what few texts reach; MiniLM loses half its accuracy to that.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgellm.backends._ethos_u_bytes import Narrow, set_inputs

ACTIVATIONS = 16
"""Bits of activations."""

_FOR_IDS = "SQUEEZE"
"""Takes the batch off the ids; the converter writes RESHAPE for its own."""

_MARGIN = 1.25
"""Ranges of 16 bits reach this much further than what was seen, for texts that go beyond; 8 bits can't spare it."""

_SATURATED = 12.0
"""The logistic function differs from 0 and 1 by less than a step of 16 bits beyond this. What enters it is cut off here,
because an NPU interpolates a table over the whole range, and a feed-forward's reaches 1000."""

Range = tuple[float, float, int]
"""Lowest value, highest value, and rank of the tensor."""

Feeds = Mapping[str, NDArray[Any]]


def quantize(
    source: Path, signature: str, feeds: Sequence[Feeds], matmul_bits: int, path: Path, narrow: Sequence[Narrow] = ()
) -> tuple[str, ...]:
    """Write the quantized file, and return the kinds of operators in it that are for the CPU alone.

    Args:
        source: an fp32 .tflite file with one graph.
        signature: its name.
        feeds: calibration inputs by name, at its shapes.
        matmul_bits: 16, or 8 where products of two activations have to be of bytes.
        path: to write to.
        narrow: linears that read and write bytes.

    """
    from ai_edge_quantizer import qtyping, quantizer, recipe_manager

    operators = qtyping.TFLOperationName
    recipe = recipe_manager.RecipeManager()
    recipe.add_static_config(".*", operators.ALL_SUPPORTED, activation_num_bits=ACTIVATIONS, weight_num_bits=8)
    if matmul_bits != ACTIVATIONS:
        recipe.add_static_config(
            ".*", operators.BATCH_MATMUL, activation_num_bits=matmul_bits, weight_num_bits=matmul_bits
        )
    for each in narrow:
        recipe.add_static_config(each.scope, operators.FULLY_CONNECTED, activation_num_bits=8, weight_num_bits=8)
    recipe.add_dynamic_config(".*", operators.EMBEDDING_LOOKUP, num_bits=8)
    # What goes out is fp32, as in every other artifact.
    recipe.add_quantization_config(".*", operators.OUTPUT, algorithm_key="no_quantize")
    ranges = _ranges(source, signature, feeds, exact=matmul_bits != ACTIVATIONS)
    for each in narrow:
        ranges[each.output] = (*each.writes.ends, ranges[each.output][2])
    found = {
        name: {"min": np.full((1,) * rank, low, np.float32), "max": np.full((1,) * rank, high, np.float32)}
        for name, (low, high, rank) in ranges.items()
    }
    made = quantizer.Quantizer(str(source), recipe.get_quantization_recipe())
    made.quantize(found).export_model(str(path), overwrite=True)
    set_inputs(path, narrow)
    return _leave_ids_to_cpu(path)


def _leave_ids_to_cpu(path: Path) -> tuple[str, ...]:
    """Make a SQUEEZE of each RESHAPE of ids, in place: the same, but another operator than the encoder's own.

    Vela can be told to leave an operator to the CPU by its kind alone. Embeddings are looked up there, by ids without the
    batch; without this, the NPU would be called once just to copy them.
    """
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model(path)
    graph = model.subgraphs[0]
    kinds = schema.BuiltinOperator
    if any(code.builtinCode == getattr(kinds, _FOR_IDS) for code in model.operatorCodes):
        return ()  # the encoder has such operators itself
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = getattr(kinds, _FOR_IDS)
    code.version = 1
    model.operatorCodes.append(code)
    for operator in graph.operators:
        if model.operatorCodes[operator.opcodeIndex].builtinCode != kinds.RESHAPE:
            continue
        before, after = graph.tensors[operator.inputs[0]], graph.tensors[operator.outputs[0]]
        if before.type == schema.TensorType.INT32 and list(before.shape) == [1, *after.shape]:
            operator.opcodeIndex = len(model.operatorCodes) - 1
            operator.inputs = [operator.inputs[0]]
            operator.builtinOptionsType = schema.BuiltinOptions.SqueezeOptions
            operator.builtinOptions = schema.SqueezeOptionsT()
            operator.builtinOptions.squeezeDims = [0]
    flatbuffer_utils.write_model(model, path)
    return (_FOR_IDS,)


def _ranges(source: Path, signature: str, feeds: Sequence[Feeds], *, exact: bool) -> dict[str, Range]:
    """Return the range of each activation of a graph, by the tensor's name.

    Args:
        source: an fp32 .tflite file.
        signature: its name.
        feeds: calibration inputs.
        exact: whether matmuls get the range that was seen, without a margin.

    """
    graph = _Graph(source)
    ranges = _seen(source, signature, feeds, graph.activations)
    found: dict[str, Range] = {}
    for name, (low, high, rank) in ranges.items():
        margin = 1.0 if name in graph.integral or (exact and name in graph.multiplied) else _MARGIN
        most = _SATURATED if name in graph.logistic else math.inf
        found[name] = (max(low * margin, -most), min(high * margin, most), rank)
    return found


def _seen(source: Path, signature: str, feeds: Sequence[Feeds], names: set[str]) -> dict[str, Range]:
    """Return the lowest and the highest value of each named fp32 tensor over all feeds."""
    from ai_edge_litert.interpreter import Interpreter

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # keeping all tensors is said to be for debugging; calibrating is the same
        interpreter = Interpreter(str(source), experimental_preserve_all_tensors=True, num_threads=1)
    runner = interpreter.get_signature_runner(signature)
    tensors = [
        (item["index"], item["name"])
        for item in interpreter.get_tensor_details()
        if item["dtype"] is np.float32 and item["name"] in names
    ]
    found: dict[str, Range] = {}
    for item in feeds:
        runner(**item)
        for index, name in tensors:
            value = interpreter.get_tensor(index)
            low, high, _ = found.get(name, (0.0, 0.0, 0))
            found[name] = (min(low, float(value.min())), max(high, float(value.max())), value.ndim)
    return found


class _Graph:
    """Which tensors of a file are what.

    Attributes:
        activations: names of tensors that operators write.
        integral: of those, what comes of integers and constants alone (the mask): its range is known.
        multiplied: what matmuls of two activations read or write.
        logistic: what enters the logistic function.

    """

    def __init__(self, path: Path) -> None:
        from ai_edge_litert import schema_py_generated as schema

        model = schema.Model.GetRootAsModel(path.read_bytes(), 0)
        graph = model.Subgraphs(0)
        kinds = schema.BuiltinOperator
        self.activations: set[str] = set()
        self.multiplied: set[str] = set()
        self.logistic: set[str] = set()
        known = {i for i in range(graph.TensorsLength()) if _is_constant(model, graph.Tensors(i))}
        self.integral: set[str] = set()
        for number in range(graph.OperatorsLength()):
            operator = graph.Operators(number)
            kind = model.OperatorCodes(operator.OpcodeIndex()).BuiltinCode()
            reads = [operator.Inputs(i) for i in range(operator.InputsLength()) if operator.Inputs(i) >= 0]
            writes = [operator.Outputs(i) for i in range(operator.OutputsLength())]
            names = {_name(graph, i) for i in writes}
            self.activations |= names
            if kind == kinds.BATCH_MATMUL:
                self.multiplied |= names | {_name(graph, i) for i in reads}
            if kind == kinds.LOGISTIC:
                self.logistic |= {_name(graph, i) for i in reads}
            if kind == kinds.CAST or known.issuperset(reads):
                known |= set(writes)
                self.integral |= names


def _is_constant(model: Any, tensor: Any) -> bool:
    stored = model.Buffers(tensor.Buffer())
    return bool(stored.DataLength() or stored.Size())


def _name(graph: Any, tensor: int) -> str:
    return str(graph.Tensors(tensor).Name().decode())
