"""Judged: what an encoder answers to examples, from raw text as a device would, in batches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from torch import nn

from edgellm.core.distill import StudentScore
from edgellm.core.manifest import TaskOptions
from edgellm.distill.labelled import Texts, collate
from edgellm.runtime.tokenizer import Tokenizer
from edgellm.stages.examples import predictions, raw_inputs
from edgellm.tasks import Task

_BATCH = 64


def answers(
    model: nn.Module, texts: Texts, task: Task, options: TaskOptions, tokenizer: Tokenizer, *, pad: int, types: bool
) -> list[object]:
    """Return the value of each raw input of the examples, in their order.

    Args:
        model: as the task wraps it.
        texts: the examples.
        task: of the model.
        options: of the task.
        tokenizer: of the model.
        pad: the id of padding.
        types: whether the model takes token_type_ids.

    """
    raws = raw_inputs(texts.examples)
    passes = [task.encode(raw, tokenizer, options) for raw in raws]
    flat = [encoding for some in passes for encoding in some]
    order = sorted(range(len(flat)), key=lambda i: len(flat[i].ids))
    found: dict[int, np.ndarray] = {}
    device, batch = next(model.parameters()).device, collate(pad)
    training = model.training
    model.eval()
    with torch.no_grad():
        for start in range(0, len(order), _BATCH):
            chosen = order[start : start + _BATCH]
            names = ("input_ids", "token_type_ids") if types else ("input_ids",)
            rows = [
                dict(zip(names, (list(flat[i].ids), list(flat[i].type_ids)), strict=False)) for i in chosen
            ]  # fmt: skip
            feeds = {name: tensor.to(device) for name, tensor in batch(cast("list[dict[str, object]]", rows)).items()}
            out = model(**feeds).float().cpu().numpy()
            for i, row in zip(chosen, out, strict=True):
                found[i] = row[None, : len(flat[i].ids)] if row.ndim == 2 else row[None]
    model.train(training)
    values, at = [], 0
    for raw, some in zip(raws, passes, strict=True):
        outputs = [{task.OUTPUT: found[i]} for i in range(at, at + len(some))]
        values.append(task.decode(raw, some, outputs, options, tokenizer))
        at += len(some)
    return values


def score(
    part: str, texts: Texts, task: Task, options: TaskOptions, *, teacher: Sequence[object], before: Sequence[object],
    student: Sequence[object],
) -> StudentScore:  # fmt: skip
    """Return how a student's values, before training and after it, compare with its teacher's and with labels."""
    agreed = float(np.mean([task.agree(x, y, options) for x, y in zip(teacher, student, strict=True)]))
    if not texts.labelled:
        return StudentScore(part, len(texts.examples), task.METRIC, agreed)
    golds = [example.gold for example in texts.examples]
    names, figures = "", list[float | None]()
    for values in (teacher, before, student):
        metrics = task.metrics(golds, predictions(texts.examples, values, task, options))
        names = next(iter(metrics))
        # A correlation is no number where one side is constant, and JSON has no such thing.
        figures.append(metrics[names] if math.isfinite(metrics[names]) else None)
    return StudentScore(part, len(texts.examples), task.METRIC, agreed, names, *figures)
