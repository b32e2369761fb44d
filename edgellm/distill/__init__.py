"""Distillation: a small model that learns from a large one, and answers in one forward pass."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

from edgellm.distill.students import CTC
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
    if student in CTC:
        return True
    try:
        config = json.loads((Path(student) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return student.startswith("ctc")  # a name with a typo
    return isinstance(config, dict) and config.get("model_type") == "edgellm-ctc"
