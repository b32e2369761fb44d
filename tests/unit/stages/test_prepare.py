"""The mask of padding is as weak as the model's own attention scores allow, and hides it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from edgellm.core.manifest import TaskOptions
from edgellm.errors import EdgellmError
from edgellm.stages.attention import MASKS, replace_attention
from edgellm.stages.faithful import ensure_faithful
from edgellm.stages.load import load
from edgellm.stages.prepare import _probes, prepare, reference
from edgellm.stages.source import SourceModel
from edgellm.tasks import load_task
from tests.tiny import tiny_tokenizer
from tests.unit.stages.folders import read

FEEDS = [
    {"input_ids": np.array([ids]), "attention_mask": np.ones((1, len(ids)), np.int64)}
    for ids in ([1, 5, 2], [1, 6, 7, 2], [9], [4, 3, 8, 7, 6, 5, 2, 1])
]


def encoder(folder: Path, sharpness: float) -> SourceModel:
    """Return an encoder of one layer whose attention scores are `sharpness` times what a new model has."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(1)
    tokenizer = tiny_tokenizer()
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=32, type_vocab_size=1,
    )  # fmt: skip
    model = BertModel(config, add_pooling_layer=False)
    with torch.no_grad():
        model.encoder.layer[0].attention.self.query.weight.mul_(sharpness)
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return read(folder, task="feature-extraction", pooling="mean")


@pytest.mark.parametrize(
    ("sharpness", "masked"), [(1.0, -30.0), (8000.0, -100.0), (24000.0, -300.0), (80000.0, -1000.0)]
)
def test_the_mask_follows_the_model(tmp_path: Path, sharpness: float, masked: float) -> None:
    source = encoder(tmp_path, sharpness)
    rewritten = prepare(source)
    assert ensure_faithful(reference(source), rewritten.module, FEEDS).rewritten < 1e-5
    assert rewritten.finite_mask
    assert [f"with {masked:g}," in note for note in rewritten.notes] == [True] * (masked != MASKS[0])
    if masked != MASKS[0]:  # the next weaker one lets padding through
        model = load(source)
        replace_attention(model, MASKS[MASKS.index(masked) - 1])
        leaking = load_task(source.task).wrap(model, source.options).eval()
        with pytest.raises(EdgellmError, match="differs from the source"):
            ensure_faithful(reference(source), leaking, FEEDS)


def test_probes_hold_what_a_model_is_asked_about_and_fit_in_it(tmp_path: Path) -> None:
    source = encoder(tmp_path, 1.0)
    filler = dataclasses.replace(source, options=TaskOptions(mask="[MASK]", mask_id=7), max_positions=6)
    probes = list(_probes(filler))
    assert [int(padded["attention_mask"].sum()) for _, padded in probes] == [1, 2, 3, 5]
    for alone, padded in probes:
        read = alone["input_ids"].shape[1]
        assert alone["input_ids"][0, 0] == 7
        assert torch.equal(padded["input_ids"][:, :read], alone["input_ids"])
        assert read < padded["input_ids"].shape[1] <= 6
