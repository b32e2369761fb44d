"""The TFLite engine: LiteRT's interpreter, or tflite-runtime's where that is what the device has.

XNNPACK is the default CPU delegate of both. A bucket is a signature named `tokens_<length>`.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np

from edgellm.core.manifest import Artifact
from edgellm.core.signature import Feeds, Outputs
from edgellm.errors import BundleError
from edgellm.runtime import engines

PACKAGES = ("ai-edge-litert", "tflite-runtime")
EMULATES = False


def signature_name(tokens: int) -> str:
    """Return the name of the signature for a bucket."""
    return f"tokens_{tokens}"


def _interpreter() -> ModuleType:
    """Return the module of the installed interpreter."""
    return importlib.import_module(f"{engines.MODULES[engines.require('tflite')]}.interpreter")


class TfliteEngine:
    """An opened .tflite file."""

    def __init__(self, path: Path, artifact: Artifact, threads: int) -> None:
        try:
            # The interpreter must outlive its runners.
            self._interpreter = _interpreter().Interpreter(model_path=str(path), num_threads=threads)
            signatures = set(self._interpreter.get_signature_list())
            # Opening plans the memory of every signature, so that a wrong operator version fails here and not later.
            self._runners = {
                tokens: self._interpreter.get_signature_runner(signature_name(tokens))
                for tokens in artifact.signature.buckets
                if signature_name(tokens) in signatures
            }
        except (ValueError, RuntimeError) as error:
            raise BundleError(
                f"{engines.engine_version('tflite')} can't load {path.name}: {error}.",
                hint="If an operator version is too new for it, install ai-edge-litert or upgrade it.",
            ) from None
        missing = set(artifact.signature.buckets) - set(self._runners)
        if missing:
            raise BundleError(f"{path.name} has no signature for {sorted(missing)} tokens.")
        self._inputs = artifact.signature.inputs
        self._outputs = [output.name for output in artifact.signature.outputs]

    def run(self, feeds: Feeds) -> Outputs:
        """Return the outputs of one forward pass."""
        typed = {spec.name: feeds[spec.name].astype(spec.dtype, copy=False) for spec in self._inputs}
        tokens = typed[self._inputs[0].name].shape[1]
        values = self._runners[tokens](**typed)
        return {name: np.asarray(values[name]) for name in self._outputs}


def load() -> None:
    """Import the interpreter that is installed."""
    _interpreter()


def open(paths: Sequence[Path], artifact: Artifact, threads: int) -> TfliteEngine:
    """Return the opened artifact with `threads` threads."""
    return TfliteEngine(paths[0], artifact, threads)
