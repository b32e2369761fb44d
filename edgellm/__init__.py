"""Lowers PyTorch transformers to int8 ExecuTorch, TFLite and ONNX artifacts that provably give the same answers.

    import edgellm

    bundle = edgellm.build("my-model", target="android-arm64")

On the device use `edgellm.runtime`. Importing this package imports neither torch nor an engine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgellm.errors import EdgellmError

if TYPE_CHECKING:
    from edgellm.evaluation import evaluate
    from edgellm.pipeline import build
    from edgellm.runtime import Bundle, Session

__version__ = "0.1.0"

__all__ = ["Bundle", "EdgellmError", "Session", "build", "evaluate"]


def __getattr__(name: str) -> object:
    """Import a public name when it is first used."""
    if name == "build":
        from edgellm.pipeline import build

        return build
    if name == "evaluate":
        from edgellm.evaluation import evaluate

        return evaluate
    if name in ("Bundle", "Session"):
        from edgellm import runtime

        return getattr(runtime, name)
    raise AttributeError(f"module 'edgellm' has no attribute '{name}'")
