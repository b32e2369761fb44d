"""ONNX: exported with a dynamic length, rewritten for ONNX Runtime's kernels, quantized as a file."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import onnx
from onnx import numpy_helper

from edgellm.backends import MIN_TOKENS, Lowered, Prepared, contents_of
from edgellm.backends._onnx_graph import drop_unused, readers_of
from edgellm.backends._onnx_quantize import quantize_dynamic, quantize_static, quantize_tables, quantize_weights
from edgellm.backends._onnx_rewrite import gemm_to_matmul, merge_matmuls, unfuse_residuals
from edgellm.backends._onnx_tied import share, untie
from edgellm.backends.calibrate import calibrate, left_out
from edgellm.backends.constructs import converting
from edgellm.backends.trace import trace
from edgellm.core.signature import Signature
from edgellm.core.target import Target
from edgellm.errors import EdgellmError


def lower(prepared: Prepared, scheme: str, target: Target, folder: Path) -> Lowered:
    """Write model-<scheme>.onnx, with the IR version and opset of the target."""
    notes: tuple[str, ...] = ()
    if scheme == "int8-static":
        # Unsigned: on x86 the kernel for signed activations is far slower; on Arm they are alike.
        _, left = calibrate(prepared.module, prepared.samples, method=prepared.ranges, signed=False, outputs=False)
        notes = left_out(left, "in onnx their weights are int8, and what they compute is fp32")
    model = export(prepared, target)
    merge_matmuls(model)
    unfuse_residuals(model)
    if scheme != "fp32":
        untie(model)
        quantize_tables(model)
    if scheme == "int8-dynamic":
        model = quantize_dynamic(model, folder)
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


def export(prepared: Prepared, target: Target) -> onnx.ModelProto:
    """Return the traced module as ONNX, with a dynamic length, in the opset of the target; every linear is a MatMul.

    Raises:
        InputError: the model has an operator that ONNX lacks.

    """
    import torch

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
    return model


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


def _survey(model: onnx.ModelProto) -> dict[str, int]:
    """Return the bytes of constants by what reads them."""
    readers = readers_of(model)
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
