"""Support: which architectures were built in which formats, and how the artifacts agreed, as it was measured.

The matrix is data of the package, `support.json`. It is written by `python -m tests.architectures --write`.
"""

from __future__ import annotations

import importlib.resources
import json
from collections.abc import Mapping
from dataclasses import dataclass

from edgellm.core import strict
from edgellm.errors import EdgellmError

FILE = "support.json"


@dataclass(frozen=True)
class Cell:
    """One architecture in one format.

    Attributes:
        format: "onnx", ...
        mean, min: agreement with the fp32 model over the golden texts; None where the build failed.
        reason: what the build said then; empty where it did not fail.

    """

    format: str
    mean: float | None
    min: float | None
    reason: str

    def __post_init__(self) -> None:
        if (self.mean is None) != (self.min is None) or (self.mean is None) != bool(self.reason):
            raise ValueError(f"{self.format} has an agreement, or a reason why it has none, and not both")


@dataclass(frozen=True)
class Architecture:
    """One row of the matrix.

    Attributes:
        name: for people.
        model: class of transformers that was built.
        tokenizer: kind of its tokenizer.
        listed: whether edgellm promises it; the others were tried.
        cells: one per format.
        notes: what the builds said that could not be done.

    """

    name: str
    model: str
    tokenizer: str
    listed: bool
    cells: tuple[Cell, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Measured:
    """What a cell was measured on.

    Attributes:
        scheme, task, metric: as in a manifest.
        gate: mean agreement below which a build fails.
        texts: golden texts per cell.
        target: what was built for; artifacts ran on a machine of its kind.
        deviation: standard deviation of the random weights.
        versions: of the converters and engines, by distribution.

    """

    scheme: str
    task: str
    metric: str
    gate: float
    texts: int
    target: str
    deviation: float
    versions: Mapping[str, str]


@dataclass(frozen=True)
class Support:
    """The matrix, and what it was measured on."""

    measured: Measured
    architectures: tuple[Architecture, ...]


def read_support() -> Support:
    """Return the matrix that this version of edgellm was released with.

    Raises:
        EdgellmError: the file of the installation is damaged.

    """
    try:
        text = importlib.resources.files("edgellm").joinpath(FILE).read_text(encoding="utf-8")
        return strict.read(Support, json.loads(text), FILE)
    except (OSError, ValueError) as error:
        raise EdgellmError(
            f"{FILE} of this installation can't be read: {error}.", hint="Install edgellm anew."
        ) from None
