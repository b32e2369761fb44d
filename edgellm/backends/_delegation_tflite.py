"""What TFLite's CPU delegate takes of a file, read from the interpreter that it was handed to, on this machine.

The interpreter keeps every operator of the graph and adds one DELEGATE per partition. It does not say which operators a
partition replaced: those are what lies between its outputs and its inputs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgellm.core.delegation import MULTIPLY_ACCUMULATES, Delegation, grouped

_DELEGATE = "DELEGATE"
_CAUSE = "XNNPACK did not take it when the file was loaded on this machine; TFLite gives no reason"


def survey_tflite(path: Path) -> Delegation:
    """Return how a file's first signature is shared between XNNPACK and TFLite's own kernels.

    Costs are those of the longest signature, where it has the same operators; the interpreter shows the first one only.
    """
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    details = interpreter._get_ops_details()
    operators = [each for each in details if each["op_name"] != _DELEGATE]
    partitions = [each for each in details if each["op_name"] == _DELEGATE]
    taken = inside(operators, partitions)
    costs = _costs(path.read_bytes(), [str(each["op_name"]) for each in operators])
    left = [(str(each["op_name"]), _CAUSE, cost) for k, (each, cost) in enumerate(zip(operators, costs, strict=True))
            if k not in taken]  # fmt: skip
    return Delegation(
        "xnnpack", len(partitions), len(taken), len(left), sum(costs[k] for k in taken), sum(cost for _, _, cost in left),
        MULTIPLY_ACCUMULATES, grouped(left),
    )  # fmt: skip


def inside(operators: Sequence[dict[str, Any]], partitions: Sequence[dict[str, Any]]) -> set[int]:
    """Return the places of the operators that partitions replaced.

    Args:
        operators, partitions: with the numbers of the tensors that they read and write, as `inputs` and `outputs`.

    """
    makers = {int(tensor): place for place, each in enumerate(operators) for tensor in each["outputs"]}
    found: set[int] = set()
    for partition in partitions:
        given = {int(tensor) for tensor in partition["inputs"]}
        wanted = [int(tensor) for tensor in partition["outputs"]]
        while wanted:
            place = makers.get(wanted.pop())
            if place is None or place in found:
                continue
            found.add(place)
            wanted += [int(tensor) for tensor in operators[place]["inputs"] if int(tensor) not in given]
    return found


def _costs(data: bytes, names: list[str]) -> list[float]:
    """Return the multiply-accumulates of each operator, of the last signature that has the same operators in order."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAsModel(data, 0)
    numbers = {number: name for name, number in vars(schema.BuiltinOperator).items() if isinstance(number, int)}
    for index in reversed(range(model.SubgraphsLength())):
        graph = model.Subgraphs(index)
        found = [graph.Operators(k) for k in range(graph.OperatorsLength())]
        kinds = [numbers.get(model.OperatorCodes(each.OpcodeIndex()).BuiltinCode(), "") for each in found]
        if kinds == names:
            return [_cost(graph, each, kind) for each, kind in zip(found, kinds, strict=True)]
    return [0.0] * len(names)


def _cost(graph: Any, operator: Any, kind: str) -> float:
    """Return the multiply-accumulates of one operator: what it writes, times what each number of that sums up."""
    if kind not in ("FULLY_CONNECTED", "BATCH_MATMUL", "CONV_2D"):
        return 0.0
    made = math.prod(_shape(graph, operator.Outputs(0)))
    other = _shape(graph, operator.Inputs(1))  # weights [out, in], or [out, height, width, in]
    if kind == "BATCH_MATMUL":
        return float(made * _shape(graph, operator.Inputs(0))[-1])
    return float(made * math.prod(other[1:]))


def _shape(graph: Any, tensor: int) -> list[int]:
    return [int(size) for size in graph.Tensors(tensor).ShapeAsNumpy()]
