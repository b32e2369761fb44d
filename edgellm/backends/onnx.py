"""ONNX: exported with a dynamic length, rewritten for ONNX Runtime's kernels, quantized as a file."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
from onnx import numpy_helper

from edgellm.backends import MIN_TOKENS, Lowered, Prepared, _onnx_int4, contents_of
from edgellm.backends._cost import program_cost
from edgellm.backends._delegation_onnx import survey_onnx
from edgellm.backends._onnx_fp16 import halve
from edgellm.backends._onnx_graph import drop_unused, matrices_of, readers_of
from edgellm.backends._onnx_quantize import quantize_dynamic, quantize_static, quantize_tables, quantize_weights
from edgellm.backends._onnx_rewrite import gemm_to_matmul, merge_matmuls, unfuse_residuals
from edgellm.backends._onnx_tied import share, untie
from edgellm.backends.calibrate import calibrate, left_out
from edgellm.backends.constructs import converting
from edgellm.backends.fitting import round_prepared
from edgellm.backends.rounding import layer_of_constant
from edgellm.backends.trace import trace
from edgellm.core.precision import Precisions
from edgellm.core.signature import Signature
from edgellm.core.target import Target
from edgellm.errors import EdgellmError

if TYPE_CHECKING:
    from torch import nn


def lower(prepared: Prepared, precisions: Precisions, target: Target, folder: Path) -> Lowered:
    """Write model-<scheme>.onnx, with the IR version and opset of the target."""
    module = prepared.module
    _, notes = round_prepared(prepared, precisions, "onnx")
    if precisions.static:
        # Unsigned: on x86 the kernel for signed activations is far slower; on Arm they are alike.
        _, left = calibrate(
            module, prepared.samples, method=prepared.ranges, signed=False, outputs=False, wanted=precisions.is_static
        )
        notes += left_out(left, "in onnx their weights are int8, and what they compute is fp32")
    model, cost = export(prepared, target)
    if any(scheme.bits < 16 for scheme in precisions.schemes):
        untie(model)
    schemes = _schemes(model, module, precisions)
    rewrite(model, schemes)
    model = _quantized(model, schemes, folder)
    share(model)
    drop_unused(model)
    model.ir_version = target.onnx.ir_version
    model.producer_name, model.producer_version = "edgellm", ""
    data = model.SerializeToString(deterministic=True)
    path = folder / f"model-{precisions.name}.onnx"
    path.write_bytes(data)
    return Lowered(
        file=path.name,
        signature=Signature(prepared.inputs, (prepared.output,), min_tokens=MIN_TOKENS),
        session_options={},
        delegation=survey_onnx(path, cost),
        contents=contents_of(_survey(model), len(data)),
        notes=notes,
    )


def export(prepared: Prepared, target: Target) -> tuple[onnx.ModelProto, float]:
    """Return the traced module as ONNX, with a dynamic length, in the opset of the target; every linear is a MatMul.

    With it come its multiply-accumulates for the longest text.

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
    _clean(model)
    _strip_metadata(model)
    rename_output(model, prepared.output.name)
    return model, program_cost(program, prepared.buckets[-1])


def as_built(model: onnx.ModelProto, folder: Path, *, int8: bool) -> onnx.ModelProto:
    """Return any exporter's graph as a build would write it: rewritten for ONNX Runtime's kernels, in int8-dynamic if `int8`.

    Embedding tables stay as they are. `folder` is for what is only needed meanwhile.
    """
    _clean(model)
    rewrite(model)
    return quantize_dynamic(model, folder) if int8 else model


def rewrite(model: onnx.ModelProto, schemes: dict[str, str] | None = None) -> None:
    """Rewrite a graph in its place for ONNX Runtime's kernels; `schemes`, by constant, is told those of merged weights."""
    merge_matmuls(model, schemes)
    unfuse_residuals(model)


def _clean(model: onnx.ModelProto) -> None:
    """Make an exporter's graph one that rewriting and quantizing know, in its place: no Gemm, no shapes of before."""
    del model.graph.value_info[:]  # stale shapes make quantize_dynamic fail on classifiers
    gemm_to_matmul(model)


def _schemes(model: onnx.ModelProto, module: nn.Module, precisions: Precisions) -> dict[str, str]:
    """Return the scheme of each matrix among the constants; what is no layer's weight has the default."""
    layer = layer_of_constant(module)
    schemes = {}
    for name, value in matrices_of(model).items():
        found = layer(value)
        schemes[name] = precisions.default if found is None else precisions.of(found).name
    return schemes


def _quantized(model: onnx.ModelProto, schemes: dict[str, str], folder: Path) -> onnx.ModelProto:
    """Return the model with each constant as its scheme says."""

    def having(*names: str) -> Callable[[str], bool]:
        return lambda constant: schemes.get(constant) in names

    used = set(schemes.values())
    if "fp16" in used:
        halve(model)
    _onnx_int4.quantize_tables(model, having("int4-dynamic", "int4-weight-only"))
    quantize_tables(model, lambda constant: schemes.get(constant, "fp32") not in ("fp32", "fp16"))
    if "int8-dynamic" in used:
        model = quantize_dynamic(model, folder, having("int8-dynamic"))
    quantize_static(model, having("int8-static"))
    # Static as well: of matmuls that no range was calibrated for.
    quantize_weights(model, having("int8-static", "int8-weight-only"))
    levels = {"int4-dynamic": _onnx_int4.INT8, "int4-weight-only": _onnx_int4.FP32}
    _onnx_int4.quantize_matmuls(model, lambda constant: levels.get(schemes.get(constant, "")))
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
    """Return the bytes of constants by what reads them; a cast's are those of a weight that it widens."""
    readers = readers_of(model)
    kinds: dict[str, int] = defaultdict(int)
    for item in model.graph.initializer:
        operators = {node.op_type for node in readers[item.name]}
        if "Gather" in operators:
            kind = "embedding tables"
        elif operators & {"Cast", "DequantizeLinear", "MatMul", "MatMulInteger", "MatMulNBits"}:
            kind = "matmul weights"
        else:
            kind = "other constants"
        kinds[kind] += numpy_helper.to_array(item).nbytes
    return dict(kinds)
