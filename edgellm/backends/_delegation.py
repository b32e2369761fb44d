"""What an ExecuTorch delegate took of a lowered program, and why it left the rest.

The cause of each operator outside is the partitioner's own: the same checks are asked again about what was left. XNNPACK
reports through a debug log, Vulkan and Core ML through methods that log; all three are read as data.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import torch
from torch.export import ExportedProgram

from edgellm.backends._cost import is_operator, multiply_accumulates, overload
from edgellm.backends._quiet import importing, quietly
from edgellm.core.delegation import MULTIPLY_ACCUMULATES, Delegation, grouped

Explain = Callable[[torch.fx.Node], str]
"""Takes an operator that was left, and returns the cause."""

_ALONE = "taken by itself, but not with its neighbours"
"""The cause where every check passes: a partition would have read what it writes, or had nothing else in it."""


def survey(program: ExportedProgram, delegate: str, tokens: int) -> Delegation:
    """Return how a lowered program is shared.

    Args:
        program: of the edge dialect, after partitioning.
        delegate: "xnnpack", "coreml", "vulkan", or another one, whose causes are not known.
        tokens: what a symbolic length is taken to be for the cost: the longest text.

    """
    with quietly():
        return _survey(program, delegate, tokens)


def _survey(program: ExportedProgram, delegate: str, tokens: int) -> Delegation:
    explain = _EXPLAIN.get(delegate, lambda whole: lambda node: f"{delegate} did not take it")(program)
    partitions = inside = 0
    cost_inside = 0.0
    left: list[tuple[str, str, float]] = []
    for node in program.graph.nodes:
        if "executorch_call_delegate" in str(node.target):
            taken = [inner for inner in _partition(program, node).graph.nodes if is_operator(inner)]
            partitions += 1
            inside += len(taken)
            cost_inside += sum(multiply_accumulates(inner, tokens) for inner in taken)
        elif is_operator(node):
            left.append((_name(node), explain(node), multiply_accumulates(node, tokens)))
    return Delegation(
        delegate, partitions, inside, len(left), cost_inside, sum(cost for _, _, cost in left), MULTIPLY_ACCUMULATES,
        grouped(left),
    )  # fmt: skip


def _partition(program: ExportedProgram, call: torch.fx.Node) -> ExportedProgram:
    """Return what a delegate was given, as it was before the delegate compiled it."""
    lowered = getattr(program.graph_module, str(call.args[0].target))
    original = lowered.original_module
    assert isinstance(original, ExportedProgram)
    return original


def _name(node: torch.fx.Node) -> str:
    """Return an operator's name without its overload: "aten.linear"."""
    target = overload(node)
    assert target is not None
    return target._schema.name.replace("::", ".")


def _xnnpack(program: ExportedProgram) -> Explain:
    """Ask the configuration of the operator, whose `why` logs an object with the reason."""
    with importing():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir.backend.canonical_partitioners.config_partitioner import format_target_name

    configurations = XnnpackPartitioner().target_partitioner_configs

    def explain(node: torch.fx.Node) -> str:
        found = configurations.get(format_target_name(str(getattr(node.target, "__name__", ""))))
        if found is None:
            return "XNNPACK's partitioner does not know it"
        with _records("executorch.backends.xnnpack.partition.config") as records:
            taken = found.check_constraints(node, program) and bool(found.get_node_and_deps(node, program))
        said = [str(getattr(record.msg, "reason", "")) for record in records]
        reasons = [reason.strip().rstrip(".") for reason in said if reason.strip()]
        if reasons:
            return f"XNNPACK's partitioner says: {reasons[-1]}"
        return _ALONE if taken else "XNNPACK's partitioner refuses it and gives no reason"

    return explain


def _vulkan(program: ExportedProgram) -> Explain:
    """Ask the table of operators; what it would log is kept."""
    with importing():
        from executorch.backends.vulkan import utils
        from executorch.backends.vulkan.partitioner.vulkan_partitioner import VulkanSupportedOperators

    class Asked(VulkanSupportedOperators):
        reason = ""

        def log_skip(self, node: torch.fx.Node, reason: str) -> None:
            self.reason = reason

    asked = Asked(utils.DEFAULT_TEXTURE_LIMITS, utils.DEFAULT_BUFFER_LIMIT, require_dynamic_shape=_is_dynamic(program))

    def explain(node: torch.fx.Node) -> str:
        asked.reason = ""
        if asked.is_node_supported({}, node):
            return _ALONE
        # The reason may go on with shapes and layouts of every argument.
        return f"Vulkan's partitioner says: {asked.reason.partition(' for op ')[0] or 'not supported'}"

    return explain


def _coreml(program: ExportedProgram) -> Explain:
    """Ask coremltools, and what ExecuTorch knows of its faults."""
    with importing():
        from executorch.backends.apple.coreml.partition import coreml_partitioner

    class Asked(coreml_partitioner._OperatorsSupportedForCoreMLBackend):
        reason = ""

        def log_once(self, msg: str) -> None:
            self.reason = msg

    asked = Asked()

    def explain(node: torch.fx.Node) -> str:
        asked.reason = ""
        if asked.is_node_supported(None, node):
            return _ALONE
        if "Overriding" in asked.reason:
            return f"ExecuTorch keeps it from Core ML: {asked.reason.partition('  Overriding')[0].rstrip('.')}"
        return f"coremltools {version('coremltools')} has no translation of it"

    return explain


_EXPLAIN: dict[str, Callable[[ExportedProgram], Explain]] = {"coreml": _coreml, "vulkan": _vulkan, "xnnpack": _xnnpack}
"""A target's delegate to what knows the causes."""


def _is_dynamic(program: ExportedProgram) -> bool:
    """Tell whether a program takes texts of several lengths."""
    return bool(program.range_constraints)


@contextmanager
def _records(name: str) -> Iterator[list[logging.LogRecord]]:
    """Collect what a logger and those below it log, at any level, and pass nothing on."""
    records: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(_frozen(record))

    logger, handler = logging.getLogger(name), Keep()
    level, propagate = logger.level, logger.propagate
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    logger.addHandler(handler)
    try:
        yield records
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate
        logger.setLevel(level)


def _frozen(record: logging.LogRecord) -> logging.LogRecord:
    """Return the record with a copy of its message object: XNNPACK logs one object again and again, and changes it."""
    message: Any = record.msg
    if hasattr(message, "reason"):
        record.msg = _Reason(message.reason)
    return record


class _Reason:
    """A copy of what XNNPACK's `WhyNoPartition` says."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
