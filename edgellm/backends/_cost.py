"""What an operator of a traced graph costs: multiply-accumulates, from the shapes of what it reads and writes.

The formulas are torch's (`torch.utils.flop_counter`), which counts two operations for each multiply-accumulate; what it
only sees taken apart (`linear`) has one here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.utils.flop_counter import flop_registry

_WHOLE: dict[str, Callable[[Any, Any], int]] = {
    "aten::linear": lambda made, args: made.numel() * args[1].shape[-1],
    "aten::matmul": lambda made, args: made.numel() * args[0].shape[-1],
    **{f"aten::conv{n}d": lambda made, args: made.numel() * args[1][0].numel() for n in (1, 2, 3)},
    # The scores, and what they mix.
    "aten::scaled_dot_product_attention": lambda made, args: (args[0].numel() + made.numel()) * args[1].shape[-2],
}
"""Operators that torch takes apart, to multiply-accumulates from the result and the arguments."""


def multiply_accumulates(node: torch.fx.Node, tokens: int) -> float:
    """Return the multiply-accumulates of one operator.

    Args:
        node: of the ATen or edge dialect, with the shapes that the trace found.
        tokens: what a symbolic length is taken to be.

    """
    target = overload(node)
    if target is None:
        return 0.0
    made = _concrete(node.meta.get("val"), tokens)
    args = torch.fx.node.map_arg(node.args, lambda arg: _value(arg, tokens))
    whole = _WHOLE.get(target._schema.name)
    if whole is not None:
        return float(whole(made, args))
    formula = flop_registry.get(target.overloadpacket)
    if formula is None:
        return 0.0
    kwargs = torch.fx.node.map_arg(node.kwargs, lambda arg: _value(arg, tokens))
    return float(formula(*args, **kwargs, out_val=made)) / 2


def program_cost(program: ExportedProgram, tokens: int) -> float:
    """Return the multiply-accumulates of a traced program for a text of `tokens` tokens."""
    return sum(multiply_accumulates(node, tokens) for node in program.graph.nodes if node.op == "call_function")


def overload(node: torch.fx.Node) -> torch._ops.OpOverload | None:
    """Return the ATen operator of a node, whatever dialect wraps it; None for anything that is none."""
    if isinstance(node.target, torch._ops.OpOverload):
        return node.target
    wrapped = getattr(node.target, "_op", None)  # as the edge dialect wraps it
    return wrapped if isinstance(wrapped, torch._ops.OpOverload) else None


def is_operator(node: torch.fx.Node) -> bool:
    """Tell operators that compute tensors from bookkeeping: tuple access, symbolic sizes, assertions."""
    if node.op != "call_function" or overload(node) is None:
        return False
    value = node.meta.get("val")
    values = value if isinstance(value, (tuple, list)) else (value,)
    return any(isinstance(each, torch.Tensor) for each in values)


def _value(arg: torch.fx.Node, tokens: int) -> Any:
    return _concrete(arg.meta.get("val"), tokens)


def _concrete(value: Any, tokens: int) -> Any:
    """Return what a node stands for without symbols: tensors on the meta device, sizes as integers."""
    if isinstance(value, torch.Tensor):
        return torch.empty([_size(size, tokens) for size in value.shape], dtype=value.dtype, device="meta")
    if isinstance(value, (tuple, list)):
        return type(value)(_concrete(each, tokens) for each in value)
    return _size(value, tokens) if isinstance(value, torch.SymInt) else value


def _size(size: int | torch.SymInt, tokens: int) -> int:
    """Return a size with every symbol as `tokens`: a trace has one, the length of the text."""
    if isinstance(size, int):
        return size
    expression = size.node.expr
    return int(expression.subs(dict.fromkeys(expression.free_symbols, tokens)))
