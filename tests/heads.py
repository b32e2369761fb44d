"""Writes taggers and masked language models, their ONNX artifacts, and what the transformers pipelines say of texts.

`python -m tests.heads FOLDER` reads a JSON object from KIND to a list of [text, arguments of the pipeline], and makes
FOLDER/KIND with the model, model-fp32.onnx, source.json (task, its options, the graph's signature) and answers.json. A
KIND is "tagger" or "filler", a hyphen, and what it stands on:

    minilm     the encoder of the `demo` extra, with a head of random weights
    wordpiece  a small BERT of random weights, with the tokenizer of tests/models.py
    bpe        a small RoBERTa of random weights, with a byte-level BPE tokenizer
    unigram    a small DistilBERT of random weights, with a Unigram tokenizer

In a process of its own, for the reason that tests/models.py gives; in one for all, because importing takes longest.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from edgellm.backends import Prepared, load_backend
from edgellm.core import strict
from edgellm.core.precision import Precisions
from edgellm.stages.prepare import prepare
from edgellm.stages.source import SourceModel, default_model, read_source
from edgellm.targets import load_target
from edgellm.texts import default_texts
from tests.vocabularies import write_wordpiece

LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC", "misc")
SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
HEADS = {"tagger": "TokenClassification", "filler": "MaskedLM"}


def write(kind: str, folder: Path) -> None:
    """Write the model and tokenizer of a kind into `folder`."""
    torch.manual_seed(7)
    head, base = kind.split("-")
    folder.mkdir(parents=True)
    model = _on_minilm(HEADS[head], folder) if base == "minilm" else _small(HEADS[head], base, folder)
    model.config.id2label = dict(enumerate(LABELS))
    model.config.label2id = {label: number for number, label in enumerate(LABELS)}
    model.save_pretrained(folder)


def _on_minilm(head: str, folder: Path) -> transformers.PreTrainedModel:
    source = default_model()
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        shutil.copy(source / name, folder)
    model = getattr(transformers, f"BertFor{head}").from_pretrained(source, num_labels=len(LABELS))
    rng = np.random.default_rng(5)
    tags = head == "TokenClassification"
    linear = model.classifier if tags else model.cls.predictions.transform.dense
    scale = 1.0 if tags else model.config.hidden_size**-0.5  # at which a few labels, or tokens, stand out
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(rng.normal(scale=scale, size=linear.weight.shape)))
        linear.bias.zero_()
    return model


def _small(head: str, base: str, folder: Path) -> transformers.PreTrainedModel:
    if base == "wordpiece":
        common = {
            "vocab_size": write_wordpiece(folder, 900).size,
            "max_position_embeddings": 64,
            "num_labels": len(LABELS),
            **SIZES,
        }
        _declare(folder, mask_token="[MASK]")
        config, family = transformers.BertConfig(pad_token_id=0, **common), "Bert"
    elif base == "bpe":
        common = {"vocab_size": _write_bpe(folder), "max_position_embeddings": 514, "num_labels": len(LABELS), **SIZES}
        config, family = transformers.RobertaConfig(pad_token_id=1, type_vocab_size=1, **common), "Roberta"
    else:
        config = transformers.DistilBertConfig(
            vocab_size=_write_unigram(folder), max_position_embeddings=512, num_labels=len(LABELS), dim=64, n_layers=2,
            n_heads=4, hidden_dim=128, pad_token_id=1,
        )  # fmt: skip
        family = "DistilBert"
    model = getattr(transformers, f"{family}For{head}")(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2:
                parameter.normal_(0, 1.0 if "classifier" in name else 0.3)
    return model


def _write_bpe(folder: Path) -> int:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        default_texts("golden"),
        trainers.BpeTrainer(vocab_size=900, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return _save(tokenizer, folder, bos_token="<s>", eos_token="</s>", cls_token="<s>", sep_token="</s>")


def _write_unigram(folder: Path) -> int:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer.train_from_iterator(
        default_texts("golden")[:200],
        trainers.UnigramTrainer(vocab_size=900, special_tokens=special, unk_token="<unk>", show_progress=False),
    )
    ids = [(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=ids
    )
    size = _save(tokenizer, folder, bos_token="<s>", eos_token="</s>", cls_token="<s>", sep_token="</s>")
    _declare(folder, clean_up_tokenization_spaces=True)
    return size


def _save(tokenizer: Tokenizer, folder: Path, **names: str) -> int:
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>", mask_token="<mask>", **names
    ).save_pretrained(folder)
    _declare(folder, model_input_names=["input_ids", "attention_mask"])
    return tokenizer.get_vocab_size()


def _declare(folder: Path, **facts: object) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **facts}))


def lower(folder: Path) -> SourceModel:
    """Write the fp32 ONNX artifact of the model in a folder beside it, and what reads its outputs."""
    source = read_source(str(folder), task=None, tokenizer=None, pooling=None, describe=lambda factory: {})
    prepared = Prepared(prepare(source).module, source.inputs, source.output, (source.max_positions or 512,))
    lowered = load_backend("onnx").lower(prepared, Precisions("fp32"), load_target("linux-x86_64"), folder)
    facts = {"task": source.task, "options": strict.plain(source.options), "signature": strict.plain(lowered.signature)}
    (folder / "source.json").write_text(json.dumps(facts))
    return source


def answer(task: str, folder: Path, cases: list[tuple[str, dict[str, object]]]) -> None:
    """Write the pipeline's answers."""
    pipe = transformers.pipeline(task, model=str(folder), device="cpu")
    answers = [pipe(text, **arguments) for text, arguments in cases]
    (folder / "answers.json").write_text(json.dumps(answers, default=float))


if __name__ == "__main__":
    for kind, cases in json.load(sys.stdin).items():
        place = Path(sys.argv[1]) / kind
        write(kind, place)
        if cases:
            answer(lower(place).task, place, cases)
