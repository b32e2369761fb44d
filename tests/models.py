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
    pruned       the encoder with fewer heads and a narrower feed-forward in its first layer
    own-attention   a DeBERTa, whose attention transformers can't exchange
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertModel,
    DebertaV2Config,
    DebertaV2Model,
    PreTrainedTokenizerFast,
)

from edgellm.texts import default_texts

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
    size = write_tokenizer(folder, pieces=3000 if kind == "wordy" else 900)
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
    if kind == "pruned":
        _prune(model)
    model.save_pretrained(folder)


def write_tokenizer(folder: Path, pieces: int = 900) -> int:
    """Write a WordPiece tokenizer trained on the project's own texts, padding and truncation baked in; return its size."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=pieces, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(default_texts("golden"), trainer)
    ids = {name: tokenizer.token_to_id(name) for name in special}
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])],
    )
    tokenizer.enable_padding(length=32)
    tokenizer.enable_truncation(32)
    folder.mkdir(parents=True, exist_ok=True)
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["model_input_names"] = ["input_ids", "token_type_ids", "attention_mask"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return tokenizer.get_vocab_size()


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
