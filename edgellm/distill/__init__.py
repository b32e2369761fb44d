"""Distillation: a small model that learns from a large one, and answers in one forward pass."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from edgellm.distill.students import CTC_TYPE, MASK_PREDICT_TYPE, STUDENTS, type_of
from edgellm.errors import MissingDependencyError, unknown

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
    """Tell whether a student answers with another text: one by name, or a folder of such a model.

    Raises:
        UsageError: it is neither a name, nor a folder, nor a number of layers.

    """
    if type_of(student) in (CTC_TYPE, MASK_PREDICT_TYPE):
        return True
    if student.isdecimal() or Path(student).is_dir():
        return False
    raise unknown("student", student, STUDENTS, hint="It is none of these, no number of layers, and no folder.")


@contextmanager
def quiet_imports() -> Iterator[None]:
    """Keep away what torchao, which transformers imports, says of its own libraries and of torch."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
