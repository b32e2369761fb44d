"""A training of seconds: `python -m tests.small_training FOLDER JSON` prints what came of it.

The module has dropout, so that its losses also depend on the random states; the texts have lengths, so that batches depend
on the order. JSON overrides options of `Training`, and may say `die`: a step in whose middle the process kills itself.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgellm.core import strict
from edgellm.core.training import Trained, Training
from edgellm.training.fit import fit, prepare

BATCH, EXAMPLES = 4, 58
"""15 steps in an epoch, the last with two examples."""


class Small(nn.Module):
    """Says which of two words is more frequent in a text."""

    def __init__(self, die: int | None, scale: float = 1.0) -> None:
        super().__init__()
        self.table, self.drop, self.head = nn.Embedding(30, 8), nn.Dropout(0.3), nn.Linear(8, 2)
        self.tied = self.head
        self.die, self.scale, self.steps = die, scale, 0

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        self.steps += self.training
        if self.training and self.steps == self.die:
            os.kill(os.getpid(), signal.SIGKILL)
        mean = (self.table(input_ids) * attention_mask[..., None]).sum(1) / attention_mask.sum(1, keepdim=True)
        logits = self.head(self.drop(mean))
        return {"loss": nn.functional.cross_entropy(logits, labels) * self.scale, "logits": logits}


def examples(count: int, seed: int) -> list[dict[str, object]]:
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(count):
        length = int(torch.randint(3, 12, (1,), generator=generator))
        ids = torch.randint(0, 30, (length,), generator=generator)
        rows.append({"input_ids": ids.tolist(), "labels": int((ids < 15).sum() * 2 > length)})
    return rows


def collate(rows: list[Any]) -> dict[str, torch.Tensor]:
    longest = max(len(row["input_ids"]) for row in rows)
    ids = [row["input_ids"] + [0] * (longest - len(row["input_ids"])) for row in rows]
    mask = [[1] * len(row["input_ids"]) + [0] * (longest - len(row["input_ids"])) for row in rows]
    labels = [row["labels"] for row in rows]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask), "labels": torch.tensor(labels)}


def accuracy(predicted: Any) -> dict[str, float]:
    return {"accuracy": float((predicted.predictions.argmax(-1) == predicted.label_ids).mean())}


def run(
    folder: Path, *, die: int | None = None, scale: float = 1.0, identity: str = "a", metric: str = "loss",
    keep: bool = False, **options: Any,
) -> tuple[Trained, Small]:  # fmt: skip
    training = Training(**{"epochs": 4, "batch": BATCH, "rate": 0.02, "threads": 1, **options})
    prepare(training)
    module = Small(die, scale)
    trained = fit(
        module, training, folder, identity={"data": identity}, train=examples(EXAMPLES, 1), dev=examples(20, 2),
        collate=collate, quiet=True, metric=metric, lower_is_better=metric == "loss", keep=keep,
        compute=accuracy if metric != "loss" else None,
    )  # fmt: skip
    return trained, module


if __name__ == "__main__":
    trained, _ = run(Path(sys.argv[1]), **json.loads(sys.argv[2]))
    print(json.dumps(strict.plain(trained)))
