"""Distillation: a small model that learns from a large one, and answers in one forward pass."""

from __future__ import annotations

from importlib.util import find_spec

from edgellm.distill.students import CTC_TYPE, MASK_PREDICT_TYPE, type_of
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


def makes_sequences(student: str) -> bool:
    """Tell whether a student answers with another text: one by name, or a folder of such a model."""
    found = type_of(student)
    if found is None:
        return student.startswith(("ctc", "mask"))  # a name with a typo
    return found in (CTC_TYPE, MASK_PREDICT_TYPE)
