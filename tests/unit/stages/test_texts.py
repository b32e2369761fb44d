"""Texts of a build: files that people hand in, and the promise that no text serves two purposes."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgellm.errors import InputError
from edgellm.stages.texts import ensure_disjoint, read_calibration
from edgellm.texts import default_texts


@pytest.mark.parametrize("where", ["gone.txt", "."])
def test_a_file_that_can_not_be_read_is_an_input_error(tmp_path: Path, where: str) -> None:
    with pytest.raises(InputError, match="can't be read"):
        read_calibration(tmp_path / where)


@pytest.mark.parametrize(
    ("data", "texts"),
    [
        (b"one\ntwo\n", ["one", "two"]),
        (b"\xef\xbb\xbfone\r\n\r\n  two  ", ["one", "two"]),
        ("a\u2028b\x0bc\n".encode(), ["a\u2028b\x0bc"]),  # only a newline ends a text
    ],
)
def test_calibration_texts_are_lines(tmp_path: Path, data: bytes, texts: list[str]) -> None:
    path = tmp_path / "calibration.txt"
    path.write_bytes(data)
    assert read_calibration(path) == texts


@pytest.mark.parametrize(
    ("data", "message"), [(b"", "holds no text"), (b" \n\t\n", "holds no text"), (b"\xff", "not UTF-8")]
)
def test_a_wrong_calibration_file_says_what_is_wrong(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "calibration.txt"
    path.write_bytes(data)
    with pytest.raises(InputError, match=message):
        read_calibration(path)


@pytest.mark.parametrize("twin", ["The kettle is on.", "the  KETTLE is on. ", "\tthe kettle\u00a0is on."])
def test_a_text_in_two_sets_is_refused_and_shown(twin: str) -> None:
    with pytest.raises(InputError) as caught:
        ensure_disjoint(golden=["x", "The kettle is on."], evaluation=["y", twin])
    assert f'The evaluation texts and the golden texts both hold "{twin}"' in str(caught.value)
    assert "Remove it from the evaluation file." in str(caught.value)


def test_different_texts_and_repeats_in_one_set_are_fine() -> None:
    ensure_disjoint(golden=["a", "a", "\ud800"], calibration=["b", ""], evaluation=["c"])


@pytest.mark.parametrize(("name", "least"), [("golden", 256), ("calibration", 64), ("bench", 1)])
def test_the_project_s_own_texts_are_enough_distinct_and_disjoint(name: str, least: int) -> None:
    texts = default_texts(name)
    assert len(texts) >= least
    assert len({" ".join(text.lower().split()) for text in texts}) == len(texts)
    ensure_disjoint(**{each: default_texts(each) for each in ("golden", "calibration", "bench")})


def test_the_golden_texts_vary_in_language_and_length() -> None:
    texts = default_texts("golden")[:96]
    lengths = [len(text.split()) for text in texts]
    assert min(lengths) <= 2
    assert max(lengths) >= 30
    scripts = [(0x0400, 0x04FF), (0x4E00, 0x9FFF), (0x0600, 0x06FF), (0x1F300, 0x1FAFF)]
    for low, high in scripts:
        assert any(low <= ord(c) <= high for text in texts for c in text), hex(low)


@pytest.mark.parametrize(
    ("name", "content", "texts"),
    [
        ("a.txt", "one\n\n two \n", ["one", "two"]),
        ("a.tsv", "text\tlabel\none\tgood\ntwo\tbad\n", ["one", "two"]),
        ("a.csv", 'label,text,text_pair\n1,"one, two",three\n', ["one, two", "three"]),
        ("b.csv", "text,text_pair\none,two\nthree,four\n", ["one", "three", "two", "four"]),
        ("a.jsonl", '{"tokens": ["12", "Main", "St"], "tags": ["a", "b", "c"]}\n', ["12 Main St"]),
        (
            "b.jsonl",
            '{"source_sentence": "one", "sentences": ["two", "three"], "relevance": [1, 0]}\n',
            ["one", "two", "three"],
        ),
    ],
)
def test_calibration_is_lines_or_the_texts_of_labelled_data(
    tmp_path: Path, name: str, content: str, texts: list[str]
) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert read_calibration(tmp_path / name) == texts


def test_rows_without_a_text_calibrate_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n{"said": "two", "text": " "}\n', encoding="utf-8")
    with pytest.raises(InputError, match="line 2 holds no text"):
        read_calibration(tmp_path / "a.jsonl")


def test_a_saved_dataset_calibrates(tmp_path: Path) -> None:
    from datasets import Dataset

    Dataset.from_dict({"text": ["one", "two"], "label": [0, 1]}).save_to_disk(str(tmp_path / "saved"))
    assert read_calibration(tmp_path / "saved") == ["one", "two"]
