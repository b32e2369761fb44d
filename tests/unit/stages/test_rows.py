"""Labelled data of every kind: what was written is read back, and whatever else is refused by file and line."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from edgellm.errors import InputError
from edgellm.stages.rows import read_placed, read_rows

FUZZ = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
IN_TSV = st.text(st.characters(exclude_characters="\t\n\r", exclude_categories=["Cs"]), min_size=1, max_size=12)
NAME = IN_TSV.filter(lambda name: name.strip() and not name.startswith("\ufeff"))


def tables(name: st.SearchStrategy[str], value: st.SearchStrategy[Any]) -> st.SearchStrategy[list[dict[str, Any]]]:
    """Return rows that all have the same columns, and at least one of each."""
    columns = st.lists(name, min_size=1, max_size=4, unique=True)
    return columns.flatmap(
        lambda names: st.lists(st.fixed_dictionaries(dict.fromkeys(names, value)), min_size=1, max_size=4)
    )


@FUZZ
@given(rows=tables(NAME, IN_TSV), bom=st.booleans(), end=st.sampled_from(["\n", "\r\n"]), last=st.booleans())
@example(rows=[{"text": '"No', "label": "a, b"}], bom=False, end="\n", last=True)
@example(rows=[{"text": "\u2028\x0b\x1c", "label": "\x85"}], bom=True, end="\r\n", last=False)
def test_tsv_comes_back_as_it_was_written(
    tmp_path: Path, rows: list[dict[str, str]], bom: bool, end: str, last: bool
) -> None:
    path = tmp_path / "rows.tsv"
    lines = ["\t".join(rows[0]), *("\t".join(row[name] for name in rows[0]) for row in rows)]
    path.write_bytes((end.join(lines) + end * last).encode("utf-8-sig" if bom else "utf-8"))
    assert read_rows(path) == rows


STYLES = [("\n", csv.QUOTE_ALL), ("\r\n", csv.QUOTE_ALL), ("\r\n", csv.QUOTE_MINIMAL)]


@FUZZ
@given(rows=tables(NAME, TEXT), bom=st.booleans(), style=st.sampled_from(STYLES))
@example(rows=[{"text": 'She said "no",\r\nand\rleft.\n', "label": ""}], bom=True, style=("\r\n", csv.QUOTE_MINIMAL))
def test_csv_comes_back_as_it_was_written(
    tmp_path: Path, rows: list[dict[str, str]], bom: bool, style: tuple[str, Any]
) -> None:
    path = tmp_path / "rows.CSV"
    content = io.StringIO(newline="")
    writer = csv.DictWriter(content, list(rows[0]), lineterminator=style[0], quoting=style[1])
    writer.writeheader()
    writer.writerows(rows)
    path.write_bytes(content.getvalue().encode("utf-8-sig" if bom else "utf-8"))
    assert read_rows(path) == rows


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda child: st.lists(child, max_size=3) | st.dictionaries(TEXT, child, max_size=3),
    max_leaves=6,
)


@FUZZ
@given(rows=st.lists(st.dictionaries(TEXT, JSON, max_size=4), min_size=1, max_size=4), ascii=st.booleans())
@pytest.mark.parametrize("suffix", ["jsonl", "ndjson"])
def test_json_lines_come_back_as_they_were_written(
    tmp_path: Path, rows: list[dict[str, Any]], ascii: bool, suffix: str
) -> None:
    path = tmp_path / f"rows.{suffix}"
    path.write_text("\n".join(json.dumps(row, ensure_ascii=ascii) for row in rows), encoding="utf-8-sig")
    assert read_rows(path) == rows


PIECES = st.lists(
    st.sampled_from(
        [
            "text",
            "label",
            "\t",
            ",",
            '"',
            "\n",
            "\r",
            "\0",
            "\ufeff",
            "{",
            "}",
            ":",
            "[",
            "]",
            "1e999",
            "NaN",
            "\\ud800",
            " ",
            "{}\n",
        ]
    )
)


@FUZZ
@given(data=st.binary(max_size=60) | PIECES.map("".join).map(str.encode))
@example(data=b"[" * 100_000)
@example(data=b'{"a": ' + b"1" * 10_000 + b"}")
@example(data=b'{"\\ud800": 1}')
@example(data=b"text\tlabel\na\rb\tx\n")
@example(data=b'text\tlabel\n"a\tx\n')
@example(data=b"text\tlabel\n\0\tx\n")
@pytest.mark.parametrize("suffix", ["tsv", "csv", "jsonl"])
def test_any_file_is_read_or_refused(tmp_path: Path, data: bytes, suffix: str) -> None:
    path = tmp_path / f"rows.{suffix}"
    path.write_bytes(data)
    try:
        placed = read_placed(path)
    except InputError as error:
        refusal = str(error)
        assert str(path) in refusal
    else:
        assert placed
        assert [row for _, row in placed] == read_rows(path)
        json.dumps([row for _, row in placed], allow_nan=False, ensure_ascii=False).encode()


@pytest.mark.parametrize(
    ("suffix", "write"),
    [
        ("tsv", "text\tlabel\n{}\tx\n"),
        ("csv", "text,label\n{},x\n"),
        ("csv", 'text,label\n"{}",x\n'),
        ("jsonl", '{{"text": "{}", "label": "x"}}'),
    ],
)
def test_a_long_text_is_no_trouble(tmp_path: Path, suffix: str, write: str) -> None:
    limit = csv.field_size_limit()
    path = tmp_path / f"rows.{suffix}"
    path.write_text(write.format("word " * 100_000))
    assert read_rows(path) == [{"text": "word " * 100_000, "label": "x"}]
    assert csv.field_size_limit() == limit


@pytest.mark.parametrize(
    ("suffix", "data", "message"),
    [
        ("tsv", b"", "line 1 is no header: it names no column"),
        ("tsv", b"\ntext\tlabel\na\tb\n", "line 1 is no header"),
        ("tsv", b"text\tlabel\n\n", "holds no row below its header"),
        ("tsv", b"text\tlabel\n\na\n", "line 3 has 1 columns, the header 2"),
        ("tsv", b"text\tlabel\ttext\na\tb\tc\n", "line 1 names the column 'text' twice"),
        ("tsv", b"text\tlabel\na\tb\nc\xff\td", "is not UTF-8: byte 16 does not decode (line 3)"),
        ("csv", b"", "line 1 is no header"),
        ("csv", b",\na,b\n", "line 1 is no header"),
        ("csv", b"text,label\n", "holds no row below its header"),
        ("csv", b'text,label\n"a\nb",c\nd\n', "line 4 has 1 columns, the header 2"),
        ("csv", b"text,label,label\n", "line 1 names the column 'label' twice"),
        ("csv", b'text,label\na,b\n"c,d\ne,f\n', "line 3 is no CSV: unexpected end of data"),
        ("csv", b'text,label\n"a"b,c\n', "line 2 is no CSV: ',' expected after '\"'"),
        ("csv", b"text,label\ra,b\r", "line 1 is no CSV: a carriage return stands alone, outside quotes."),
        ("csv", b"text,label\na,\xe9\n", "is not UTF-8: byte 13 does not decode (line 2)"),
        ("jsonl", b"\n \n", "holds no row."),
        ("jsonl", b'{"text": 1}\n["a"]\n', "line 2 is no JSON object"),
        ("jsonl", b'{"text": 1}\n\n{"text": }\n', "line 3 is no JSON: Expecting value, at character 10"),
        ("jsonl", b'{"text": NaN}\n', "line 1 can't be read: NaN is no number"),
        ("jsonl", b'{"text": [-Infinity]}\n', "line 1 can't be read: -Infinity is no number"),
        ("jsonl", b'{"text": 1e999}\n', "line 1 can't be read: 1e999 is too large a number"),
        ("jsonl", b'{"a": {"b": 1, "b": 2}}\n', "line 1 can't be read: it names 'b' twice"),
        ("jsonl", b'{"text": "\\ud83d"}\n', "line 1 has half of a surrogate pair"),
        ("jsonl", b'{"text": "a"}\n{"text": "\xff"}\n', "is not UTF-8: byte 24 does not decode (line 2)"),
        (
            "txt",
            b"text\tlabel\na\tb\n",
            "is of no kind that labelled data is read from. It takes a .tsv, .csv, .jsonl or",
        ),
        ("json", b"[]", "is of no kind"),
    ],
)
def test_a_wrong_file_says_what_is_wrong_in_which_line(tmp_path: Path, suffix: str, data: bytes, message: str) -> None:
    path = tmp_path / f"rows.{suffix}"
    path.write_bytes(data)
    with pytest.raises(InputError) as caught:
        read_rows(path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("suffix", "data", "message"),
    [
        ("tsv", b"", "lacks the columns text and label; it has nothing"),
        ("tsv", b"a film\tgood\n", "lacks the columns text and label; it has a film, good"),
        ("tsv", b"text,label\na,b\n", "lacks the columns text and label; it has text,label. It is tab-separated"),
        ("tsv", b"Text\tLabel\na\tb\n", "lacks the columns"),
        ("tsv", b"text\tlabel\na\tb\tc\n", "line 2 has 3 columns, the header 2"),
        ("tsv", "text\tlabel\na\tb\n".encode("utf-16"), "is not UTF-8"),
        ("csv", b"text\tlabel\na\tb\n", "lacks the columns text and label; it has text\tlabel. It is comma-separated"),
        ("csv", b"", "lacks the columns text and label; it has nothing"),
    ],
)
def test_a_table_without_the_columns_says_which_it_has(tmp_path: Path, suffix: str, data: bytes, message: str) -> None:
    path = tmp_path / f"rows.{suffix}"
    path.write_bytes(data)
    with pytest.raises(InputError) as caught:
        read_placed(path, ("text", "label"))
    assert message in str(caught.value)


def test_columns_that_are_asked_for_are_in_every_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a", "label": "x"}\n\n{"text": "b", "lable": "y"}\n')
    assert [place for place, _ in read_placed(path, ("text",))] == ["line 1", "line 3"]
    with pytest.raises(InputError, match="line 3 lacks label; it has text, lable"):
        read_placed(path, ("text", "label"))


def test_a_place_is_where_a_row_begins(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b'text\r\n\r\n"a\r\nb"\r\nc\r\n')
    assert read_placed(path) == [("line 3", {"text": "a\r\nb"}), ("line 5", {"text": "c"})]


@pytest.mark.parametrize("where", ["gone.tsv", "gone.csv", "gone.jsonl", "."])
def test_what_can_not_be_read_is_an_input_error(tmp_path: Path, where: str) -> None:
    with pytest.raises(InputError, match="can't be read"):
        read_rows(tmp_path / where)


# Datasets on disk


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that saves columns as a dataset."""
    import datasets

    datasets.disable_progress_bars()

    def saved(columns: dict[str, list[Any]], features: dict[str, Any] | None = None, name: str = "saved") -> Path:
        kinds = None if features is None else datasets.Features(features)
        datasets.Dataset.from_dict(columns, features=kinds).save_to_disk(str(tmp_path / name))
        return tmp_path / name

    return saved


@settings(FUZZ, max_examples=25)
@given(
    rows=st.lists(
        st.fixed_dictionaries(
            {
                "text": TEXT,
                "n": st.none() | st.integers(-(2**63), 2**63 - 1),
                "score": st.floats(allow_nan=False, allow_infinity=False),
                "yes": st.booleans(),
                "words": st.lists(TEXT, max_size=3),
                "answers": st.fixed_dictionaries({"text": st.lists(TEXT, max_size=2), "start": st.integers(0, 99)}),
            }
        ),
        min_size=1,
        max_size=4,
    ),
    number=st.integers(0, 2**32),
)
def test_a_dataset_comes_back_as_it_was_saved(
    save: Callable[..., Path], rows: list[dict[str, Any]], number: int
) -> None:
    from datasets import List, Value

    features = {
        "text": Value("string"), "n": Value("int64"), "score": Value("float64"), "yes": Value("bool"),
        "words": List(Value("string")), "answers": {"text": List(Value("string")), "start": Value("int32")},
    }  # fmt: skip
    folder = save({name: [row[name] for row in rows] for name in features}, features, f"saved-{number}")
    assert read_rows(folder) == rows
    assert read_placed(folder)[-1][0] == f"row {len(rows)}"


def test_class_labels_become_their_names(save: Callable[..., Path]) -> None:
    from datasets import ClassLabel, LargeList, List, Value

    tags = ClassLabel(names=["O", "B-LOC"])
    folder = save(
        {"text": ["a", "b"], "label": [1, None], "tags": [[0, 1], []], "deep": [{"x": [[1]]}, {"x": []}]},
        {
            "text": Value("large_string"), "label": ClassLabel(names=["bad", "good"]), "tags": List(tags),
            "deep": {"x": List(LargeList(tags))},
        },
    )  # fmt: skip
    assert read_rows(folder) == [
        {"text": "a", "label": "good", "tags": ["O", "B-LOC"], "deep": {"x": [["B-LOC"]]}},
        {"text": "b", "label": None, "tags": [], "deep": {"x": []}},
    ]


def test_a_label_that_has_no_name_is_refused(save: Callable[..., Path]) -> None:
    from datasets import ClassLabel

    folder = save({"label": [0, -1]}, {"label": ClassLabel(names=["bad", "good"])})
    with pytest.raises(InputError, match="row 2, column label: Invalid integer class label -1"):
        read_rows(folder)


def test_values_that_json_has_not_are_refused(save: Callable[..., Path]) -> None:
    from datasets import Image, Value

    with pytest.raises(InputError, match="row 2, column score: nan is no number"):
        read_rows(save({"score": [1.0, float("nan")]}, name="nan"))
    with pytest.raises(InputError, match="row 1, column raw: a bytes is neither"):
        read_rows(save({"raw": [b"x"]}, {"raw": Value("binary")}, name="bytes"))
    with pytest.raises(InputError, match=r"column picture is of kind Image; .*remove_columns\(\[\"picture\"\]\)"):
        read_rows(save({"picture": [None]}, {"picture": Image()}, name="image"))


def test_a_format_that_was_saved_with_a_dataset_is_passed_over(tmp_path: Path) -> None:
    from datasets import Dataset

    Dataset.from_dict({"n": [1, 2]}).with_format("numpy").save_to_disk(str(tmp_path / "saved"))
    assert read_rows(tmp_path / "saved") == [{"n": 1}, {"n": 2}]


def test_of_several_splits_one_is_to_be_named(save: Callable[..., Path], tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    part = Dataset.from_dict({"text": ["a"]})
    DatasetDict({"validation": part, "test": part}).save_to_disk(str(tmp_path / "both"))
    with pytest.raises(InputError) as caught:
        read_rows(tmp_path / "both")
    assert f"has 2 splits: test, validation. Name one, for example {tmp_path / 'both' / 'test'}" in str(caught.value)
    assert read_rows(tmp_path / "both" / "test") == [{"text": "a"}]
    DatasetDict({"test": part}).save_to_disk(str(tmp_path / "one"))
    assert read_rows(tmp_path / "one") == [{"text": "a"}]


@pytest.mark.parametrize(
    "content", ["", "{}", '{"splits": 1}', '{"splits": []}', '{"splits": [[]]}', '{"splits": ["../x"]}', "[" * 99_999]
)
def test_a_damaged_list_of_splits_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "dataset_dict.json").write_text(content)
    with pytest.raises(InputError, match=r"can't be read|splits"):
        read_rows(tmp_path)


def test_an_empty_dataset_is_refused(save: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match="holds no row"):
        read_rows(save({"text": []}))


@settings(FUZZ, max_examples=60)
@given(data=st.data())
def test_a_damaged_dataset_is_read_or_refused(save: Callable[..., Path], data: st.DataObject) -> None:
    folder = save({"text": ["It hums.", "", "It's fine."], "n": [1, 2, 3], "words": [["a"], [], ["b", "c"]]})
    path = data.draw(st.sampled_from(sorted(folder.iterdir())))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.sampled_from([len(content), len(content) // 2]))])
    try:
        rows = read_rows(folder)
    except InputError:
        return
    assert rows


def test_without_the_package_the_message_says_what_to_install(
    save: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgellm.errors import MissingDependencyError

    folder = save({"text": ["a"]})
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingDependencyError, match=r"needs datasets. Install it with: pip install 'edgellm\[eval\]'"):
        read_rows(folder)
