"""Backends: each lowers a prepared module to one format. One file per format; these may import torch.

The order of quantizing and lowering is a backend's own business: torchao quantizes the module before the trace, ONNX
and TFLite quantize the lowered file.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from edgellm import plugins
from edgellm.core.delegation import Delegation
from edgellm.core.manifest import BytesOf
from edgellm.core.npu import NpuReport
from edgellm.core.precision import Precisions
from edgellm.core.scheme import Tuning
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
        tuning: what the samples change besides; equalizing is done.

    """

    module: nn.Module
    inputs: tuple[InputSpec, ...]
    output: OutputSpec
    buckets: tuple[int, ...]
    finite_mask: bool = True
    samples: Samples = ()
    ranges: str = "mse"
    tuning: Tuning = field(default_factory=Tuning)


@dataclass(frozen=True)
class Lowered:
    """What a backend wrote.

    Attributes:
        file: name of the main file in the folder it was given.
        more_files: names of the others; of "qnn", `file` and these are one for each bucket.
        signature: of the artifact.
        session_options: for the engine.
        delegation: as in the manifest.
        contents: where the bytes are.
        notes: what could not be done, for the user.
        reference, npu: as in the manifest.

    """

    file: str
    signature: Signature
    session_options: dict[str, str]
    delegation: Delegation | None
    contents: tuple[BytesOf, ...]
    notes: tuple[str, ...] = ()
    more_files: tuple[str, ...] = ()
    reference: str = ""
    npu: NpuReport | None = None

    @property
    def files(self) -> tuple[str, ...]:
        """All files that were written."""
        return (self.file, *self.more_files, *((self.reference,) if self.reference else ()))


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
    "coremltools": "coremltools",
    "ai-edge-litert": "ai_edge_litert",
    "ai-edge-quantizer": "ai_edge_quantizer",
    "executorch": "executorch",
    "litert-torch": "litert_torch",
    "onnx": "onnx",
    "onnxruntime": "onnxruntime",
    "onnxruntime-qnn": "onnxruntime_qnn",
    "onnxscript": "onnxscript",
    "torch": "torch",
    "torchao": "torchao",
    "transformers": "transformers",
}
"""Distribution to the module whose presence means it is installed."""

TOOLS: dict[str, tuple[str, ...]] = {
    "executorch": ("executorch", "torch", "torchao", "transformers"),
    "executorch-coreml": ("coremltools", "executorch", "torch", "torchao", "transformers"),
    "executorch-vulkan": ("executorch", "torch", "torchao", "transformers"),
    "mlpackage": ("coremltools", "torch", "transformers"),
    "onnx": ("onnx", "onnxruntime", "onnxscript", "torch", "transformers"),
    "qnn": ("onnx", "onnxruntime", "onnxruntime-qnn", "onnxscript", "torch", "transformers"),
    "tflite": ("ai-edge-litert", "ai-edge-quantizer", "litert-torch", "torch", "transformers"),
    "tflite-ethos-u": ("ai-edge-litert", "ai-edge-quantizer", "litert-torch", "torch", "transformers"),
}
"""Backend to the distributions that lowering needs and whose versions decide the bytes. Known without importing any."""


def load_backend(name: str) -> Backend:
    """Import and return a backend; `Target.backend` names it."""
    return cast(Backend, plugins.load("edgellm.backends", name))


def backend_names() -> list[str]:
    """Return the names of all backends, sorted."""
    return plugins.names("edgellm.backends", tuple(TOOLS))


def contents_of(kinds: dict[str, int], total: int) -> tuple[BytesOf, ...]:
    """Return where the bytes are, largest first; what is not accounted for is the graph itself."""
    rest = total - sum(kinds.values())
    rows = [BytesOf(kind, size) for kind, size in {**kinds, "graph and metadata": rest}.items() if size > 0]
    return tuple(sorted(rows, key=lambda row: (-row.bytes, row.kind)))
