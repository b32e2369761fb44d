"""How a model is trained, whatever it is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from edgellm.errors import UsageError, unknown

SCHEDULES = {
    "cosine": "rises over the warm-up, then falls to 0 on half a cosine",
    "linear": "rises over the warm-up, then falls to 0 on a line",
    "plateau": "falls to a tenth whenever the dev loss has not fallen for two evaluations",
}
"""Learning-rate schedules."""

PRECISIONS = {
    "fp32": "everything in 32 bits",
    "bf16": "matrix products in 16 bits: faster where the processor has instructions for them",
}
"""In which a step is computed; weights, optimizer and losses have 32 bits in any."""

IGNORED = -100
"""Label that is not learned: of a padded place, or of what has none."""

MAX_THREADS = 1024

WARMUP = 0.05
"""Part of all steps in which the rate rises, where nothing is asked for."""


@dataclass(frozen=True)
class Training:
    """Options of a training.

    Attributes:
        epochs: passes over the training data.
        batch: examples in a step, on each device.
        rate: the highest learning rate.
        schedule: a key of `SCHEDULES`.
        warmup: part of all steps in which the rate rises; `WARMUP` if None. A plateau has none.
        weight_decay: of AdamW.
        patience: evaluations without a better dev score after which it ends; None goes through all epochs.
        precision: a key of `PRECISIONS`.
        seed: of everything random.
        threads: of torch on a CPU; all cores if None.
        seconds: after which it stops with a checkpoint, to go on another time; None goes on to the end.
        deepspeed: path of DeepSpeed's configuration.

    Raises:
        UsageError: one is out of its range.

    """

    epochs: int = 10
    batch: int = 64
    rate: float = 5e-4
    schedule: str = "cosine"
    warmup: float | None = None
    weight_decay: float = 0.01
    patience: int | None = None
    precision: str = "fp32"
    seed: int = 0
    threads: int | None = None
    seconds: float | None = None
    deepspeed: str | None = None

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise unknown("schedule", self.schedule, SCHEDULES)
        if self.precision not in PRECISIONS:
            raise unknown("precision", self.precision, PRECISIONS)
        for name, value, low, high in (
            ("epochs", self.epochs, 1, 100_000), ("batch", self.batch, 1, 1_000_000), ("rate", self.rate, 1e-12, 10.0),
            ("warmup", self.rising, 0.0, 0.9), ("weight-decay", self.weight_decay, 0.0, 10.0),
            ("patience", 1 if self.patience is None else self.patience, 1, 100_000), ("seed", self.seed, 0, 2**32 - 1),
            ("threads", 1 if self.threads is None else self.threads, 1, MAX_THREADS),
            ("seconds", 1.0 if self.seconds is None else self.seconds, 1.0, math.inf),
        ):  # fmt: skip
            if not low <= value <= high:
                raise UsageError(f"--{name} is {value:g}; it goes from {low:g} to {high:g}.")
        if self.schedule == "plateau" and self.warmup is not None:
            raise UsageError(
                "--warmup has no use with --schedule plateau, whose rate begins at its highest.", hint="Leave it out."
            )

    @property
    def rising(self) -> float:
        """Part of all steps in which the rate rises, where the schedule has such a part."""
        return WARMUP if self.warmup is None else self.warmup


@dataclass(frozen=True)
class Step:
    """What was measured at one step.

    Attributes:
        step: from 1.
        epoch: how far in the data.
        values: by name: "loss", "eval_loss", "learning_rate"...; those that are no numbers are left out.

    """

    step: int
    epoch: float
    values: dict[str, float]


@dataclass(frozen=True)
class Trained:
    """How a training went.

    Attributes:
        status: "finished", or "paused": it stopped after `seconds` with a checkpoint.
        steps: done, in all runs together.
        of_steps: planned.
        best_step: whose weights were kept.
        metric: what chose it.
        best: its value; None before the first evaluation.
        seconds: of this run.
        cpu_seconds: of this run, all threads together.
        curve: what was logged, in all runs together.

    """

    status: Literal["finished", "paused"]
    steps: int
    of_steps: int
    best_step: int
    metric: str
    best: float | None
    seconds: float
    cpu_seconds: float
    curve: tuple[Step, ...]
