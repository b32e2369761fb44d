"""The ExecuTorch engine: its Python runtime, which imports torch when a session opens, and not before.

The thread pool belongs to the process: a worker holds one artifact, so its threads are the artifact's.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from edgellm.core.manifest import Artifact
from edgellm.core.signature import Feeds, Outputs
from edgellm.errors import BundleError, DeviceError

PACKAGES = ("executorch",)
EMULATES = False


class ExecutorchEngine:
    """An opened .pte file."""

    def __init__(self, path: Path, artifact: Artifact, threads: int) -> None:
        import torch
        from executorch.extension.pybindings import _C
        from executorch.runtime import Runtime, Verification

        # Whatever OMP_NUM_THREADS says, the pool has one thread per core until it is reset, before loading.
        with _quiet():
            _C._unsafe_reset_threadpool(threads)
        self._from_numpy = torch.from_numpy
        try:
            program = Runtime.get().load_program(path, verification=Verification.InternalConsistency)
            method = program.load_method("forward")
        except RuntimeError as error:
            raise BundleError(
                f"ExecuTorch can't load {path.name}: {error}.",
                hint="0x14 means an operator its runtime lacks, 0x20 a backend it lacks, 0x23 a damaged file.",
            ) from None
        if method is None:
            raise BundleError(f"{path.name} has no method 'forward'.")
        self._program, self._method = program, method
        self._inputs = artifact.signature.inputs
        self._outputs = [output.name for output in artifact.signature.outputs]

    def run(self, feeds: Feeds) -> Outputs:
        """Return the outputs of one forward pass."""
        typed = [self._from_numpy(feeds[spec.name].astype(spec.dtype, copy=False)) for spec in self._inputs]
        try:
            values = self._method.execute(typed)
        except RuntimeError as error:
            raise DeviceError(f"ExecuTorch failed to run: {error}.") from None
        return {name: np.array(value.numpy()) for name, value in zip(self._outputs, values, strict=True)}


def load() -> None:
    """Import ExecuTorch's runtime, and torch with it, keeping its chatter out of the program's standard error."""
    with _quiet():
        import executorch.kernels.quantized
        import executorch.runtime  # noqa: F401  the import above registers the int8 embedding operators


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the packages: deprecations of their own, and descriptor 2, to which they log from C++."""
    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)


def open(paths: Sequence[Path], artifact: Artifact, threads: int) -> ExecutorchEngine:
    """Return the opened artifact, with the process's thread pool set to `threads`."""
    return ExecutorchEngine(paths[0], artifact, threads)
