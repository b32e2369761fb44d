"""Backends: each lowers a prepared module to one format. One file per format; these may import torch.

The order of quantizing and lowering is a backend's own business: torchao quantizes the module before the trace, ONNX
and TFLite quantize the lowered file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from edgellm import plugins
from edgellm.core.manifest import BytesOf
from edgellm.core.precision import Precisions
from edgellm.core.scheme import FORMATS
from edgellm.core.signature import InputSpec, OutputSpec, Signature
from edgellm.core.target import Target

if TYPE_CHECKING:
    from torch import nn

    from edgellm.backends.observe import Samples


@dataclass(frozen=True)
class Prepared:
    """What every backend starts from.

    Attributes:
        module: takes `inputs` by name as int64 tensors [1, tokens], returns the one output tensor.
        inputs: of the graph.
        output: of the graph.
        buckets: lengths that must be served, ascending; the last is the bundle's max_tokens.
        finite_mask: whether the module masks with finite numbers; where not, the traced graph is clamped.
        samples: calibration inputs, for schemes that calibrate.
        ranges: how they choose the range of an activation, a key of `core.scheme.RANGES`.

    """

    module: nn.Module
    inputs: tuple[InputSpec, ...]
    output: OutputSpec
    buckets: tuple[int, ...]
    finite_mask: bool = True
    samples: Samples = ()
    ranges: str = "mse"


@dataclass(frozen=True)
class Lowered:
    """What a backend wrote.

    Attributes:
        file: name of the file in the folder it was given.
        signature: of the artifact.
        session_options: for the engine.
        partitions, delegated_ops, total_ops: as in the manifest.
        contents: where the bytes are.
        notes: what could not be done, for the user.

    """

    file: str
    signature: Signature
    session_options: dict[str, str]
    partitions: int | None
    delegated_ops: int | None
    total_ops: int | None
    contents: tuple[BytesOf, ...]
    notes: tuple[str, ...] = ()


MIN_TOKENS = 4
"""Where a dynamic length starts; shorter texts are padded to it.

torch.export specializes a dimension of 1, and models that look at neighbouring tokens (MobileBERT) have shorter
dimensions inside than the text is long."""


class Backend(Protocol):
    """What a file in `backends/` provides."""

    def lower(self, prepared: Prepared, precisions: Precisions, target: Target, folder: Path) -> Lowered:
        """Write the artifact into `folder`, each layer as `precisions` says. The module may be changed in place."""
        ...


MODULES = {
    "ai-edge-litert": "ai_edge_litert",
    "ai-edge-quantizer": "ai_edge_quantizer",
    "executorch": "executorch",
    "litert-torch": "litert_torch",
    "onnx": "onnx",
    "onnxruntime": "onnxruntime",
    "onnxscript": "onnxscript",
    "torch": "torch",
    "torchao": "torchao",
    "transformers": "transformers",
}
"""Distribution to the module whose presence means it is installed."""

TOOLS: dict[str, tuple[str, ...]] = {
    "executorch": ("executorch", "torch", "torchao", "transformers"),
    "onnx": ("onnx", "onnxruntime", "onnxscript", "torch", "transformers"),
    "tflite": ("ai-edge-litert", "ai-edge-quantizer", "litert-torch", "torch", "transformers"),
}
"""Format to the distributions that lowering needs and whose versions decide the bytes. Known without importing any."""


def load_backend(fmt: str) -> Backend:
    """Import and return the backend of a format."""
    return cast(Backend, plugins.load("edgellm.backends", fmt))


def backend_names() -> list[str]:
    """Return the formats that have a backend, sorted."""
    return plugins.names("edgellm.backends", FORMATS)


def contents_of(kinds: dict[str, int], total: int) -> tuple[BytesOf, ...]:
    """Return where the bytes are, largest first; what is not accounted for is the graph itself."""
    rest = total - sum(kinds.values())
    rows = [BytesOf(kind, size) for kind, size in {**kinds, "graph and metadata": rest}.items() if size > 0]
    return tuple(sorted(rows, key=lambda row: (-row.bytes, row.kind)))
