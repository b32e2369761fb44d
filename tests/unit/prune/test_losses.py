"""Losses: those of each task, of each example alone, whatever it is padded with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from edgellm.errors import InputError
from edgellm.prune import losses
from edgellm.prune.setup import PRUNED
from edgellm.stages.load import load
from edgellm.stages.source import SourceModel, read_source
from edgellm.tasks import Example, load_task
from tests.unit.prune.tiny import written

TEXTS = ("red boots", "The kettle is on the table, and nobody knows why.", "a", "where do the boots stand")


def opened(kind: str, folder: Path, **config: Any) -> tuple[SourceModel, Any]:
    source = read_source(
        str(written(kind, folder, **config)), task=None, tokenizer=None, pooling=None, describe=lambda name: {}
    )
    return source, load(source).eval()


def of_all(source: SourceModel, model: Any, examples: Sequence[Example]) -> tuple[list[float], list[losses.Item]]:
    made = losses.items(source, examples, 60)
    (batch,) = losses.batches(source, model, made)
    assert batch.size == len(made)
    with torch.no_grad():
        found: list[float] = batch.losses().tolist()
    return found, sorted(made, key=lambda item: len(item.ids))


def alone(model: Any, item: losses.Item) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=torch.tensor([item.ids])).logits[0]
    return logits


@pytest.mark.parametrize("kind", [None, "multi_label_classification", "regression"])
def test_of_a_classifier(kind: str | None, tmp_path: Path) -> None:
    labels = ["score"] if kind == "regression" else ["calm", "glad", "sad"]
    source, model = opened(
        "classifier", tmp_path, id2label=dict(enumerate(labels)), label2id={n: i for i, n in enumerate(labels)},
        problem_type=kind,
    )  # fmt: skip
    task = load_task(source.task)
    said: list[object] = {None: ["sad", "calm", "glad", "sad"], "regression": [0.5, 2, -1, 0]}.get(
        kind, ["sad,calm", "", "glad", "sad"]
    )
    rows = [{"text": text, "label": label} for text, label in zip(TEXTS, said, strict=True)]
    found, made = of_all(source, model, [task.example(row, source.options) for row in rows])
    for got, item in zip(found, made, strict=True):
        logits = alone(model, item)
        target = torch.tensor(item.target)
        if kind is None:
            expected = functional.cross_entropy(logits, target)
        elif kind == "regression":
            expected = (logits - target).square().sum()
        else:
            expected = functional.binary_cross_entropy_with_logits(logits, target, reduction="sum")
        assert got == pytest.approx(float(expected), rel=1e-4)


def test_of_a_tagger_words_count_at_their_first_tokens(tmp_path: Path) -> None:
    source, model = opened("tagger", tmp_path, id2label={0: "O", 1: "B-X"}, label2id={"O": 0, "B-X": 1})
    task = load_task(source.task)
    rows = [
        {"tokens": ["unforeseeable", "boots", "!"], "tags": ["B-X", "O", "B-X"]},
        {"tokens": ["kettles"], "tags": ["B-X"]},
    ]
    found, made = of_all(source, model, [task.example(row, source.options) for row in rows])
    long = next(item for item in made if sum(tag >= 0 for tag in item.target) == 3)  # type: ignore[attr-defined]
    tags: Any = long.target
    assert [tag for tag in tags if tag >= 0] == [1, 0, 1]
    assert (tags[0], tags[1], tags[-1]) == (-100, 1, -100), "special tokens have no tag, the first of the text has one"
    assert len(tags) > 5, "the first word is several tokens, of which one counts"
    for got, item in zip(found, made, strict=True):
        expected = functional.cross_entropy(alone(model, item), torch.tensor(item.target), ignore_index=-100)
        assert got == pytest.approx(float(expected), rel=1e-4)


def test_of_pairs_it_is_what_the_model_is_trained_by(tmp_path: Path) -> None:
    source, model = opened("ctc", tmp_path)
    examples = [Example((text,), (text[:6],)) for text in TEXTS if len(text) > 1]
    found, made = of_all(source, model, examples)
    assert len(made) == 3
    for got, item in zip(found, made, strict=True):
        with torch.no_grad():
            expected = model(input_ids=torch.tensor([item.ids]), labels=torch.tensor([item.target])).loss
        assert math.isfinite(got)
        assert got == pytest.approx(float(expected), rel=1e-4)


def test_pairs_of_which_none_fits_are_refused(tmp_path: Path) -> None:
    source, _ = opened("ctc", tmp_path)
    with pytest.raises(InputError, match="None of the pairs can be used"):
        losses.items(source, [Example(("a",), ("boots and kettles and tables " * 4,))], 32)


@pytest.mark.parametrize("pooling", ["mean", "cls", "none"])
def test_of_vectors_padding_says_nothing(pooling: str, tmp_path: Path) -> None:
    folder = written("encoder", tmp_path)
    source = read_source(str(folder), task=None, tokenizer=None, pooling=pooling, describe=lambda name: {})
    model = load(source).eval()
    made = losses.items(source, [Example((text,), None) for text in TEXTS], 32)
    together = losses._output(source, model, made)
    for row, item in enumerate(made):
        one = losses._output(source, model, [item])[0]
        got = together[row] if pooling != "none" else together[row, : len(item.ids)]
        assert torch.allclose(one, got, atol=1e-5)
        assert pooling != "none" or not together[row, len(item.ids) :].any()


def test_there_is_a_loss_for_each_task_that_is_pruned() -> None:
    assert set(losses._LOSSES) == set(PRUNED)
