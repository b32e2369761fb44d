"""The QNN engine: context binaries on Qualcomm's Hexagon Tensor Processor (HTP), by ONNX Runtime's QNN provider.

On an x86-64 machine the provider holds Qualcomm's own emulation of the HTP, which gives its answers and says nothing of
its speed. A context binary is for one SoC: the emulation runs any, so the SoC is read from the file and compared.
"""

from __future__ import annotations

import functools
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgellm.core.manifest import Artifact
from edgellm.core.signature import Feeds, Outputs
from edgellm.errors import BundleError, DeviceError

PACKAGES = ("onnxruntime-qnn",)
EMULATES = platform.machine() in ("x86_64", "AMD64")

PROVIDER = "QNNExecutionProvider"
_SEVERE = 4
"""An error is raised as well, and told once is enough."""


@functools.cache
def provider() -> Any:
    """Return the device of ONNX Runtime that the QNN provider offers; the provider is registered once per process.

    Raises:
        DeviceError: this machine has no such NPU, and no emulation of it.

    """
    import onnxruntime
    import onnxruntime_qnn

    try:
        onnxruntime.register_execution_provider_library(PROVIDER, onnxruntime_qnn.get_library_path())
    except Exception as error:  # its exceptions share no base class
        raise DeviceError(f"The QNN provider does not load: {error}.", hint="Run another --format.") from None
    for device in onnxruntime.get_ep_devices():
        if device.ep_name == PROVIDER:
            return device
    raise DeviceError("The QNN provider finds no Qualcomm NPU on this machine.", hint="Run another --format.")


FALLBACK = "session.disable_cpu_ep_fallback"
"""The session option that forbids operators on the CPU; an artifact that was allowed some says "0"."""


def session(path: Path, options: dict[str, str]) -> Any:
    """Return an ONNX Runtime session in which the HTP runs everything: what it does not take is an error, unless it says so.

    Args:
        path: an ONNX file: quantized operators, or a context binary.
        options: of the provider, and of the session: those have a dot in their names.

    """
    import onnxruntime
    import onnxruntime_qnn

    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = _SEVERE
    for key, value in {FALLBACK: "1", **options}.items():
        if "." in key:
            settings.add_session_config_entry(key, value)
    own = {key: value for key, value in options.items() if "." not in key}
    settings.add_provider_for_devices([provider()], {"backend_path": onnxruntime_qnn.get_qnn_htp_path(), **own})
    return onnxruntime.InferenceSession(str(path), settings)


class QnnEngine:
    """An opened set of context binaries, one for each length."""

    def __init__(self, paths: Sequence[Path], artifact: Artifact) -> None:
        provider()
        self._sessions = {}
        for tokens, path in zip(artifact.signature.buckets, paths, strict=True):
            try:
                self._sessions[tokens] = session(path, artifact.session_options)
            except Exception as error:  # its exceptions share no base class
                raise BundleError(
                    f"The QNN provider can't load {path.name}: {error}.",
                    hint="A context binary runs on the SoC that it was compiled for; run another --format elsewhere.",
                ) from None
        self._inputs = artifact.signature.inputs
        self._outputs = [output.name for output in artifact.signature.outputs]

    def run(self, feeds: Feeds) -> Outputs:
        """Return the outputs of one forward pass."""
        typed = {spec.name: feeds[spec.name].astype(spec.dtype, copy=False) for spec in self._inputs}
        tokens = typed[self._inputs[0].name].shape[1]
        try:
            values = self._sessions[tokens].run(self._outputs, typed)
        except Exception as error:  # its exceptions share no base class
            raise DeviceError(f"The QNN provider failed to run: {error}.") from None
        return {name: np.asarray(value) for name, value in zip(self._outputs, values, strict=True)}


def load() -> None:
    """Import ONNX Runtime and the provider."""
    import onnxruntime_qnn  # noqa: F401


def open(paths: Sequence[Path], artifact: Artifact, threads: int) -> QnnEngine:
    """Return the opened artifact; the NPU has no threads to set."""
    return QnnEngine(paths, artifact)
