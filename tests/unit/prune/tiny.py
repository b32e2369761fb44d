"""Models of random weights, a few layers deep, in each layout that structured pruning has to know."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.vocabularies import write_wordpiece

VOCABULARY = 60
SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 40}


def tiny(kind: str) -> Any:
    """Return a model in evaluation mode, whose weights are large enough for structures to differ."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformers warns when it is imported
        import transformers as t

        from edgellm.models.ctc import CtcConfig, CtcForSeq2Seq

        torch.manual_seed(7)
        common = {"vocab_size": VOCABULARY, "max_position_embeddings": 40, "pad_token_id": 0}
        six = {"embedding_size": 16, "hidden_size": 36, "num_attention_heads": 4, "intermediate_size": 40}
        makers: dict[str, Callable[[], Any]] = {
            "bert": lambda: t.BertForSequenceClassification(t.BertConfig(**SMALL, **common)),
            "distilbert": lambda: t.DistilBertForSequenceClassification(
                t.DistilBertConfig(dim=32, n_layers=3, n_heads=4, hidden_dim=40, **common)
            ),
            "roberta": lambda: t.RobertaForSequenceClassification(t.RobertaConfig(**SMALL, **common)),
            "electra": lambda: t.ElectraModel(t.ElectraConfig(num_hidden_layers=3, **six, **common)),
            "ctc": lambda: CtcForSeq2Seq(CtcConfig(num_slot_layers=3, conditioned_layers=[2], **SMALL, **common)),
            "ctc-flat": lambda: CtcForSeq2Seq(
                CtcConfig(num_slot_layers=0, conditioned_layers=[2], supervised_layers=[1, 2], **SMALL, **common)
            ),
            "ctc-shared": lambda: CtcForSeq2Seq(CtcConfig(num_slot_layers=2, share_layers=True, **SMALL, **common)),
            "albert": lambda: t.AlbertModel(t.AlbertConfig(**six, num_hidden_layers=3, **common)),
            "mpnet": lambda: t.MPNetModel(t.MPNetConfig(**SMALL, **common)),
            "t5": lambda: t.T5EncoderModel(
                t.T5Config(d_model=32, d_kv=8, d_ff=40, num_layers=3, num_heads=4, vocab_size=VOCABULARY)
            ),
            "t5-gated": lambda: t.T5EncoderModel(
                t.T5Config(
                    d_model=32, d_kv=8, d_ff=40, num_layers=3, num_heads=4, vocab_size=VOCABULARY,
                    feed_forward_proj="gated-gelu",
                )
            ),
            "deberta": lambda: t.DebertaV2Model(t.DebertaV2Config(**SMALL, **common, type_vocab_size=0)),
        }  # fmt: skip
        model = makers[kind]().eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.dim() == 2:
            parameter.normal_(0, 0.2)
        elif parameter.dim() == 1:
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def written(kind: str, folder: Path, **config: Any) -> Path:
    """Write a BERT, or a CtcForSeq2Seq, with the tokenizer of its own that it takes."""
    size = write_wordpiece(folder, pieces=900).size
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import transformers as t

        from edgellm.models.ctc import CtcConfig, CtcForSeq2Seq

        torch.manual_seed(7)
        common = {**SMALL, "vocab_size": size, "max_position_embeddings": 64, "pad_token_id": 0, **config}
        model: Any = {
            "encoder": lambda: t.BertModel(t.BertConfig(**common), add_pooling_layer=False),
            "classifier": lambda: t.BertForSequenceClassification(t.BertConfig(**common)),
            "tagger": lambda: t.BertForTokenClassification(t.BertConfig(**common)),
            "ctc": lambda: CtcForSeq2Seq(CtcConfig(num_slot_layers=3, conditioned_layers=[2], **common)),
        }[kind]()
    for parameter in model.parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, 0, 0.1)
    model.save_pretrained(folder)
    return folder


def ids(seed: int = 3, rows: int = 2, tokens: int = 9) -> torch.Tensor:
    """Return the tokens of some texts."""
    return torch.randint(2, VOCABULARY, (rows, tokens), generator=torch.Generator().manual_seed(seed))


def output(model: Any, tokens: torch.Tensor | None = None) -> torch.Tensor:
    """Return the model's logits, or its last hidden state."""
    given = ids() if tokens is None else tokens
    found = model(input_ids=given, attention_mask=torch.ones_like(given))
    tensor: torch.Tensor = found.logits if hasattr(found, "logits") else found.last_hidden_state
    return tensor
