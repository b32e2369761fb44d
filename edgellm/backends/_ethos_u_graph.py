"""Restates a traced module in operators that an Ethos-U runs with 16-bit activations, and whose ranges 16 bits hold.

- LayerNorm divides twice. A transformer has tokens whose variance is hundreds of times the usual one; a table of squares
  that holds both leaves the usual ones a step or none. Divided coarsely first, all tokens have about the same variance.
  It also keeps what enters the reciprocal root near 1, which matters on the NPU: it interpolates a table of 512 parts of
  the whole range, where TFLite's own kernel computes each value.
- GELU is `x * sigmoid(...)`, its tanh form (Hendrycks and Gimpel 2016), as Vela takes GELU in 8 bits only.
- The mask goes from integers to numbers once, not by way of booleans.
- The number of tokens divides by its reciprocal root, twice, as Ethos-U55 and U65 have no division.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx, nn

aten = torch.ops.aten

_MASK = "attention_mask"
_CASTS = (aten.to, aten._to_copy)
_OF_MASK = (*_CASTS, aten.unsqueeze, aten.view, aten.reshape, aten.sum)
_ASSERTION = aten._assert_tensor_metadata
_NOTHING = 1e-6
"""A clamp to less than this only guards against dividing by 0; no step of 16 bits is as small."""

_SLOPE = 2 * math.sqrt(2 / math.pi)
_CUBIC = 0.044715


def restate(module: fx.GraphModule, feeds: Sequence[Mapping[str, torch.Tensor]]) -> nn.Module:
    """Return the module in other operators, the same in fp32 up to rounding and GELU's approximation.

    The epsilon of a LayerNorm is dropped: 16 bits don't hold it.

    Args:
        module: traced at fixed shapes; takes int32 tensors by name.
        feeds: calibration inputs at those shapes, which say what the usual variance is.

    """
    return _Restated(module, _variances(module, feeds)).transform().eval()


def _variances(module: fx.GraphModule, feeds: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, float]:
    """Return the median variance of what each LayerNorm reads, over tokens, by the name of its node."""
    seen: dict[str, list[torch.Tensor]] = {}

    class Watching(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            if _packet(n) is aten.layer_norm:
                value = self.env[n.args[0]]
                seen.setdefault(n.name, []).append(value.var(-1, unbiased=False).flatten())
            return super().run_node(n)

    names = [node.target for node in module.graph.nodes if node.op == "placeholder"]
    with torch.no_grad():
        for item in feeds:
            Watching(module).run(*(item[str(name)] for name in names))
    return {name: float(torch.cat(values).median()) for name, values in seen.items()}


class _Restated(fx.Transformer):
    """Copies a graph, with other operators for some."""

    def __init__(self, module: fx.GraphModule, variances: Mapping[str, float]) -> None:
        super().__init__(module)
        self._variances = variances

    def run_node(self, n: fx.Node) -> Any:
        """Return the proxy of a node's value in the new graph."""
        args, _ = self.fetch_args_kwargs_from_env(n)
        packet = _packet(n)
        if packet is aten.layer_norm and len(n.args[1]) == 1:
            return self._layer_norm(self._variances[n.name], *args)
        if packet is aten.gelu:
            return _gelu(args[0])
        if packet is aten.dropout:
            return args[0]
        if packet is _ASSERTION:
            return None
        if packet is aten.clamp and len(args) == 2 and 0 < args[1] < _NOTHING:
            return args[0]
        if _to_booleans_and_on(n):
            return aten.to.dtype(args[0], torch.float32)
        if packet is aten.div and _counts_tokens(n.args[1]):
            inverse = aten.rsqrt.default(args[1])
            return args[0] * inverse * inverse
        return super().run_node(n)

    def _layer_norm(
        self, usual: float, x: Any, shape: Sequence[int], weight: Any = None, bias: Any = None, *rest: object
    ) -> Any:
        """Return what LayerNorm over the last axis gives; `usual` is the usual variance."""
        centred = x - _mean(x)
        coarse = centred * aten.rsqrt.default(_mean(centred * centred) + usual)
        normal = coarse * aten.rsqrt.default(_mean(coarse * coarse))
        if weight is not None:
            normal = normal * weight
        return normal if bias is None else normal + bias


def _gelu(x: Any) -> Any:
    return x * aten.sigmoid.default(x * (x * x * (_SLOPE * _CUBIC) + _SLOPE))


def _mean(x: Any) -> Any:
    return aten.mean.dim(x, [-1], True)


def _packet(node: object) -> object:
    """Return the operator of a node without its overload: `aten.mul` for `aten.mul.Tensor`."""
    target = getattr(node, "target", None)
    return target.overloadpacket if isinstance(target, torch._ops.OpOverload) else None


def _to_booleans_and_on(node: fx.Node) -> bool:
    """Tell whether a node makes booleans of the mask, of which numbers are made and nothing else."""
    casts = _packet(node) in _CASTS and any(arg is torch.bool for arg in (*node.args, *node.kwargs.values()))
    return casts and _of_mask(node) and all(_packet(user) in (*_CASTS, _ASSERTION) for user in node.users)


def _counts_tokens(node: object) -> bool:
    """Tell whether a value is the sum of the mask, which is never 0."""
    return isinstance(node, fx.Node) and _packet(node) is aten.sum and _of_mask(node)


def _of_mask(node: fx.Node) -> bool:
    """Tell whether a value is the attention mask, cast, reshaped or summed."""
    while node.op != "placeholder":
        first = node.args[0] if node.args else None
        if _packet(node) not in _OF_MASK or not isinstance(first, fx.Node):
            return False
        node = first
    return node.target == _MASK
