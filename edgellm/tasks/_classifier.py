"""What tasks share whose model classifies a whole text: labels, logits, scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgellm.core.signature import OutputSpec
from edgellm.errors import InputError, UsageError

if TYPE_CHECKING:
    from torch import nn

    from edgellm.core.manifest import TaskOptions
    from edgellm.core.signature import Outputs
    from edgellm.tasks import Facts

LOGITS = "logits"
AUTO_CLASS = "AutoModelForSequenceClassification"


def refuse_pooling(facts: Facts) -> None:
    """Raise UsageError if the user asked for a pooling."""
    if facts.pooling is not None:
        raise UsageError("--pooling belongs to feature-extraction; this model has a head of its own.")


def labels_of(config: Mapping[str, object]) -> tuple[str, ...]:
    """Return the label of each output, in order.

    Raises:
        InputError: id2label has keys that are no numbers.

    """
    names = config.get("id2label")
    if isinstance(names, dict) and names:
        if not all(str(key).isdigit() for key in names):
            raise InputError("id2label in the model's config.json has keys that are no numbers.")
        return tuple(str(names[key]) for key in sorted(names, key=int))
    count = config.get("num_labels", 2)
    return tuple(f"LABEL_{i}" for i in range(count if isinstance(count, int) else 2))


def logits_spec(config: Mapping[str, object], options: TaskOptions) -> OutputSpec:
    """Return [1, labels]."""
    return OutputSpec(LOGITS, "float32", (1, len(options.labels)))


def wrap_logits(model: nn.Module, options: TaskOptions) -> nn.Module:
    """Return the logits as the graph's one output."""
    from edgellm.tasks._torch import Logits

    return Logits(model)


def logits_of(outputs: Sequence[Outputs]) -> NDArray[np.float64]:
    """Return the logits of each pass [passes, labels]."""
    return np.stack([item[LOGITS][0].astype(np.float64) for item in outputs])


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the softmax over the last axis."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))


def sigmoid(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the logistic function, split by sign so that exp never overflows."""
    small = np.exp(-np.abs(logits))
    return np.where(logits >= 0, 1 / (1 + small), small / (1 + small))
