"""Tracing, shared by the backends."""

from __future__ import annotations

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from edgellm.backends import MIN_TOKENS, Prepared
from edgellm.backends.constructs import tracing

_EXAMPLE_TOKENS = 12
_LOWEST = -1e4
_FINITE_MASK = -30.0
_ASSERTIONS = ("aten._assert_scalar", "aten.sym_constrain_range", "aten.item", "aten._local_scalar_dense")


def example(prepared: Prepared, tokens: int, dtype: torch.dtype = torch.int64) -> dict[str, torch.Tensor]:
    """Return inputs [1, tokens] to trace with; the last quarter is padding, as the mask says.

    Padding in the example keeps a shortcut for unpadded text from being traced.
    """
    feeds = {spec.name: torch.full((1, tokens), min(1, spec.bound - 1), dtype=dtype) for spec in prepared.inputs}
    if "token_type_ids" in feeds:
        feeds["token_type_ids"][:] = 0
    if "attention_mask" in feeds:
        feeds["attention_mask"][:, tokens - tokens // 4 :] = 0
    return feeds


def trace(module: nn.Module, prepared: Prepared, dtype: torch.dtype = torch.int64) -> ExportedProgram:
    """Return the traced module with inputs of `dtype`, a dynamic length of MIN_TOKENS to max_tokens and a finite mask.

    Raises:
        InputError: the model's code depends on the text or its length.

    """
    longest = prepared.buckets[-1]
    feeds = example(prepared, min(_EXAMPLE_TOKENS, longest), dtype)
    tokens = Dim("tokens", min=MIN_TOKENS, max=longest)
    # The batch is 1 for good; only the length moves.
    shapes = {name: {1: tokens} for name in feeds}
    with torch.no_grad(), tracing(module):
        program = torch.export.export(module, (), kwargs=feeds, dynamic_shapes=shapes, strict=False)
    clamp_constants(program)
    return program


def trace_static(module: nn.Module, feeds: dict[str, torch.Tensor]) -> ExportedProgram:
    """Return the module traced at the shapes of `feeds`, with a finite mask and without the model's own assertions.

    Raises:
        InputError: the model's code depends on the text.

    """
    with torch.no_grad(), tracing(module):
        program = torch.export.export(module, (), kwargs=feeds, strict=False)
    drop_assertions(program)
    clamp_constants(program)
    return program


def drop_assertions(program: ExportedProgram) -> int:
    """Remove assertions about the text in place, and return how many nodes went.

    They compute nothing, but read numbers out of tensors (`aten.item`), which no graph format has.
    """
    removed = 0
    for node in reversed(program.graph.nodes):
        target = str(node.target)
        of_assertion = target.startswith(_ASSERTIONS) or getattr(node.target, "__module__", "") == "_operator"
        if node.op == "call_function" and not node.users and of_assertion:
            program.graph.erase_node(node)
            removed += 1
    if removed:
        program.graph_module.recompile()
    return removed


def clamp_constants(program: ExportedProgram) -> int:
    """Make masks finite in place, whatever operator applies them, and return how many constants were changed.

    Models whose attention could not be replaced mask with the lowest float, as a scalar of `masked_fill`, `full`,
    `where` or `mul`, or as a constant tensor. Bounds of clamps are not masks and stay.
    """
    changed = 0
    for node in program.graph.nodes:
        if node.op != "call_function" or "clamp" in str(node.target):
            continue
        args = tuple(_FINITE_MASK if isinstance(a, float) and a < _LOWEST else a for a in node.args)
        if args != node.args:
            node.args = args
            changed += 1
    for name, tensor in program.constants.items():
        if isinstance(tensor, torch.Tensor) and tensor.is_floating_point() and bool((tensor < _LOWEST).any()):
            program.constants[name] = tensor.clamp(min=_FINITE_MASK)
            changed += 1
    if changed:
        program.graph_module.recompile()
    return changed
