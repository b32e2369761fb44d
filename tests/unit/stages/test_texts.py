"""Texts of a build: files that people hand in, and the promise that no text serves two purposes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from edgellm.errors import InputError
from edgellm.stages.texts import ensure_disjoint, read_calibration, read_labelled
from edgellm.texts import default_texts

FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FUZZ
@given(
    data=st.binary(max_size=60) | st.text(st.sampled_from('text\tlabel\r\n"a\0 ,\ufeff'), max_size=60).map(str.encode)
)
@example(data=b"text\tlabel\na\rb\tx\n")
@example(data=b"text\tlabel\n" + b"a" * 200_000 + b"\tx\n")
@example(data=b'text\tlabel\n"a\tx\n')
@example(data=b"text\tlabel\n\0\tx\n")
def test_any_evaluation_file_is_read_or_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "eval.tsv"
    path.write_bytes(data)
    try:
        rows = read_labelled(path)
    except InputError:
        return
    assert rows
    for row in rows:
        text, label = str(row["text"]), str(row["label"])
        assert text.strip()
        assert label.strip()
        assert text in data.decode("utf-8-sig")


FIELD = st.text(st.characters(exclude_characters="\t\n\r", exclude_categories=["Cs"]), min_size=1, max_size=20)


@FUZZ
@given(rows=st.lists(st.tuples(FIELD, FIELD).filter(lambda r: r[0].strip() and r[1].strip()), min_size=1, max_size=5))
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_texts_come_back_as_they_were_written(tmp_path: Path, rows: list[tuple[str, str]], end: str) -> None:
    path = tmp_path / "eval.tsv"
    path.write_text(end.join(["id\tlabel\ttext", *(f"7\t{label}\t{text}" for text, label in rows)]), newline="")
    assert read_labelled(path) == [{"id": "7", "label": label, "text": text} for text, label in rows]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "lacks the columns text and label; it has nothing"),
        (b"a film\tgood\n", "lacks the columns text and label; it has a film, good"),
        (b"text,label\na,b\n", "lacks the columns text and label; it has text,label"),
        (b"Text\tLabel\na\tb\n", "lacks the columns"),
        (b"text\tlabel\n", "holds no row below its header"),
        (b"text\tlabel\n\n\n", "holds no row below its header"),
        (b"text\tlabel\na\tb\nc\n", "line 3 has 1 columns, the header 2"),
        (b"text\tlabel\na\tb\tc\n", "line 2 has 3 columns, the header 2"),
        (b"text\tlabel\na\t \n", "line 2 has an empty text or label"),
        (b"text\tlabel\n \tx\n", "line 2 has an empty text or label"),
        ("text\tlabel\nGröße\tb\n".encode("latin-1"), "is not UTF-8: byte 13 does not decode"),
        ("text\tlabel\na\tb\n".encode("utf-16"), "is not UTF-8"),
    ],
)
def test_a_wrong_evaluation_file_says_what_is_wrong(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "eval.tsv"
    path.write_bytes(data)
    with pytest.raises(InputError) as caught:
        read_labelled(path)
    assert message in str(caught.value)


@pytest.mark.parametrize("where", ["gone.tsv", "."])
@pytest.mark.parametrize("read", [read_labelled, read_calibration])
def test_a_file_that_can_not_be_read_is_an_input_error(tmp_path: Path, where: str, read: object) -> None:
    with pytest.raises(InputError, match="can't be read"):
        read(tmp_path / where)  # type: ignore[operator]


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
