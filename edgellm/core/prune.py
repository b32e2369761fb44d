"""What structured pruning removed from a model, and what that changed."""

from __future__ import annotations

from dataclasses import dataclass

from edgellm.core.evaluation import Drop
from edgellm.core.latency import Latency
from edgellm.errors import UsageError, unknown

STRUCTURES: dict[str, str] = {
    "heads": "attention heads, each with its part of the four projections",
    "ffn": "neurons of the feed-forward part, in eights",
    "layers": "whole layers, in whose place nothing is computed",
}
"""What can be removed."""

_UNSTRUCTURED = ("unstructured", "weights", "sparse", "magnitude", "2:4", "n:m")


def structures_of(names: str) -> tuple[str, ...]:
    """Return the structures in "heads,ffn", in the order of `STRUCTURES`.

    Raises:
        UsageError: one is unknown, none is named, or single weights are.

    """
    asked = [name.strip().lower() for name in names.split(",") if name.strip()]
    for name in asked:
        if name in _UNSTRUCTURED:
            raise UsageError(
                f"--structure {name} is refused: zeros among the weights make no engine here faster. ONNX Runtime, XNNPACK "
                "and LiteRT multiply them like any other weight, and store them as such.",
                hint="--structure heads,ffn makes the matrices themselves smaller.",
            )
        if name not in STRUCTURES:
            raise unknown("structure", name, STRUCTURES)
    if not asked:
        raise UsageError("--structure is empty.", hint=f"It takes {', '.join(STRUCTURES)}.")
    return tuple(name for name in STRUCTURES if name in asked)


@dataclass(frozen=True)
class Layer:
    """What one layer lost.

    Attributes:
        name: of its module in the source: "bert.encoder.layer.3".
        removed: whether it is gone as a whole.
        heads, of_heads: attention heads that are left, and that there were.
        ffn, of_ffn: neurons of the feed-forward part that are left, and that there were.
        removed_heads: numbers of those that are gone, as they were counted in the source.

    """

    name: str
    removed: bool
    heads: int
    of_heads: int
    ffn: int
    of_ffn: int
    removed_heads: tuple[int, ...]


@dataclass(frozen=True)
class Change:
    """A count before and after."""

    before: int
    after: int

    @property
    def share(self) -> float:
        """What is left, 0 to 1."""
        return self.after / self.before


@dataclass(frozen=True)
class Quality:
    """The task's first metric on examples that neither chose what to remove nor were trained on.

    Attributes:
        metric: its name.
        data: where the examples are from, in words.
        n: how many.
        before: the source's, 1 is perfect; None where agreement with it is the metric.
        pruned: right after pruning.
        recovered: after distillation; None where there was none.
        lost: what the model that was written lost, in points.

    """

    metric: str
    data: str
    n: int
    before: float | None
    pruned: float
    recovered: float | None
    lost: Drop


@dataclass(frozen=True)
class Speed:
    """Latency of both models, built alike and run in turns.

    Attributes:
        measured_on: machine, threads and runs, in words.
        scheme: of both builds.
        before, after: a record for each format and length.
        ratios: format to the time of the pruned model as a part of the source's, medians, the geometric mean over lengths.

    """

    measured_on: str
    scheme: str
    before: tuple[Latency, ...]
    after: tuple[Latency, ...]
    ratios: dict[str, float]


@dataclass(frozen=True)
class Pruned:
    """What pruning did.

    Attributes:
        model: name of the source.
        model_sha256: of it.
        out: folder that was written.
        task: pipeline id.
        structures: what could be removed.
        asked: share of the layers' parameters that was to be removed, 0 to 1.
        sparsity: share that was.
        score: how structures were ranked, in words.
        chose_on: the examples that they were ranked by, in words.
        layers: one each.
        encoder: parameters of the layers.
        parameters: of the model, embeddings and head included.
        macs: multiply-accumulates of one inference of `tokens` tokens.
        tokens: of that inference.
        quality: how well it does; None where nothing was measured.
        speed: how fast it is; None where that was not measured.

    """

    model: str
    model_sha256: str
    out: str
    task: str
    structures: tuple[str, ...]
    asked: float
    sparsity: float
    score: str
    chose_on: str
    layers: tuple[Layer, ...]
    encoder: Change
    parameters: Change
    macs: Change
    tokens: int
    quality: Quality
    speed: Speed | None
