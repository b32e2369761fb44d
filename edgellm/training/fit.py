"""Fit: runs a transformers Trainer to its end, or from where it was cut off.

The Trainer runs on accelerate, so that `accelerate launch` spreads it over devices and machines, and takes DeepSpeed's
configuration. A checkpoint holds weights, optimizer, schedule and random states: a training that was killed goes on from
its last one with the losses it would have had.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers.integrations import TensorBoardCallback
from transformers.trainer_callback import EarlyStoppingCallback, TrainerCallback, TrainerControl, TrainerState

from edgellm.core.training import Step, Trained, Training
from edgellm.errors import InputError, UsageError

CHECKPOINTS = "checkpoints"
"""Folder in the output folder; it is deleted when the training has ended."""

IDENTITY = "run.json"
"""What a checkpoint belongs to, in that folder."""

LOGS = "logs"
"""Folder in the output folder that TensorBoard reads, where it is installed."""

_COMPLETE = "trainer_state.json"
"""What the Trainer writes last into a checkpoint."""

_KEEPS = 2
"""Checkpoints: the best and the last."""


class _Ends(TrainerCallback):
    """Measures the last step, whose weights are often the best, and stops with a checkpoint after some seconds."""

    def __init__(self, seconds: float) -> None:
        self.until = time.monotonic() + seconds
        self.paused = False

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: object) -> TrainerControl:
        last = state.global_step >= state.max_steps
        if last or time.monotonic() > self.until:
            self.paused = not last
            control.should_evaluate = last
            control.should_save = control.should_training_stop = True
        return control


class _Tells(TrainerCallback):
    """Prints a line at each evaluation, for where no bar can be drawn."""

    def __init__(self) -> None:
        self.since: tuple[float, int] | None = None

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        self.since = self.since or (time.monotonic(), state.global_step)

    def on_evaluate(
        self, args: Any, state: TrainerState, control: TrainerControl, metrics: Mapping[str, float], **kwargs: object
    ) -> None:
        if self.since is None or state.global_step == self.since[1]:
            return
        each = (time.monotonic() - self.since[0]) / (state.global_step - self.since[1])
        left = round(each * (state.max_steps - state.global_step))
        scores = {name.removeprefix("eval_"): value for name, value in metrics.items() if name.startswith("eval_")}
        told = [f"{name} {scores[name]:.4f}" for name in scores if "_per_" not in name and name != "runtime"]
        print(
            f"step {state.global_step} of {state.max_steps}: {', '.join(told)}, {left // 60} min {left % 60} s left",
            file=sys.stderr, flush=True,
        )  # fmt: skip


def prepare(training: Training) -> None:
    """Set the seed and the threads, before a module is made; and let no bar but the training's be drawn."""
    transformers.utils.logging.disable_progress_bar()
    if training.threads is not None:
        torch.set_num_threads(training.threads)
    transformers.set_seed(training.seed)


def fit(
    module: nn.Module, training: Training, folder: Path, *, identity: Mapping[str, object],
    train: Sequence[Mapping[str, object]], dev: Sequence[Mapping[str, object]],
    collate: Callable[[list[dict[str, object]]], Mapping[str, torch.Tensor]], metric: str = "loss",
    lower_is_better: bool = True, compute: Callable[[Any], dict[str, float]] | None = None,
    reduce: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None, quiet: bool = False,
    trainer: type[transformers.Trainer] = transformers.Trainer, **more: Any,
) -> Trained:  # fmt: skip
    """Train a module in place, and leave it with the weights of the best step.

    Args:
        module: whose forward gives a loss.
        training: options.
        folder: of the output; checkpoints are in a folder of it.
        identity: what has to be the same for a training to go on: data, teacher, student.
        train, dev: examples, of which `collate` makes batches; each has "input_ids", and "labels" where `compute` is given.
        collate: makes a batch of examples.
        metric: of the dev examples that chooses the best step.
        lower_is_better: whether it does.
        compute: the metrics of dev predictions; the loss alone if None.
        reduce: what is kept of a batch's logits for it, from logits and labels.
        quiet: whether no bar is shown.
        trainer: class of the Trainer.
        more: arguments of that class.

    Raises:
        UsageError: the folder holds checkpoints of a training with other options or data.
        InputError: the training diverged.

    """
    checkpoints = folder / CHECKPOINTS
    steps = max(1, math.ceil(len(train) / training.batch))
    last = _resumable(checkpoints, {**identity, "training": _decisive(training)})
    every = max(1, min(steps, 1000))
    arguments = transformers.TrainingArguments(
        output_dir=str(checkpoints), num_train_epochs=training.epochs, per_device_train_batch_size=training.batch,
        per_device_eval_batch_size=training.batch, learning_rate=training.rate,
        lr_scheduler_type="reduce_lr_on_plateau" if training.schedule == "plateau" else training.schedule,
        lr_scheduler_kwargs={"patience": 2} if training.schedule == "plateau" else None,
        warmup_steps=training.warmup, weight_decay=training.weight_decay, seed=training.seed,
        train_sampling_strategy="group_by_length", eval_strategy="steps", eval_steps=every, save_strategy="steps",
        save_steps=every, save_total_limit=_KEEPS, load_best_model_at_end=True, metric_for_best_model=f"eval_{metric}",
        greater_is_better=not lower_is_better, logging_steps=min(50, every), report_to=[], label_names=["labels"],
        use_cpu=not torch.cuda.is_available(), deepspeed=training.deepspeed,
        disable_tqdm=quiet or not sys.stderr.isatty(), remove_unused_columns=False,
    )  # fmt: skip
    runs = trainer(
        model=module, args=arguments, train_dataset=list(train), eval_dataset=list(dev), data_collator=collate,
        compute_metrics=compute, preprocess_logits_for_metrics=reduce, **more,
    )  # fmt: skip
    if runs.args.disable_tqdm:
        runs.remove_callback(transformers.PrinterCallback)
    if not quiet and runs.args.disable_tqdm:
        runs.add_callback(_Tells())
    if training.patience is not None:
        runs.add_callback(EarlyStoppingCallback(training.patience))
    ends = _Ends(math.inf if training.seconds is None else training.seconds)
    runs.add_callback(ends)
    if find_spec("tensorboard") and runs.is_world_process_zero():
        from torch.utils.tensorboard import SummaryWriter

        runs.add_callback(TensorBoardCallback(SummaryWriter(str(folder / LOGS))))
    clock, cpu = time.perf_counter(), time.process_time()
    runs.train(resume_from_checkpoint=str(last) if last else None)
    state = runs.state
    paused = ends.paused
    if not paused and runs.is_world_process_zero():
        shutil.rmtree(checkpoints)
    best = float(state.best_metric) if state.best_metric is not None else math.nan
    if not paused and not math.isfinite(best):
        raise InputError("The training diverged: the dev loss is no number.", hint="Use a smaller --rate.")
    return Trained(
        "paused" if paused else "finished", state.global_step, state.max_steps, state.best_global_step or 0, metric, best,
        time.perf_counter() - clock, time.process_time() - cpu, _curve(state.log_history),
    )  # fmt: skip


def _decisive(training: Training) -> dict[str, object]:
    """Return the options that decide what comes out."""
    return {name: value for name, value in vars(training).items() if name not in ("threads", "seconds", "deepspeed")}


def _resumable(checkpoints: Path, identity: Mapping[str, object]) -> Path | None:
    """Return the last whole checkpoint of this very training; what a kill left half-written is deleted."""
    text = json.dumps(identity, sort_keys=True, default=str)
    digest = hashlib.sha256(text.encode()).hexdigest()
    note = checkpoints / IDENTITY
    if not note.is_file():
        checkpoints.mkdir(parents=True, exist_ok=True)
        note.write_text(json.dumps({"sha256": digest}), encoding="utf-8")
        return None
    if json.loads(note.read_text(encoding="utf-8")).get("sha256") != digest:
        raise UsageError(
            f"{checkpoints} is of a training with other options or data.",
            hint="Give the same ones to go on with it, or name another --out, or delete that folder.",
        )
    found = {int(path.name.rpartition("-")[2]): path for path in checkpoints.glob("checkpoint-*")}
    for _, path in sorted(found.items(), reverse=True):
        if _whole(path):
            return path
        shutil.rmtree(path)
    return None


def _whole(checkpoint: Path) -> bool:
    try:
        json.loads((checkpoint / _COMPLETE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


def _curve(history: Sequence[Mapping[str, float]]) -> tuple[Step, ...]:
    return tuple(
        Step(
            int(row["step"]), float(row.get("epoch", 0.0)),
            {name: float(value) for name, value in row.items() if name not in ("step", "epoch")},
        )
        for row in history
    )  # fmt: skip
