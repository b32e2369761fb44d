"""Distillation: a small model that learns from a large one, and answers in one forward pass."""

from __future__ import annotations

from importlib.util import find_spec

from edgellm.errors import MissingDependencyError

NEEDED = ("torch", "transformers", "accelerate", "tokenizers", "safetensors")


def require() -> None:
    """Check that what trains is installed.

    Raises:
        MissingDependencyError: it is not.

    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise MissingDependencyError(
            f"Training needs {', '.join(missing)}.", hint="Install it with: pip install 'edgellm[train]'"
        )
