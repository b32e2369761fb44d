"""Fit: runs a transformers Trainer to its end, or from where it was cut off.

The Trainer runs on accelerate, so that `accelerate launch` spreads it over devices and machines, and takes DeepSpeed's
configuration. A checkpoint holds weights, optimizer, schedule and random states: a training that was killed goes on from
its last one with the losses it would have had.
"""

from __future__ import annotations

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
from transformers.trainer_callback import EarlyStoppingCallback

from edgellm.core.training import Step, Trained, Training
from edgellm.errors import InputError, MissingDependencyError
from edgellm.training.checkpoints import resumable
from edgellm.training.running import Tells, Watch, running

CHECKPOINTS = "checkpoints"
"""Folder in the output folder; it is deleted when the training has ended."""

LOGS = "logs"
"""Folder in the output folder that TensorBoard reads, where it is installed."""

_KEEPS = 2
"""Checkpoints: the best and the last."""

_LOGS_EVERY = 50
"""Steps between two points of the curve, at most."""

_EVALUATES_EVERY = 1000
"""Steps between two evaluations, at most; there is one at the end of each epoch otherwise."""

_CLOCKS = ("runtime", "per_second", "total_flos", "train_loss")
"""Endings of what the Trainer logs that is no measure of the model."""


def prepare(training: Training) -> None:
    """Set the seed and the threads, before a module is made, and let nothing but the training be told.

    Raises:
        MissingDependencyError: DeepSpeed is asked for and not installed.
        InputError: there is no DeepSpeed configuration where it should be.

    """
    if training.deepspeed and find_spec("deepspeed") is None:
        raise MissingDependencyError("--deepspeed needs deepspeed.", hint="Install it with: pip install deepspeed")
    if training.deepspeed and not Path(training.deepspeed).is_file():
        raise InputError(f"There is no {training.deepspeed}.", hint="--deepspeed takes DeepSpeed's JSON configuration.")
    hush()
    if training.threads is not None:
        torch.set_num_threads(training.threads)
    transformers.set_seed(training.seed)


def hush() -> None:
    """Let transformers say nothing but errors, and draw no bars of its own."""
    transformers.utils.logging.disable_progress_bar()  # of reading and writing weights
    transformers.utils.logging.set_verbosity_error()


def fit(
    module: nn.Module, training: Training, folder: Path, *, identity: Mapping[str, object],
    train: Sequence[Mapping[str, object]], dev: Sequence[Mapping[str, object]],
    collate: Callable[[list[dict[str, object]]], Mapping[str, torch.Tensor]], metric: str = "loss",
    lower_is_better: bool = True, compute: Callable[[Any], dict[str, float]] | None = None,
    reduce: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None, quiet: bool = False, keep: bool = False,
    trainer: type[transformers.Trainer] = transformers.Trainer, **more: Any,
) -> Trained:  # fmt: skip
    """Train a module in place, and leave it with the weights of the best step.

    Args:
        module: whose forward gives a loss.
        training: options.
        folder: of the output; checkpoints are in a folder of it.
        identity: what has to be the same for a training to go on: data, teacher, student.
        train, dev: examples, of which `collate` makes batches; each has "input_ids", and "labels".
        collate: makes a batch of examples, with "labels".
        metric: of the dev examples that chooses the best step.
        lower_is_better: whether it does.
        compute: the metrics of dev predictions; the loss alone if None.
        reduce: what is kept of a batch's logits for it, from logits and labels.
        quiet: whether no bar is shown.
        keep: whether checkpoints stay when the training has ended, for a caller that deletes them when its output is safe.
        trainer: class of the Trainer.
        more: arguments of that class.

    Raises:
        UsageError: the folder holds checkpoints of a training with other options or data.
        InputError: the training diverged.

    """
    checkpoints = folder / CHECKPOINTS
    arguments = _arguments(
        training, checkpoints, len(train), f"eval_{metric}", lower_is_better, quiet=quiet or not sys.stderr.isatty()
    )
    with arguments.main_process_first(desc="checkpoints"):
        last = resumable(checkpoints, {**identity, "training": _decisive(training)}, keep=arguments.process_index > 0)
    runs = running(trainer)(
        model=module, args=arguments, train_dataset=list(train), eval_dataset=list(dev), data_collator=collate,
        compute_metrics=compute, preprocess_logits_for_metrics=reduce, **more,
    )  # fmt: skip
    if arguments.disable_tqdm:
        runs.remove_callback(transformers.PrinterCallback)
    if not quiet and arguments.disable_tqdm:
        runs.add_callback(Tells())
    if training.patience is not None:
        runs.add_callback(EarlyStoppingCallback(training.patience))
    watch = Watch(runs, math.inf if training.seconds is None else training.seconds, last)
    runs.add_callback(watch)
    main = runs.is_world_process_zero()
    if main and find_spec("tensorboard"):
        from torch.utils.tensorboard import SummaryWriter

        # Steps after the last checkpoint are run once more: what was logged of them is replaced.
        step = int(last.name.rpartition("-")[2]) + 1 if last else None
        runs.add_callback(TensorBoardCallback(SummaryWriter(str(folder / LOGS), purge_step=step)))
    clock, cpu = time.perf_counter(), time.process_time()
    runs.train(resume_from_checkpoint=str(last) if last else None)
    state = runs.state
    runs.accelerator.wait_for_everyone()  # all have read the best weights
    runs.accelerator.unwrap_model(module, keep_fp32_wrapper=False)  # who asks the module next asks it in fp32
    if main and (watch.diverged or not (watch.paused or keep)):
        shutil.rmtree(checkpoints)
    if watch.diverged:
        raise InputError(
            f"The training diverged: {watch.diverged} at step {state.global_step}.", hint="Use a smaller --rate."
        )
    best = float(state.best_metric) if state.best_metric is not None and math.isfinite(state.best_metric) else None
    return Trained(
        "paused" if watch.paused else "finished", state.global_step, state.max_steps, state.best_global_step or 0, metric,
        best, time.perf_counter() - clock, time.process_time() - cpu, _curve(state.log_history),
    )  # fmt: skip


def _arguments(
    training: Training, checkpoints: Path, examples: int, metric: str, lower_is_better: bool, *, quiet: bool
) -> transformers.TrainingArguments:
    plateau = training.schedule == "plateau"
    # Falls at the second evaluation without a better figure: torch counts those that it lets pass.
    falls = {"patience": 1, "factor": 0.1, "mode": "min" if lower_is_better else "max"}
    arguments = transformers.TrainingArguments(
        output_dir=str(checkpoints), num_train_epochs=training.epochs, per_device_train_batch_size=training.batch,
        per_device_eval_batch_size=training.batch, learning_rate=training.rate,
        lr_scheduler_type="reduce_lr_on_plateau" if plateau else training.schedule,
        lr_scheduler_kwargs=falls if plateau else None, warmup_steps=training.rising, weight_decay=training.weight_decay,
        bf16=training.precision == "bf16", seed=training.seed, train_sampling_strategy="group_by_length",
        eval_strategy="steps", eval_steps=1, save_strategy="steps", save_steps=1, save_total_limit=_KEEPS,
        load_best_model_at_end=True, metric_for_best_model=metric, greater_is_better=not lower_is_better, report_to=[],
        label_names=["labels"], use_cpu=not torch.cuda.is_available(), dataloader_pin_memory=torch.cuda.is_available(),
        deepspeed=training.deepspeed, disable_tqdm=quiet, remove_unused_columns=False, logging_nan_inf_filter=False,
        restore_callback_states_from_checkpoint=True,
    )  # fmt: skip
    steps = max(1, math.ceil(examples / (arguments.train_batch_size * arguments.world_size)))
    arguments.eval_steps = arguments.save_steps = min(steps, _EVALUATES_EVERY)
    arguments.logging_steps = min(steps, _LOGS_EVERY)
    return arguments


def _decisive(training: Training) -> dict[str, object]:
    """Return the options that decide what comes out."""
    options = {name: value for name, value in vars(training).items() if name not in ("threads", "seconds", "deepspeed")}
    if training.precision == "fp32":  # as it was before there was a choice: trainings that began then go on
        del options["precision"]
    return {**options, "warmup": training.rising}


def _curve(history: Sequence[Mapping[str, float]]) -> tuple[Step, ...]:
    steps = []
    for row in history:
        values = {
            name: float(value) for name, value in row.items()
            if name not in ("step", "epoch") and not name.endswith(_CLOCKS)
        }  # fmt: skip
        if values:
            steps.append(Step(int(row["step"]), float(row.get("epoch", 0.0)), values))
    return tuple(steps)
