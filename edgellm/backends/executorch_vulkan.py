"""ExecuTorch through its Vulkan delegate, for phones' GPUs: a .pte in 16-bit floats. Nothing here can run it.

One program serves every length: Vulkan's shaders are given sizes when they run, and its memory is planned for the longest.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram

from edgellm.abi.vulkan import VulkanGraph, read_graph
from edgellm.backends import MIN_TOKENS, Lowered, Prepared, contents_of
from edgellm.backends._cost import overload
from edgellm.backends._delegation import survey
from edgellm.backends._executorch_program import delegates, emitted
from edgellm.backends._quiet import importing, quietly
from edgellm.backends.constructs import converting
from edgellm.backends.trace import example, trace
from edgellm.core.precision import Precisions
from edgellm.core.signature import Signature
from edgellm.core.target import Target, platform
from edgellm.errors import EdgellmError, UsageError

SCHEMES = ("fp16", "int8-weight-only")
"""What Vulkan is asked for: it computes in 16-bit floats, with matrices of 16 or 8 bits."""

_EXAMPLE_TOKENS = 12

_WEIGHTS = {
    "aten::embedding": ("embedding tables", 0),
    "aten::addmm": ("matmul weights", 2),
    "aten::linear": ("matmul weights", 1),
    "aten::mm": ("matmul weights", 1),
}
"""Operator to what its weight is, and which argument."""

NOT_RUN = (
    "The Vulkan artifact was not run: ExecuTorch's packages for this machine hold no Vulkan runtime. Its structure and "
    "precision were checked."
)
"""The note that every artifact for Vulkan carries."""

_TABLES = "Vulkan looks rows up in 16-bit floats, so embedding tables stay so; int8 is for the other matrices."


def lower(prepared: Prepared, precisions: Precisions, target: Target, folder: Path) -> Lowered:
    """Write model-<scheme>.pte."""
    scheme = precisions.name
    _ensure(scheme, target)
    module = prepared.module
    with quietly():
        program = trace(module, prepared)
        if scheme == "int8-weight-only":
            program = trace(_quantized(program, prepared), prepared)
    with converting("executorch", lambda: program, module), quietly():
        edge = _lower(program)
        delegation = survey(edge.exported_program(), "vulkan", prepared.buckets[-1])
        if not delegation.inside:
            raise EdgellmError("Vulkan took no part of the graph, so everything would run on slow portable kernels.")
        graphs = [read_graph(blob) for blob in _blobs(edge.exported_program())]
        ensure_precision(graphs, scheme)
        buffer = emitted(edge)
    name = f"model-{scheme}.pte"
    (folder / name).write_bytes(buffer)
    return Lowered(
        file=name,
        signature=Signature(prepared.inputs, (prepared.output,), min_tokens=MIN_TOKENS),
        session_options={},
        delegation=delegation,
        contents=contents_of(_kinds(edge.exported_program()), len(buffer)),
        notes=(*((_TABLES,) if scheme == "int8-weight-only" else ()), NOT_RUN),
    )


def _ensure(scheme: str, target: Target) -> None:
    """Check that Vulkan can be asked for a scheme, on a target that has it.

    Raises:
        UsageError: it can't.

    """
    if platform(target.abi)[0] != "android":
        raise UsageError(
            f"ExecuTorch's Vulkan delegate is for Android, and the abi of {target.name} is {target.abi}.",
            hint="Choose another delegate.",
        )
    if scheme not in SCHEMES:
        raise UsageError(
            f"vulkan can't express {scheme}: its programs compute in 16-bit floats.",
            hint=f"Use --scheme {' or '.join(SCHEMES)}.",
        )


def _quantized(program: ExportedProgram, prepared: Prepared) -> nn.Module:
    """Return the traced module with the weights of linears as int8, one scale per output channel.

    Vulkan fuses what its own quantizer writes; torchao's weight-only config it would unpack on every call.
    """
    with importing():
        from executorch.backends.vulkan.quantizer.vulkan_quantizer import (
            VulkanQuantizer,
            get_symmetric_quantization_config,
        )
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    quantizer = VulkanQuantizer().set_global(get_symmetric_quantization_config(is_dynamic=False, weight_bits=8))
    observed = prepare_pt2e(program.module(check_guards=False), quantizer)
    with torch.no_grad():
        observed(**example(prepared, min(_EXAMPLE_TOKENS, prepared.buckets[-1])))
    quantized = convert_pt2e(observed)
    assert isinstance(quantized, nn.Module)
    return quantized


def _lower(program: ExportedProgram) -> Any:
    with importing():
        from executorch.backends.vulkan.partitioner.vulkan_partitioner import VulkanPartitioner
        from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower

    options = {"force_fp16": True, "require_dynamic_shapes": True}
    return to_edge_transform_and_lower(
        program,
        partitioner=[VulkanPartitioner(options)],
        compile_config=EdgeCompileConfig(_check_ir_validity=False),
    )


def _blobs(program: ExportedProgram) -> list[bytes]:
    return [module.processed_bytes for module in delegates(program)]


def ensure_precision(graphs: list[VulkanGraph], scheme: str) -> None:
    """Check what Vulkan was given, as read back.

    Raises:
        EdgellmError: it computes in another precision than 16-bit floats, or unpacks its int8 weights on every call.

    """
    single = sum(graph.tensors.get("float32", 0) for graph in graphs)
    operators = Counter(name for graph in graphs for name in graph.operators.elements())
    wrong = [f"{single} tensors are float32"] if single else []
    unpacked = sorted(name for name in operators if "dequantize" in name)
    if unpacked:
        wrong.append(f"weights are unpacked on every call, by {', '.join(unpacked)}")
    if scheme == "int8-weight-only" and not any("int8" in name for name in operators):
        wrong.append("no operator reads int8 weights")
    if wrong:
        raise EdgellmError(f"The Vulkan graph is not what {scheme} says: {'; '.join(wrong)}.")


def _kinds(program: ExportedProgram) -> dict[str, int]:
    """Return bytes of embedding tables and of matmul weights, as they are in the file: floats have 16 bits there."""
    found = {"embedding tables": 0, "matmul weights": 0}
    seen: set[str] = set()
    for lowered in delegates(program):
        for node in lowered.original_module.graph.nodes:
            target = overload(node) if node.op == "call_function" else None
            kind, place = _WEIGHTS.get(target._schema.name if target else "", ("", 0))
            weight = _constant(node.args[place]) if kind else None
            if weight is not None and weight.name not in seen:
                seen.add(weight.name)
                value = weight.meta["val"]
                found[kind] += min(2, value.dtype.itemsize) * value.numel()
    return found


def _constant(node: Any) -> torch.fx.Node | None:
    """Return the constant that a weight is, or that it is unpacked from."""
    while isinstance(node, torch.fx.Node) and node.op == "call_function" and node.args:
        node = node.args[0]
    return node if isinstance(node, torch.fx.Node) and node.op == "placeholder" else None
