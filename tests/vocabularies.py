"""Tokenizers of three kinds, trained on the project's own texts: WordPiece, byte-level BPE and Unigram.

Each writes what `save_pretrained` of a fast tokenizer writes, and returns the number of its tokens and the id of its
padding, which the model's configuration has to agree with.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from edgellm.texts import default_texts

_SIZE = 1500
"""The texts have about a thousand characters; the rest are words and pieces of words."""


@dataclass(frozen=True)
class Vocabulary:
    """What a model has to know of its tokenizer."""

    size: int
    pad_id: int


def write_wordpiece(folder: Path, pieces: int = _SIZE) -> Vocabulary:
    """Write a tokenizer of so many pieces as BERT has it, padding and truncation baked in."""
    tokenizer = _wordpiece(pieces, ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"))
    _template(tokenizer, "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", ("[CLS]", "[SEP]"))
    tokenizer.enable_padding(length=32)
    tokenizer.enable_truncation(32)
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return _save(tokenizer, folder, names, ["input_ids", "token_type_ids", "attention_mask"])


def write_wordpiece_fairseq(folder: Path) -> Vocabulary:
    """Write a tokenizer as MPNet has it: WordPiece with RoBERTa's special tokens."""
    tokenizer = _wordpiece(_SIZE, ("<s>", "<pad>", "</s>", "[UNK]", "<mask>"))
    _template(tokenizer, "<s> $A </s>", "<s> $A </s> </s> $B </s>", ("<s>", "</s>"))
    names = {"pad_token": "<pad>", "unk_token": "[UNK]", "cls_token": "<s>", "sep_token": "</s>"}
    return _save(tokenizer, folder, names, ["input_ids", "attention_mask"])


def write_bpe(folder: Path) -> Vocabulary:
    """Write a byte-level tokenizer as RoBERTa has it."""
    special = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=_SIZE, special_tokens=list(special), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(default_texts("golden"), trainer)
    ids = {name: tokenizer.token_to_id(name) for name in special}
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", ids["</s>"]), ("<s>", ids["<s>"]), add_prefix_space=False
    )
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "cls_token": "<s>", "sep_token": "</s>"}
    return _save(tokenizer, folder, names, ["input_ids", "attention_mask"])


def write_unigram(folder: Path) -> Vocabulary:
    """Write a SentencePiece tokenizer as XLM-RoBERTa has it: Unigram over words that begin with a bar."""
    special = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
    tokenizer = _unigram(special)
    _template(tokenizer, "<s> $A </s>", "<s> $A </s> </s> $B </s>", ("<s>", "</s>"))
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "cls_token": "<s>", "sep_token": "</s>"}
    return _save(tokenizer, folder, names, ["input_ids", "attention_mask"])


def write_unigram_typed(folder: Path) -> Vocabulary:
    """Write a SentencePiece tokenizer as ALBERT and DeBERTa-v2 have it: with BERT's special tokens and segments."""
    special = ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]")
    tokenizer = _unigram(special)
    _template(tokenizer, "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", ("[CLS]", "[SEP]"))
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return _save(tokenizer, folder, names, ["input_ids", "token_type_ids", "attention_mask"])


def write_unigram_ending(folder: Path) -> Vocabulary:
    """Write a SentencePiece tokenizer as T5 has it: a text only gets an end."""
    special = ("<pad>", "</s>", "<unk>")
    tokenizer = _unigram(special)
    _template(tokenizer, "$A </s>", "$A </s> $B </s>", ("</s>",))
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "eos_token": "</s>"}
    return _save(tokenizer, folder, names, ["input_ids", "attention_mask"])


WRITERS: dict[str, Callable[[Path], Vocabulary]] = {
    "wordpiece": write_wordpiece,
    "wordpiece-fairseq": write_wordpiece_fairseq,
    "bpe": write_bpe,
    "unigram": write_unigram,
    "unigram-typed": write_unigram_typed,
    "unigram-ending": write_unigram_ending,
}

KINDS = {
    "wordpiece": "WordPiece",
    "wordpiece-fairseq": "WordPiece",
    "bpe": "byte-level BPE",
    "unigram": "Unigram",
    "unigram-typed": "Unigram",
    "unigram-ending": "Unigram",
}
"""What people call the kind of each."""


def _wordpiece(pieces: int, special: tuple[str, ...]) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=pieces, special_tokens=list(special), show_progress=False)
    tokenizer.train_from_iterator(default_texts("golden"), trainer)
    return tokenizer


def _unigram(special: tuple[str, ...]) -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace("  ", " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    unknown = next(name for name in special if "unk" in name.lower())
    trainer = trainers.UnigramTrainer(
        vocab_size=_SIZE, special_tokens=list(special), unk_token=unknown, show_progress=False
    )
    tokenizer.train_from_iterator(default_texts("golden"), trainer)
    return tokenizer


def _template(tokenizer: Tokenizer, single: str, pair: str, tokens: tuple[str, ...]) -> None:
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=[(name, tokenizer.token_to_id(name)) for name in tokens]
    )


def _save(tokenizer: Tokenizer, folder: Path, names: dict[str, str], inputs: list[str]) -> Vocabulary:
    from transformers import PreTrainedTokenizerFast  # takes seconds; the table of kinds is needed without it

    folder.mkdir(parents=True, exist_ok=True)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**config, "model_input_names": inputs}), encoding="utf-8")
    return Vocabulary(tokenizer.get_vocab_size(), tokenizer.token_to_id(names["pad_token"]))
