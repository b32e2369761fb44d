"""A trimmed tokenizer cuts the texts it was made for as the whole one does, and any other text into pieces it has."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from edgellm.errors import EdgellmError, InputError
from edgellm.stages.vocabulary import (
    Trimmed,
    as_shipped,
    count_changed,
    ensure_same_pieces,
    follow,
    named_ids,
    trim,
    used_ids,
)
from edgellm.texts import default_texts

SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "<mask>"]
KINDS = ("wordpiece", "byte-level", "suffix", "prefix", "unigram", "byte-fallback", "wordlevel")
SUBWORDS = tuple(kind for kind in KINDS if kind != "wordlevel")
CORPUS = default_texts("golden")[:60]


@functools.cache
def whole(kind: str) -> str:
    """Return a tokenizer.json of a kind, trained on the project's texts."""
    common: dict[str, Any] = {"special_tokens": SPECIAL, "show_progress": False}
    options = {"vocab_size": 900, "limit_alphabet": 90, **common}  # the texts hold many scripts
    made: dict[str, Callable[[], tuple[Any, Any, Any, Any]]] = {
        "wordpiece": lambda: (
            models.WordPiece(unk_token="<unk>"), pre_tokenizers.BertPreTokenizer(), decoders.WordPiece(),
            trainers.WordPieceTrainer(**options),
        ),
        "byte-level": lambda: (
            models.BPE(), pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel(),
            trainers.BpeTrainer(vocab_size=1200, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), **common),
        ),
        "suffix": lambda: (
            models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"), pre_tokenizers.BertPreTokenizer(),
            decoders.BPEDecoder(), trainers.BpeTrainer(end_of_word_suffix="</w>", **options),
        ),
        "prefix": lambda: (
            models.BPE(unk_token="<unk>", continuing_subword_prefix="##"), pre_tokenizers.BertPreTokenizer(),
            decoders.WordPiece(), trainers.BpeTrainer(continuing_subword_prefix="##", **options),
        ),
        "unigram": lambda: (
            models.Unigram(), pre_tokenizers.Metaspace(), decoders.Metaspace(),
            trainers.UnigramTrainer(vocab_size=1200, unk_token="<unk>", **common),
        ),
        "wordlevel": lambda: (
            models.WordLevel(unk_token="<unk>"), pre_tokenizers.BertPreTokenizer(), decoders.WordPiece(),
            trainers.WordLevelTrainer(vocab_size=900, **common),
        ),
    }  # fmt: skip
    if kind == "byte-fallback":
        return _with_bytes(whole("unigram"))
    model, cut, decoder, trainer = made[kind]()
    tokenizer = Tokenizer(model)
    tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.decoder = normalizers.NFC(), cut, decoder
    tokenizer.train_from_iterator(default_texts("golden") + default_texts("calibration"), trainer)
    start, end = (tokenizer.token_to_id(token) for token in ("<s>", "</s>"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B:1 </s>:1", special_tokens=[("<s>", start), ("</s>", end)]
    )
    return str(tokenizer.to_str())


def _with_bytes(tokenizer: str) -> str:
    """Return a Unigram tokenizer that cuts unknown characters into bytes, as Llama's and T5's do."""
    data = json.loads(tokenizer)
    data["model"]["vocab"] += [[f"<0x{byte:02X}>", -20.0] for byte in range(256)]
    data["model"]["byte_fallback"] = True
    return json.dumps(data)


def made_for(kind: str, texts: list[str]) -> Trimmed:
    return trim(whole(kind), used_ids(whole(kind), texts))


words = st.sampled_from([word for text in default_texts("golden") for word in text.split()])
lines = st.lists(st.one_of(words, st.text(max_size=8)), max_size=8).map(" ".join)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(texts=st.lists(lines, min_size=1, max_size=6), unseen=lines)
def test_given_texts_keep_their_pieces_and_any_other_runs(kind: str, texts: list[str], unseen: str) -> None:
    trimmed = made_for(kind, texts)
    ensure_same_pieces(whole(kind), trimmed, texts)
    encoding = Tokenizer.from_str(trimmed.tokenizer).encode(unseen)
    assert all(0 <= i < len(trimmed.kept) for i in encoding.ids)
    assert encoding.tokens[0] == "<s>"
    assert encoding.tokens[-1] == "</s>"


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_smaller_and_numbered_densely_in_the_old_order(kind: str) -> None:
    trimmed = made_for(kind, CORPUS)
    before, after = Tokenizer.from_str(whole(kind)), Tokenizer.from_str(trimmed.tokenizer)
    vocabulary = after.get_vocab(with_added_tokens=True)
    assert sorted(vocabulary.values()) == list(range(len(trimmed.kept)))
    assert len(vocabulary) < before.get_vocab_size()
    assert list(trimmed.kept) == sorted(trimmed.kept)
    assert all(before.id_to_token(old) == after.id_to_token(new) for old, new in trimmed.numbers.items())
    assert trim(trimmed.tokenizer, used_ids(trimmed.tokenizer, CORPUS)).kept == tuple(range(len(trimmed.kept)))


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_stay_what_they_are(kind: str) -> None:
    trimmed = made_for(kind, CORPUS)
    after = Tokenizer.from_str(trimmed.tokenizer)
    assert [after.token_to_id(token) for token in SPECIAL] == [trimmed.numbers[i] for i in range(len(SPECIAL))]
    assert "<mask>" in after.encode("the <mask> is on").tokens
    pair = after.encode("one", "two")
    assert [pair.tokens[i] for i, special in enumerate(pair.special_tokens_mask) if special] == ["<s>", "</s>", "</s>"]
    assert (pair.type_ids[0], pair.type_ids[-1]) == (0, 1)


@pytest.mark.parametrize("kind", ["byte-level", "byte-fallback"])
@settings(max_examples=60, deadline=None)
@given(unseen=st.text(max_size=40))
def test_bytes_lose_nothing_of_a_text_that_was_never_seen(kind: str, unseen: str) -> None:
    trimmed = Tokenizer.from_str(made_for(kind, ["one line"]).tokenizer)
    assert "<unk>" in unseen or "<unk>" not in trimmed.encode(unseen).tokens
    if kind == "byte-level":
        text = normalizers.NFC().normalize_str(unseen)
        assert trimmed.decode(trimmed.encode(text).ids, skip_special_tokens=False) == f"<s>{text}</s>"


@pytest.mark.parametrize("kind", SUBWORDS)
def test_unseen_words_become_smaller_pieces_and_not_unknown(kind: str) -> None:
    trimmed = Tokenizer.from_str(made_for(kind, ["one line"]).tokenizer)
    text = "marvellous sandwiches, kitchen drawers"
    encoding = trimmed.encode(text)
    assert "<unk>" not in encoding.tokens
    assert len(encoding.ids) > len(Tokenizer.from_str(whole(kind)).encode(text).ids)


def whole_word(kind: str, trimmed: Trimmed) -> str:
    """Return a piece that is merged of several and that the corpus uses."""
    encoder = Tokenizer.from_str(trimmed.tokenizer)
    used = {token for text in CORPUS for token in encoder.encode(text).tokens} - set(SPECIAL)
    return max(used, key=lambda piece: (len(piece), piece))


@pytest.mark.parametrize("kind", KINDS)
def test_a_used_piece_that_was_dropped_is_caught(kind: str) -> None:
    trimmed = made_for(kind, CORPUS)
    piece = whole_word(kind, trimmed)
    data = json.loads(trimmed.tokenizer)
    model = data["model"]
    if isinstance(model["vocab"], list):
        model["vocab"] = [["☃☃" if name == piece else name, score] for name, score in model["vocab"]]
    else:
        model["vocab"]["☃☃"] = model["vocab"].pop(piece)
    if "merges" in model:
        model["merges"] = [pair for pair in model["merges"] if piece not in (*pair, result_of(pair))]
    with pytest.raises(EdgellmError, match=r"other pieces than the whole one"):
        ensure_same_pieces(whole(kind), Trimmed(json.dumps(data), trimmed.kept), CORPUS)


def result_of(pair: list[str]) -> str:
    return pair[0] + pair[1].removeprefix("##")


@pytest.mark.parametrize("kind", ["byte-level", "suffix", "prefix"])
def test_a_merge_that_misses_is_caught(kind: str) -> None:
    trimmed = made_for(kind, CORPUS)
    piece = whole_word(kind, trimmed)
    data = json.loads(trimmed.tokenizer)
    merges = data["model"]["merges"]
    data["model"]["merges"] = [pair for pair in merges if result_of(pair) != piece]
    assert len(data["model"]["merges"]) < len(merges)
    with pytest.raises(EdgellmError, match=r"other pieces than the whole one"):
        ensure_same_pieces(whole(kind), Trimmed(json.dumps(data), trimmed.kept), CORPUS)


@pytest.mark.parametrize("kind", ["byte-level", "suffix", "prefix"])
def test_every_step_on_the_way_to_a_used_piece_stays(kind: str) -> None:
    """Of one used piece, no step is itself used; without them it could not be merged."""
    piece = whole_word(kind, made_for(kind, CORPUS))
    text = piece.replace("Ġ", " ").replace("</w>", "").replace("##", "")
    trimmed = made_for(kind, [text])
    assert (
        Tokenizer.from_str(whole(kind)).encode(text).tokens == Tokenizer.from_str(trimmed.tokenizer).encode(text).tokens
    )
    assert len(json.loads(trimmed.tokenizer)["model"]["merges"]) > 1


def test_ids_in_another_order_are_caught() -> None:
    trimmed = made_for("wordpiece", CORPUS)
    swapped = (*trimmed.kept[:-2], trimmed.kept[-1], trimmed.kept[-2])
    with pytest.raises(EdgellmError, match=r"other pieces"):
        ensure_same_pieces(whole("wordpiece"), Trimmed(trimmed.tokenizer, swapped), CORPUS)


def test_what_an_unknown_character_costs_stays_the_same() -> None:
    """Unigram counts it from the lowest score of all pieces, used or not."""
    pieces = [("<unk>", 0.0), ("▁", -1.0), ("b", -15.0), ("ab", -1.0), ("xa", -15.0), ("rare", -30.0)]
    tokenizer = Tokenizer(models.Unigram(pieces, 0, False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    text = str(tokenizer.to_str())
    trimmed = trim(text, used_ids(text, ["xab", "ab"]))
    ensure_same_pieces(text, trimmed, ["xab", "ab"])
    data = json.loads(trimmed.tokenizer)
    data["model"]["vocab"] = [item for item in data["model"]["vocab"] if item[0] != "rare"]
    with pytest.raises(EdgellmError, match=r"other pieces"):
        ensure_same_pieces(text, Trimmed(json.dumps(data), trimmed.kept), ["xab", "ab"])


def test_text_that_the_source_lower_cases_is_counted_as_it_is_read() -> None:
    own = whole("wordpiece")
    shipped = as_shipped(own, lowercase=True)
    trimmed = trim(own, used_ids(shipped, ["THE ROAD"]))
    ensure_same_pieces(shipped, Trimmed(as_shipped(trimmed.tokenizer, lowercase=True), trimmed.kept), ["THE ROAD"])
    assert Tokenizer.from_str(trimmed.tokenizer).token_to_id("the") is not None


def test_golden_texts_that_change_are_counted() -> None:
    trimmed = made_for("wordpiece", CORPUS)
    assert count_changed(whole("wordpiece"), trimmed, CORPUS) == 0
    others = default_texts("golden")[60:]
    assert 0 < count_changed(whole("wordpiece"), trimmed, others) <= len(others)


@pytest.mark.parametrize("processor", [processors.RobertaProcessing, processors.BertProcessing])
def test_older_post_processors_follow(processor: Any) -> None:
    tokenizer = Tokenizer.from_str(whole("byte-level"))
    last = tokenizer.get_vocab_size() - 1
    piece = tokenizer.id_to_token(last)
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(), processor(("<s>", 1), (piece, last))][::-1])
    trimmed = trim(tokenizer.to_str(), used_ids(tokenizer.to_str(), ["the kettle"]))
    ensure_same_pieces(tokenizer.to_str(), trimmed, ["the kettle"])
    assert last in trimmed.kept


def test_a_tokenizer_that_adds_ids_without_a_piece_is_refused() -> None:
    data = json.loads(whole("wordpiece"))
    data["post_processor"]["special_tokens"]["<s>"]["ids"] = [99_999]
    with pytest.raises(InputError, match=r"ids to texts that it has no piece for"):
        trim(json.dumps(data), {7})


def test_a_type_without_a_rule_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(vocabulary_needs(), "WordPiece")
    with pytest.raises(InputError, match=r"type WordPiece can't be trimmed; BPE, Unigram, WordLevel can"):
        trim(whole("wordpiece"), {7})


def vocabulary_needs() -> dict[str, object]:
    from edgellm.stages import pieces

    return pieces.NEEDS  # type: ignore[return-value]


def test_configurations_follow() -> None:
    config = {
        "vocab_size": 100, "pad_token_id": 7, "bos_token_id": None, "eos_token_id": [7, 9], "sep_token_id": 50_256,
        "mask_token_id": 11, "hidden_size": 7, "text_config": {"cls_token_id": 9},
        "added_tokens_decoder": {"9": {"content": "<s>", "special": True}}, "is_decoder": False,
    }  # fmt: skip
    assert named_ids(json.dumps(config)) == {7, 9, 11, 50_256}
    followed = json.loads(follow(json.dumps(config), {7: 0, 9: 1}, 100))
    assert followed == {
        **config, "vocab_size": 2, "pad_token_id": 0, "eos_token_id": [0, 1], "mask_token_id": None,
        "text_config": {"cls_token_id": 1}, "added_tokens_decoder": {"1": {"content": "<s>", "special": True}},
    }  # fmt: skip
