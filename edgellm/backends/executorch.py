"""ExecuTorch through XNNPACK: torchao quantizes the module, then it is traced and lowered with a dynamic length.

What keeps the graph in few partitions (measured: `make bench`):
- LayerNorm stated in operators that XNNPACK takes, with the mean as a matmul by a constant row, since XNNPACK reduces
  a dynamic shape no other way;
- expand copies that copy nothing removed;
- the one symbolic entry of each view written as -1, because XNNPACK rejects symbolic sizes.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram

from edgellm.backends import MIN_TOKENS, Lowered, Prepared, contents_of
from edgellm.backends._delegation import survey
from edgellm.backends._executorch_quantize import Half, quantize, sizes_of
from edgellm.backends.constructs import converting, unsupported
from edgellm.backends.trace import trace
from edgellm.core.precision import Precisions
from edgellm.core.signature import Signature
from edgellm.core.target import Target
from edgellm.errors import EdgellmError

_QUANTIZING = "quant|choose_qparams|access_subclass|zeros|ones|full"
"""Operators of torchao's quantized weights and of what makes their zero points: fusing looks for them as they are."""


def lower(prepared: Prepared, precisions: Precisions, target: Target, folder: Path) -> Lowered:
    """Write model-<scheme>.pte."""
    from executorch.backends.xnnpack._passes.remove_noop_expand_copy_pass import RemoveNoopExpandCopyPass
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import EdgeCompileConfig, ExecutorchBackendConfig, to_edge_transform_and_lower

    module = prepared.module
    notes = quantize(prepared, precisions)
    sizes = sizes_of(module, precisions)
    _restate_layer_norms(module)
    if precisions.default == "fp16":
        module = Half(module)
    program = _folded(trace(module, prepared))
    with converting("executorch", lambda: program, module):
        edge = to_edge_transform_and_lower(
            program,
            partitioner=[XnnpackPartitioner()],
            transform_passes=[RemoveNoopExpandCopyPass(), _infer_symbolic_size],
            compile_config=EdgeCompileConfig(_check_ir_validity=False),
        )
        delegation = survey(edge.exported_program(), "xnnpack", prepared.buckets[-1])
        if not delegation.inside:
            raise EdgellmError("XNNPACK took no part of the graph, so everything would run on slow portable kernels.")
        config = ExecutorchBackendConfig(extract_delegate_segments=True, do_quant_fusion_and_const_prop=True)
        manager = edge.to_executorch(config)
    lacking = _without_kernel(manager.executorch_program)
    if lacking:
        raise unsupported("executorch", lacking, "its runtime has no kernel for it", program, module)
    buffer = manager.buffer
    name = f"model-{precisions.name}.pte"
    (folder / name).write_bytes(buffer)
    return Lowered(
        file=name,
        signature=Signature(prepared.inputs, (prepared.output,), min_tokens=MIN_TOKENS),
        session_options={},
        delegation=delegation,
        contents=contents_of(sizes, len(buffer)),
        notes=notes,
    )


class _LayerNorm(nn.Module):
    """LayerNorm over the last axis, in operators that XNNPACK takes at any length."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        width = norm.normalized_shape[0]
        self.eps = norm.eps
        self.weight = nn.Parameter(norm.weight.detach(), requires_grad=False) if norm.weight is not None else None
        self.bias = nn.Parameter(norm.bias.detach(), requires_grad=False) if norm.bias is not None else None
        self.register_buffer("average", torch.full((1, width), 1.0 / width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        centred = x - nn.functional.linear(x, self.average)
        variance = nn.functional.linear(centred * centred, self.average)
        normal = centred * torch.rsqrt(variance + self.eps)
        if self.weight is not None:
            normal = normal * self.weight
        return normal if self.bias is None else normal + self.bias


def _restate_layer_norms(module: nn.Module) -> None:
    """Replace every LayerNorm over one axis, in place. After quantizing, which must not take its matmuls."""
    for name, child in module.named_children():
        if type(child) is nn.LayerNorm and len(child.normalized_shape) == 1:
            setattr(module, name, _LayerNorm(child))
        else:
            _restate_layer_norms(child)


def _folded(program: ExportedProgram) -> ExportedProgram:
    """Return the program with what only depends on constants computed, but weights left quantized.

    A partition of constants alone (DeBERTa normalizes its table of relative positions) is refused by XNNPACK.
    """
    from executorch.exir.passes.constant_prop_pass import constant_prop_pass

    targets = {node.target for node in program.graph.nodes if node.op == "call_function"}
    kept = {target for target in targets if re.search(_QUANTIZING, str(target))}
    return constant_prop_pass(program, custom_skip_targets=kept)


def _infer_symbolic_size(graph_module: torch.fx.GraphModule) -> Any:
    """Write the one symbolic size of each view as -1."""
    from executorch.exir.dialects._ops import ops
    from torch.fx.passes.infra.pass_base import PassResult

    changed = False
    for node in graph_module.graph.nodes:
        if node.op != "call_function" or node.target != ops.edge.aten.view_copy.default:
            continue
        sizes = list(node.meta["val"].shape)
        symbolic = [size for size in sizes if not isinstance(size, int)]
        if len(symbolic) == 1:
            node.args = (node.args[0], [size if isinstance(size, int) else -1 for size in sizes])
            changed = True
    if changed:
        graph_module.graph.eliminate_dead_code()
        graph_module.recompile()
    return PassResult(graph_module, changed)


def _without_kernel(program: Any) -> list[str]:
    """Return the ATen operators of an emitted program that the runtime has no kernel for, without namespace."""
    from executorch.runtime import Runtime

    known = Runtime.get().operator_registry.operator_names
    named = [f"{item.name}.{item.overload}" if item.overload else item.name
             for plan in program.execution_plan for item in plan.operators]  # fmt: skip
    lacking = [name for name in named if name.startswith("aten::") and name not in known]
    return [name.removeprefix("aten::").partition(".")[0] for name in lacking]
