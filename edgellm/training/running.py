"""Running: what a Trainer lacks to go on exactly where it was cut off, and to stop when it should."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.utils.data import Sampler
from transformers.trainer_callback import TrainerCallback, TrainerControl, TrainerState
from transformers.trainer_pt_utils import get_length_grouped_indices

from edgellm.training.checkpoints import CURVE, pending, write


class _ByLength(Sampler[int]):
    """Examples in batches of about one length, in an order that seed and epoch decide.

    transformers' own sampler draws from the generator that the whole process shares: the rest of an epoch that was cut off
    would be made of other batches, some examples twice and some not at all.
    """

    def __init__(self, lengths: Sequence[int], batch: int, seed: int, trainer: transformers.Trainer) -> None:
        self.lengths, self.batch, self.seed, self.trainer = list(lengths), batch, seed, trainer

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        steps = max(1, self.trainer.state.max_steps // int(self.trainer.args.num_train_epochs))
        epoch = self.trainer.state.global_step // steps
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        return iter(get_length_grouped_indices(self.lengths, self.batch, generator=generator))


def running(trainer: type[transformers.Trainer]) -> type[transformers.Trainer]:
    """Return a Trainer whose order of examples outlives a kill, and whose checkpoints hold tied weights once."""

    class Running(trainer):
        def _get_train_sampler(self, train_dataset: Any = None) -> _ByLength:
            examples = self.train_dataset if train_dataset is None else train_dataset
            lengths = [len(example["input_ids"]) for example in examples]
            return _ByLength(lengths, self.args.train_batch_size * self.args.world_size, self.args.seed, self)

        def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
            if state_dict is None and not isinstance(self.model, transformers.PreTrainedModel):
                state_dict = _once(self.model.state_dict())
            super()._save(output_dir, state_dict)

        def _issue_warnings_after_load(self, load_result: Any) -> None:
            if isinstance(self.model, transformers.PreTrainedModel):  # what others lack are second names
                super()._issue_warnings_after_load(load_result)

    return Running


class Watch(TrainerCallback):
    """Measures the last step, whose weights are often the best, stops where asked to, and keeps the curve over a pause."""

    def __init__(self, trainer: transformers.Trainer, seconds: float, last: Path | None) -> None:
        """Begin to count.

        Args:
            trainer: that it watches.
            seconds: after which the training stops.
            last: checkpoint that it goes on from.

        """
        self.trainer = trainer
        self.until = time.monotonic() + seconds
        self.last = last
        self.paused = False
        self.diverged = ""

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        """Go on with the curve's unfinished point."""
        if self.last is not None:
            loss, since = pending(self.last)
            self.trainer._tr_loss += loss
            self.trainer._globalstep_last_logged = since

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: object) -> TrainerControl:
        """Stop after the last step, or after some seconds, with a checkpoint."""
        last = state.global_step >= state.max_steps
        late = not math.isinf(self.until) and self._any(time.monotonic() > self.until)
        if last or late:
            self.paused = not last
            control.should_evaluate = control.should_evaluate or last
            control.should_save = control.should_training_stop = True
        return control

    def on_log(
        self, args: Any, state: TrainerState, control: TrainerControl, logs: dict[str, float] | None = None,
        **kwargs: object,
    ) -> TrainerControl:  # fmt: skip
        """Stop where a loss is no number: its gradients have made the weights none either."""
        for name in ("loss", "eval_loss"):
            value = (logs or {}).get(name)
            if value is not None and not math.isfinite(value):
                self.diverged = f"{name.replace('eval_', 'dev ')} is {value}"
                control.should_training_stop = True
        return control

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        """Note the curve's unfinished point."""
        if state.is_world_process_zero:
            facts = {"loss": float(self.trainer._tr_loss), "since": int(self.trainer._globalstep_last_logged)}
            write(Path(args.output_dir) / f"checkpoint-{state.global_step}" / CURVE, facts)

    def _any(self, late: bool) -> bool:
        """Tell whether it is late for any process: all have to stop at one step."""
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return late
        flag = torch.tensor(int(late), device=self.trainer.args.device)
        torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
        return bool(flag)


class Tells(TrainerCallback):
    """Prints a line at each evaluation, for where no bar can be drawn."""

    def __init__(self) -> None:
        self.since: tuple[float, int] | None = None

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        """Begin to count at the first step of this run."""
        self.since = self.since or (time.monotonic(), state.global_step)

    def on_evaluate(
        self, args: Any, state: TrainerState, control: TrainerControl, metrics: Mapping[str, float], **kwargs: object
    ) -> None:
        """Print the figures, and how long the rest will take."""
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


def _once(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return a state without second names of the same memory, which safetensors refuses; loading ties them again."""
    seen: set[tuple[int, int, tuple[int, ...]]] = set()
    kept = {}
    for name, tensor in state.items():
        key = (tensor.data_ptr(), tensor.storage_offset(), tuple(tensor.shape))
        if tensor.numel() == 0 or key not in seen:
            kept[name] = tensor
        seen.add(key)
    return kept
