"""What an optimization aims at, what it may try, and what each step of it measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from edgellm.core.evaluation import Drop
from edgellm.core.prune import structures_of
from edgellm.core.training import MAX_THREADS, PRECISIONS
from edgellm.errors import UsageError, unknown


@dataclass(frozen=True)
class Goal:
    """What has to hold, all of it, for an optimization to be done.

    Attributes:
        max_drop: points of the task's first metric that may be lost against the baseline in fp32, on the dev examples.
        min_score: least value of that metric, from 0 to 1; None asks for none.
        max_mb: of the artifact, in 10^6 bytes; None for no bound.
        max_cost: time of one inference as a part of the baseline's in fp32, or instructions where the target's CPU is
            not this machine's kind; None for no bound.

    """

    max_drop: float = 1.0
    min_score: float | None = None
    max_mb: float | None = None
    max_cost: float | None = None

    def __post_init__(self) -> None:
        if self.max_drop < 0:
            raise UsageError(f"max_drop is {self.max_drop:g}; it is 0 points or more.")
        for name, value in (("min_score", self.min_score), ("max_mb", self.max_mb), ("max_cost", self.max_cost)):
            if value is not None and value <= 0:
                raise UsageError(f"{name} is {value:g}; it is above 0.")
        if self.min_score is not None and self.min_score > 1:
            raise UsageError(f"min_score is {self.min_score:g}; it is 1 at most.", hint="85 % are 0.85.")
        if self.max_mb is None and self.max_cost is None:
            raise UsageError(
                "[goal] names neither max_mb nor max_cost.", hint="Without one the baseline is the answer."
            )

    def broken(self, measured: Measured) -> tuple[str, ...]:
        """Return the names of the bounds that an artifact does not keep; "gate" where a build refused it."""
        if measured.drop is None or measured.bytes is None:
            return ("gate",)
        found = ["max_drop"] if measured.drop.points > self.max_drop + _ROUNDING else []
        if self.min_score is not None and (measured.score is None or measured.score < self.min_score - _ROUNDING):
            found.append("min_score")
        if self.max_mb is not None and measured.bytes / 1e6 > self.max_mb:
            found.append("max_mb")
        if self.max_cost is not None and (measured.cost is None or measured.cost > self.max_cost):
            found.append("max_cost")
        return tuple(found)

    def excess(self, measured: Measured) -> float:
        """Return by how much size and cost are missed, as a part of the worse bound; 0 where both are kept."""
        assert measured.bytes is not None
        parts = [0.0]
        if self.max_mb is not None:
            parts.append(measured.bytes / 1e6 / self.max_mb - 1)
        if self.max_cost is not None and measured.cost is not None:
            parts.append(measured.cost / self.max_cost - 1)
        return max(parts)


_ROUNDING = 1e-9
"""By how much a difference of two floats misses a bound that it keeps: 100 * (0.9 - 0.89) is above 1."""

QUALITY = ("gate", "max_drop", "min_score")
"""Bounds that a smaller model does not come closer to."""


@dataclass(frozen=True)
class Budget:
    """After which an optimization ends without its goal.

    Attributes:
        steps: models at most, the baseline included.
        minutes: of work, in all runs together; None for no bound.

    """

    steps: int = 12
    minutes: float | None = None

    def __post_init__(self) -> None:
        if self.steps < 1 or (self.minutes is not None and self.minutes <= 0):
            raise UsageError("[budget] steps is 1 or more, minutes above 0.")


@dataclass(frozen=True)
class Tune:
    """A fine-tuning of the model that everything begins from, on the labels of the training examples.

    Attributes:
        epochs: passes over them.
        rate: the highest learning rate.

    """

    epochs: int = 3
    rate: float = 2e-5

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise UsageError(f"[tune] epochs is {self.epochs}; it is 1 or more.")
        _check_rate(self.rate)


@dataclass(frozen=True)
class Shrink:
    """One way to make the model smaller; the smaller model then learns from the teacher (see `Recipe.teacher`).

    Attributes:
        layers: how many stay, evenly spaced; None where `sparsity` is given.
        sparsity: share of the layers' parameters that goes, above 0 and below 1.
        structure: what may go: "heads,ffn", "layers" (see `core.prune.STRUCTURES`).
        epochs: of distillation.
        rate: the highest learning rate.

    """

    layers: int | None = None
    sparsity: float | None = None
    structure: str = "heads,ffn"
    epochs: int = 2
    rate: float = 1e-4

    def __post_init__(self) -> None:
        if (self.layers is None) == (self.sparsity is None):
            raise UsageError("[[shrink]] takes either layers or sparsity.")
        if self.layers is not None and self.layers < 1:
            raise UsageError(f"layers is {self.layers}; it is 1 or more.")
        if self.sparsity is not None and not 0 < self.sparsity < 1:
            raise UsageError(f"sparsity is {self.sparsity:g}; it lies between 0 and 1.")
        if self.epochs < 0:
            raise UsageError(f"epochs is {self.epochs}; it is 0 or more.")
        _check_rate(self.rate)
        structures_of(self.structure)


def _check_rate(rate: float) -> None:
    if not 0 < rate <= 10:
        raise UsageError(f"rate is {rate:g}; it lies above 0, and 10 at most.")


@dataclass(frozen=True)
class Data:
    """Files of examples, as `edgellm build --eval` and `edgellm distill --data` take them.

    Attributes:
        train: that models learn from.
        dev: that every step is compared on, and that choose.
        test: that the result is measured on, once, and that choose nothing; None for none.
        calibration: texts that quantization is tuned on; edgellm's own if None.
        golden: texts that a build's gate runs; edgellm's own if None.

    """

    train: str
    dev: str
    test: str | None = None
    calibration: str | None = None
    golden: str | None = None


@dataclass(frozen=True)
class Recipe:
    """What `edgellm optimize` reads from TOML; paths are relative to the file.

    Attributes:
        model: folder of `save_pretrained`: the baseline, and the teacher of what comes of it.
        target: name of a target.
        out: folder for everything that is made.
        data: examples.
        goal: what has to hold.
        shrink: ways to make the model smaller, in the order in which they are tried.
        schemes: that each model is quantized with, in this order.
        tune: a fine-tuning before all others; None for none.
        budget: when to give up.
        format: one that this machine runs; the target's first if None.
        teacher: folder of another model to learn from; if None, the baseline, after [tune] if there is one.
        task, tokenizer, pooling: as `edgellm build` takes them.
        seq_len: token counts to serve.
        min_agreement, min_exact: the gate of each build, as `edgellm build` takes it.
        seed: of everything random.
        precision: of trainings: a key of `PRECISIONS`.
        threads: of torch on a CPU; all cores if None.

    """

    model: str
    target: str
    data: Data
    goal: Goal
    out: str = "optimized"
    shrink: tuple[Shrink, ...] = ()
    schemes: tuple[str, ...] = ("int8-dynamic",)
    tune: Tune | None = None
    budget: Budget = field(default_factory=Budget)
    format: str | None = None
    teacher: str | None = None
    task: str | None = None
    tokenizer: str | None = None
    pooling: str | None = None
    seq_len: tuple[int, ...] | None = None
    min_agreement: float = 0.99
    min_exact: float | None = None
    seed: int = 0
    precision: str = "fp32"
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise unknown("precision", self.precision, PRECISIONS)
        if self.threads is not None and not 1 <= self.threads <= MAX_THREADS:
            raise UsageError(f"threads is {self.threads}; it goes from 1 to {MAX_THREADS}.")
        if not self.schemes:
            raise UsageError("schemes is empty.", hint='It lists one or more: schemes = ["int8-dynamic"].')
        if not 0 <= self.seed < 2**32:
            raise UsageError(f"seed is {self.seed}; it goes from 0 to {2**32 - 1}.")
        if not 0 <= self.min_agreement <= 1:
            raise UsageError(f"min_agreement is {self.min_agreement:g}; it goes from 0 to 1.")
        if self.seq_len == ():
            raise UsageError(
                "seq_len is empty.", hint="It lists token counts, as seq_len = [32, 64]; leave it out for the usual."
            )


@dataclass(frozen=True)
class Move:
    """What a step does to get a model.

    Attributes:
        kind: "baseline" takes the recipe's model, "tune" trains it on labels, "layers" and "prune" make a smaller one
            that learns from the teacher, "longer" distils once more into the model of a step that lost too much.
        begins: number of the step whose model it begins from; None for the baseline.
        rung: which of the recipe's `shrink` it belongs to, from 0; None for none.
        layers: that stay.
        sparsity: share of the layers' parameters that goes.
        structure: what may go.
        epochs: of training.
        rate: the highest learning rate.

    """

    kind: Literal["baseline", "tune", "layers", "prune", "longer"]
    begins: int | None = None
    rung: int | None = None
    layers: int | None = None
    sparsity: float | None = None
    structure: str | None = None
    epochs: int = 0
    rate: float = 0.0

    def __str__(self) -> str:
        epochs = f"{self.epochs} epoch{'s' * (self.epochs != 1)}"
        after = f", {epochs} of distillation" if self.epochs else ""
        if self.kind == "tune":
            return f"fine-tuned, {epochs}"
        if self.kind == "layers":
            return f"{self.layers} layer{'s' * (self.layers != 1)} of step {self.begins}{after}"
        if self.kind == "prune":
            return f"{self.sparsity:.0%} of step {self.begins} pruned ({self.structure}){after}"
        if self.kind == "longer":
            return f"step {self.begins} again{after}"
        return "baseline"


@dataclass(frozen=True)
class Measured:
    """One artifact of a step.

    Attributes:
        scheme: of its quantization; "fp32" of the baseline.
        score: the task's first metric on the dev examples; None where agreement with the baseline is what counts.
        drop: what it lost there against the baseline in fp32; None where the build's gate refused the artifact.
        bytes: of the artifact; None where it was refused.
        cost: time or instructions as a part of the baseline's in fp32; None where not measured.
        refused: why the gate did; empty where it did not.
        bundle: its folder; empty where there is none.

    """

    scheme: str
    score: float | None
    drop: Drop | None
    bytes: int | None
    cost: float | None
    refused: str = ""
    bundle: str = ""


@dataclass(frozen=True)
class Step:
    """A model that was made and measured.

    Attributes:
        number: from 0, the baseline.
        move: how it was made.
        model: its folder.
        parameters: of it.
        seconds: that making and measuring it took, in all runs.
        measured: its artifacts; none where the move could not be made.
        refused: why it could not; empty where it was. `model` is then the one that it was to begin from.

    """

    number: int
    move: Move
    model: str
    parameters: int
    seconds: float
    measured: tuple[Measured, ...]
    refused: str = ""

    def holds(self, goal: Goal) -> bool:
        """Tell whether one of its artifacts keeps the quality that is asked for."""
        return any(not set(QUALITY) & set(goal.broken(each)) for each in self.measured)

    def meets(self, goal: Goal) -> Measured | None:
        """Return the first artifact that keeps every bound; None where none does."""
        return next((each for each in self.measured if not goal.broken(each)), None)


def best(steps: Sequence[Step], goal: Goal) -> tuple[Step, Measured] | None:
    """Return the artifact that keeps the goal, or that keeps its quality and comes closest to the rest.

    Args:
        steps: all of them.
        goal: what is asked for.

    """
    kept = [
        (step, each)
        for step in steps
        for each in step.measured
        if not set(QUALITY) & set(goal.broken(each))
    ]  # fmt: skip
    return min(kept, key=lambda pair: goal.excess(pair[1]), default=None)


@dataclass(frozen=True)
class Confirmed:
    """The chosen artifact on the test examples, which chose nothing.

    Attributes:
        data: where they are from.
        n: how many.
        metric: the task's first, or agreement.
        baseline: of the baseline in fp32; None where agreement with it is the metric.
        drop: what the artifact lost.

    """

    data: str
    n: int
    metric: str
    baseline: float | None
    drop: Drop


@dataclass(frozen=True)
class Optimized:
    """How an optimization went.

    Attributes:
        model: the baseline's name.
        target: it was optimized for.
        format: of the artifacts.
        goal: what was asked for.
        ended: "goal", "budget" (steps or minutes are used up), or "tried" (nothing is left to try).
        metric: of the dev examples.
        dev: where they are from.
        n: how many.
        cost_of: how cost was measured; empty where it was not.
        steps: in their order.
        chosen: number of the step, and scheme, of the chosen artifact; None where none keeps the quality.
        confirmed: that artifact on the test examples; None without any, or where the goal is not met: then they stay unread.
        out: folder of `model` and `bundle`, the chosen ones.

    """

    model: str
    target: str
    format: str
    goal: Goal
    ended: Literal["goal", "budget", "tried"]
    metric: str
    dev: str
    n: int
    cost_of: str
    steps: tuple[Step, ...]
    chosen: tuple[int, str] | None
    confirmed: Confirmed | None
    out: str
