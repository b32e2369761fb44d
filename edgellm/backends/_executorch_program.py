"""Lowered ExecuTorch programs, for the delegates that edgellm can compile for and not run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch.export import ExportedProgram


def delegates(program: ExportedProgram) -> Iterator[Any]:
    """Yield the lowered modules of a program, in order."""
    for node in program.graph.nodes:
        if "executorch_call_delegate" in str(node.target):
            yield getattr(program.graph_module, node.args[0].target)


def emitted(edge: Any) -> bytes:
    """Return the .pte file of a lowered program."""
    from executorch.exir import ExecutorchBackendConfig

    buffer: bytes = edge.to_executorch(ExecutorchBackendConfig(extract_delegate_segments=True)).buffer
    return buffer
