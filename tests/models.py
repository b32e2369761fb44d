"""Writes small models with the real libraries: `python -m tests.models KIND FOLDER`.

In a process of its own, because transformers and torch warn when they are imported, and warnings are errors in tests.

    encoder      a BERT encoder of random weights, with a WordPiece tokenizer of its own
    wordy        the same with words in its vocabulary, not only characters
    classifier   the encoder with three labels
    several      the same with three labels of which any may hold
    stars        the same with one number
    ranker       the same with one label: a cross-encoder
    entailment   the same with the labels of natural language inference
    questions    the same with a head that points at where an answer starts and ends
    collapsing   an encoder whose fp32 answers are the encoder's, and whose activations int8 can't hold
    spike        an encoder of which one feed-forward writes a channel a hundred times as far as the others
    pruned       the encoder with fewer heads and a narrower feed-forward in its first layer
    own-attention   a DeBERTa, whose attention transformers can't exchange
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from transformers import (
    BertConfig,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    DebertaV2Config,
    DebertaV2Model,
)

from tests.vocabularies import write_wordpiece

LABELS = {0: "calm", 1: "glad", 2: "sad"}
CLASSIFIERS = {
    "classifier": LABELS,
    "several": LABELS,
    "stars": {0: "stars"},
    "ranker": {0: "LABEL_0"},
    "entailment": {0: "CONTRADICTION", 1: "NEUTRAL", 2: "ENTAILMENT"},
}
PROBLEMS = {"several": "multi_label_classification", "stars": "regression"}


def write(kind: str, folder: Path) -> None:
    """Write the model `kind` into `folder`."""
    torch.manual_seed(11)
    size = write_wordpiece(folder, pieces=3000 if kind == "wordy" else 900).size
    config = BertConfig(
        vocab_size=size, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128,
        max_position_embeddings=64, pad_token_id=0,
    )  # fmt: skip
    if kind in CLASSIFIERS:
        labels = CLASSIFIERS[kind]
        config.num_labels = len(labels)
        config.id2label, config.label2id = labels, {label: i for i, label in labels.items()}
        config.problem_type = PROBLEMS.get(kind)
        model = BertForSequenceClassification(config)
    elif kind == "tagger":
        config.num_labels = len(LABELS)
        config.id2label, config.label2id = LABELS, {label: i for i, label in LABELS.items()}
        model = BertForTokenClassification(config)
    elif kind == "questions":
        model = BertForQuestionAnswering(config)
    elif kind == "own-attention":
        config = DebertaV2Config(
            vocab_size=size, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
            max_position_embeddings=32, pad_token_id=0, relative_attention=True, position_buckets=8,
            pos_att_type=["p2c", "c2p"], type_vocab_size=0,
        )  # fmt: skip
        model = DebertaV2Model(config)
    else:
        model = BertModel(config, add_pooling_layer=False)
    model.eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(0, 0.1)
        if kind == "collapsing":
            _plant_outlier(model)
        if kind == "spike":
            model.encoder.layer[0].output.dense.weight[7] *= 100
    if kind == "pruned":
        _prune(model)
    model.save_pretrained(folder)


def _plant_outlier(model: BertModel) -> None:
    """Make most neurons of each feed-forward huge, and nobody listen to them: nothing changes in fp32, int8 is ruined.

    8-bit activations share one scale per token or tensor, so the other neurons round to zero. A few could be evened
    out; most can't.
    """
    for layer in model.encoder.layer:
        layer.intermediate.dense.weight[:80] = 0
        layer.intermediate.dense.bias[:80] = 1e4
        layer.output.dense.weight *= 8
        layer.output.dense.weight[:, :80] = 0


def _prune(model: BertModel) -> None:
    """Take one of four heads and half the feed-forward away from the first layer, as pruning tools save it."""
    layer = model.encoder.layer[0]
    attention = layer.attention
    for linear in (attention.self.query, attention.self.key, attention.self.value):
        linear.weight = torch.nn.Parameter(linear.weight[16:].clone())
        linear.bias = torch.nn.Parameter(linear.bias[16:].clone())
    attention.output.dense.weight = torch.nn.Parameter(attention.output.dense.weight[:, 16:].clone())
    layer.intermediate.dense.weight = torch.nn.Parameter(layer.intermediate.dense.weight[:64].clone())
    layer.intermediate.dense.bias = torch.nn.Parameter(layer.intermediate.dense.bias[:64].clone())
    layer.output.dense.weight = torch.nn.Parameter(layer.output.dense.weight[:, :64].clone())


if __name__ == "__main__":
    write(sys.argv[1], Path(sys.argv[2]))
