"""What ONNX Runtime's CPU provider takes of a file: everything, since it has a kernel for each operator or refuses the file."""

from __future__ import annotations

from pathlib import Path

from edgellm.core.delegation import MULTIPLY_ACCUMULATES, Delegation


def survey_onnx(path: Path, cost: float) -> Delegation:
    """Return the delegation of a file to the CPU provider.

    Args:
        path: of the .onnx file.
        cost: multiply-accumulates of the traced module at the longest text (`_cost.program_cost`): ONNX's own shape
            inference loses a symbolic length on the way.

    """
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    operators = sum(node.op_type != "Constant" for node in model.graph.node)
    return Delegation("cpu", 1, operators, 0, cost, 0.0, MULTIPLY_ACCUMULATES)
