"""Rows of samples/finetune: what is wrong with a file is said by line, and tags reach the tokens that are scored."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgellm.errors import InputError
from tests.tiny import tiny_tokenizer

GOOD = '{"text": "a film", "label": "good"}'
TAGGED = '{"tokens": ["7", "Main"], "tags": ["number", "street"]}'
WRONG = {
    "no_label": (GOOD, '{"text": "a film"}', "has no label"),
    "number": (GOOD, '{"text": "a film", "label": 1}', "has no label, or one that is no text"),
    "empty_label": (GOOD, '{"text": "a film", "label": " "}', "has an empty label"),
    "empty_text": (GOOD, '{"text": "", "label": "good"}', "has an empty text"),
    "no_tags": (TAGGED, '{"tokens": ["7"]}', "has no tags"),
    "no_list": (TAGGED, '{"tokens": "7 Main", "tags": ["number", "street"]}', "has no tokens, or they are no list"),
    "no_words": (TAGGED, '{"tokens": [], "tags": []}', "has no tokens"),
    "empty_word": (TAGGED, '{"tokens": ["7", " "], "tags": ["number", "street"]}', "has an empty item of tokens"),
    "number_as_tag": (TAGGED, '{"tokens": ["7"], "tags": [7]}', "has no item of tags, or one that is no text"),
    "lengths": (TAGGED, '{"tokens": ["7", "Main"], "tags": ["number"]}', "has 2 tokens and 1 tags"),
    "kinds": (GOOD, TAGGED, "is of another kind than the first"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_row_that_can_t_be_used_is_refused_by_its_line(rows: ModuleType, tmp_path: Path, name: str) -> None:
    first, wrong, words = WRONG[name]
    (tmp_path / "test.jsonl").write_text(f"{first}\n\n{first}\n{wrong}\n")
    with pytest.raises(InputError, match=rf"test\.jsonl line 4 {words}"):
        rows.read(tmp_path / "test.jsonl")


def test_describes_labels_and_tags(rows: ModuleType) -> None:
    assert rows.describe([rows.Labelled("a", "spam"), rows.Labelled("b", "ham"), rows.Labelled("c", "spam")]) == (
        "1 ham, 2 spam"
    )
    assert rows.describe([rows.Tagged(("7", "Main"), ("x", "y")), rows.Tagged(("8",), ("x",))]) == "3 words, 2 tags"
    assert rows.describe([]) == ""


def test_the_first_token_of_a_word_has_its_tag(rows: ModuleType) -> None:
    row = rows.Tagged(("\u200b", "7th", "boots,", "\x00", "Main"), ("a", "b", "c", "d", "e"))
    encoded = tiny_tokenizer().encode(row.text)
    tags = rows.tag_tokens(row, encoded.offsets)
    assert list(zip(encoded.tokens, tags, strict=True)) == [
        ("[CLS]", None), ("7", "b"), ("##t", None), ("##h", None), ("boots", "c"), (",", None), ("m", "e"),
        ("##a", None), ("##i", None), ("##n", None), ("[SEP]", None),
    ]  # fmt: skip
    # A text that is cut has tags as far as it goes.
    assert rows.tag_tokens(row, [*encoded.offsets[:3], (0, 0)]) == [None, "b", None, None]
    # Some tokenizers count the space before a word in; and one token of two words has the tag of the first.
    assert rows.tag_tokens(rows.Tagged(("a", "b"), ("x", "y")), [(0, 1), (1, 3)]) == ["x", "y"]
    assert rows.tag_tokens(rows.Tagged(("a", "b"), ("x", "y")), [(0, 3), (0, 0)]) == ["x", None]


@given(st.lists(st.text(st.sampled_from("abc7éß,.½"), min_size=1, max_size=6), min_size=1, max_size=12))
def test_every_word_has_one_token_with_its_tag(rows: ModuleType, words: list[str]) -> None:
    row = rows.Tagged(tuple(words), tuple(f"tag {i}" for i in range(len(words))))
    encoded = tiny_tokenizer().encode(row.text)
    tags = rows.tag_tokens(row, encoded.offsets)
    assert [tag for tag in tags if tag] == list(row.tags)
    for tag, (start, end) in zip(tags, encoded.offsets, strict=True):
        if tag:
            word = words[int(tag.split()[1])]
            assert word.startswith(row.text[start:end]) or row.text[start:end].startswith(word)
