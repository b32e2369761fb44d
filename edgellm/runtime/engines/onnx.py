"""The ONNX engine: ONNX Runtime on its CPU execution provider."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgellm.core.manifest import Artifact
from edgellm.core.signature import Feeds, Outputs
from edgellm.errors import BundleError, DeviceError

PACKAGES = ("onnxruntime",)
EMULATES = False


class OnnxEngine:
    """An opened .onnx file."""

    def __init__(self, path: Path, artifact: Artifact, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # an error is raised as well, and told once is enough
        try:
            for key, value in artifact.session_options.items():
                options.add_session_config_entry(key, value)
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions share no base class
            raise BundleError(
                f"onnxruntime {onnxruntime.__version__} can't load {path.name}: {error}.",
                hint="If it is too old for the IR version or opset, upgrade it or build for its target.",
            ) from None
        self._inputs = artifact.signature.inputs
        self._outputs = [output.name for output in artifact.signature.outputs]

    def run(self, feeds: Feeds) -> Outputs:
        """Return the outputs of one forward pass."""
        typed = {spec.name: feeds[spec.name].astype(spec.dtype, copy=False) for spec in self._inputs}
        try:
            values = self._session.run(self._outputs, typed)
        except Exception as error:  # its exceptions share no base class
            raise DeviceError(f"onnxruntime failed to run: {error}.") from None
        return {name: np.asarray(value) for name, value in zip(self._outputs, values, strict=True)}


def load() -> None:
    """Import ONNX Runtime."""
    import onnxruntime  # noqa: F401


def open(paths: Sequence[Path], artifact: Artifact, threads: int) -> OnnxEngine:
    """Return the opened artifact with `threads` intra-op threads."""
    return OnnxEngine(paths[0], artifact, threads)
