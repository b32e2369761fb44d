"""Pairs: what is read, what is refused, and what can't be learned is counted."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgellm.distill.pairs import Pair, encode, open_tokenizers, read_pairs
from edgellm.errors import InputError
from tests.sequences import WORDS, write_tokenizers


def test_pairs_are_read(tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_text("egg\tEH1 G\n\n naïve \t N AA0 IY1 V\r\n", encoding="utf-8")
    assert read_pairs(path) == [Pair("egg", "EH1 G"), Pair("naïve", "N AA0 IY1 V")]


@given(st.lists(st.tuples(*[st.text(st.characters(codec="utf-8", categories=["L", "N"]), min_size=1)] * 2), min_size=1))
def test_what_was_written_is_read(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]) -> None:
    path = tmp_path_factory.mktemp("pairs") / "pairs.tsv"
    path.write_text("".join(f"{text}\t{target}\n" for text, target in rows), encoding="utf-8")
    assert read_pairs(path) == [Pair(*row) for row in rows]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"egg\tEH1 G\nlemon L EH1\n", r"pairs.tsv:2 has 0 tabs: 'lemon L EH1'.*a text, a tab"),
        (b"a\tb\tc\n", r":1 has 2 tabs"),
        (b"\tEH1 G\n", r":1 has an empty text"),
        (b"egg\t \n", r":1 has an empty target"),
        (b"", "holds no pairs"),
        (b"caf\xe9\tK\n", "is not UTF-8: byte 3"),
    ],
)
def test_a_line_that_is_no_pair_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=said):
        read_pairs(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no.tsv can't be read: No such file"):
        read_pairs(tmp_path / "no.tsv")


def test_what_can_not_be_learned_is_left_out_and_counted(tmp_path: Path) -> None:
    tokenizers = open_tokenizers(write_tokenizers(tmp_path))
    pairs = [
        Pair("egg", WORDS["egg"]),
        Pair("x", "EH1 G EH1"),  # three phones in two slots
        Pair("e", "G G"),  # two, and a blank between them
        Pair("é", "G"),
        Pair("egg", "QQ"),
        Pair("abandon" * 4, "G"),
    ]
    found = encode(pairs, tokenizers, slots=2, longest=24, unknown=1)
    assert [len(each["labels"]) for each in found.examples] == [2]
    assert (found.too_long, found.cut, found.unknown) == (2, 1, 2)
    said = found.left_out()
    assert said.startswith(
        "Left out: 2 whose output needs more slots than its input has, 1 longer than the model takes, 2 "
    )
    assert "'x' -> 'EH1 G EH1'" in said
    assert encode(pairs[:1], tokenizers, slots=2, longest=24, unknown=1).left_out() == ""


def test_tokenizers_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    write_tokenizers(tmp_path)
    target = tmp_path / "target_tokenizer.json"
    target.write_text(target.read_text().replace('"AA1"', '"ZZ9"'))
    with pytest.raises(InputError, match="different vocabularies"):
        open_tokenizers(tmp_path)
    target.write_text("{")
    with pytest.raises(InputError, match=r"target_tokenizer\.json is no tokenizer"):
        open_tokenizers(tmp_path)
    target.unlink()
    read, write = open_tokenizers(tmp_path)
    assert read.get_vocab() == write.get_vocab()
