"""Small tokenizers of the kinds that encoders have, trained on the project's own texts, as transformers saves them.

wordpiece     BERT's, with the vocab.txt that its tokenizer in Python reads
cased         the same, keeping case and accents
byte-level    RoBERTa's BPE over bytes
unigram       ALBERT's, which normalizes and lower-cases
xlm-roberta   XLM-R's Unigram, which changes nothing
t5            T5's Unigram, with a hundred sentinels and nothing before a text
generic       no class of its own: everything is in tokenizer.json
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from edgellm.stages.source import SourceModel, read_source
from edgellm.texts import default_texts

KINDS = ("wordpiece", "cased", "byte-level", "unigram", "xlm-roberta", "t5", "generic")

_BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_ROBERTA = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
_MODEL_TYPES = {
    "wordpiece": "bert", "cased": "bert", "byte-level": "roberta", "unigram": "albert", "xlm-roberta": "xlm-roberta",
    "t5": "t5", "generic": "bert",
}  # fmt: skip


def write_source(kind: str, folder: Path, *, baked: bool = True, lowercase: bool = False) -> Path:
    """Write a model folder that `read_source` takes, whose weights are one number.

    Args:
        kind: one of KINDS.
        folder: to write into.
        baked: whether tokenizer.json has padding and truncation of its own.
        lowercase: whether sentence-transformers is asked to lower-case.

    """
    folder.mkdir(parents=True)
    saved = _save(kind, folder)
    if baked:
        saved.enable_padding(length=24)
        saved.enable_truncation(24)
        saved.save(str(folder / "tokenizer.json"))
    if kind in ("wordpiece", "cased"):
        vocabulary = saved.get_vocab()
        (folder / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=vocabulary.__getitem__)) + "\n", "utf-8")
    config = {
        "architectures": ["BertModel"], "model_type": _MODEL_TYPES[kind], "hidden_size": 8,
        "vocab_size": saved.get_vocab_size(), "type_vocab_size": 2 if kind in ("wordpiece", "cased", "generic") else 1,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    save_file({"weight": np.ones(1, np.float32)}, folder / "model.safetensors")
    if lowercase:
        (folder / "sentence_bert_config.json").write_text('{"do_lower_case": true}', "utf-8")
    return folder


def source_of(folder: Path, **options: Any) -> SourceModel:
    """Read what `write_source` wrote."""

    def describe(factory: str) -> dict[str, Any]:
        raise AssertionError(f"{factory} was called")

    chosen = {"task": None, "tokenizer": None, "pooling": None, "describe": describe, **options}
    return read_source(str(folder), **chosen)


def _save(kind: str, folder: Path) -> Tokenizer:
    """Save a trained tokenizer as its class in transformers does, and return what is in tokenizer.json."""
    import transformers

    if kind in ("wordpiece", "cased"):
        vocabulary = _wordpiece(lowercase=kind == "wordpiece").get_vocab()
        made = transformers.BertTokenizer(vocab=vocabulary, do_lower_case=kind == "wordpiece")
    elif kind == "byte-level":
        model = json.loads(_byte_level().to_str())["model"]
        merges = [tuple(merge) for merge in model["merges"]]
        made = transformers.RobertaTokenizer(vocab=model["vocab"], merges=merges)
    elif kind == "unigram":
        made = transformers.AlbertTokenizer(vocab=_unigram(["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"]))
    elif kind == "xlm-roberta":
        made = transformers.XLMRobertaTokenizer(vocab=_unigram(_ROBERTA[:4]))
    elif kind == "t5":
        made = transformers.T5Tokenizer(vocab=_unigram(["<pad>", "</s>", "<unk>"]))
    else:
        tokenizer = _wordpiece(lowercase=True)
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
        made = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")
    made.save_pretrained(folder)
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def _wordpiece(*, lowercase: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=1500, special_tokens=_BERT, show_progress=False)
    tokenizer.train_from_iterator(default_texts("golden"), trainer)
    return tokenizer


def _byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=1500, special_tokens=_ROBERTA, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(default_texts("golden"), trainer)
    return tokenizer


def _unigram(special: list[str]) -> list[tuple[str, float]]:
    """Return pieces with their scores, the special ones first."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    unknown = "<unk>"
    trainer = trainers.UnigramTrainer(vocab_size=1500, special_tokens=special, unk_token=unknown, show_progress=False)
    tokenizer.train_from_iterator(default_texts("golden"), trainer)
    return [(piece, score) for piece, score in json.loads(tokenizer.to_str())["model"]["vocab"]]
