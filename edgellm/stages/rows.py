"""Rows: labelled data from a TSV, CSV or JSON Lines file, or a Hugging Face dataset on disk, refused by file and line."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path

from edgellm.errors import InputError
from edgellm.stages.saved import read_saved

KINDS = "a .tsv, .csv, .jsonl or .ndjson file, or a folder that Dataset.save_to_disk of datasets wrote"

Row = dict[str, object]
Placed = list[tuple[str, Row]]
"""Rows, each with where it stands ("line 3", "row 3"), for messages."""


def read_rows(path: Path) -> list[Row]:
    """Return the rows of labelled data, at least one.

    The suffix says the kind. Values of .tsv and .csv are texts, as they stand; those of .jsonl (.ndjson) and of a dataset
    are what JSON has, and a class label of a dataset is its name. Blank lines are passed over.

    Raises:
        InputError: it is of another kind, can't be read, or is malformed; the message names the line.
        MissingDependencyError: it is a dataset, and datasets is not installed.

    """
    return [row for _, row in read_placed(path)]


def read_placed(path: Path, columns: Sequence[str] = ()) -> Placed:
    """Return what `read_rows` does, with the place of each row, and with `columns` in each.

    Raises:
        InputError: as `read_rows`, or a column lacks.
        MissingDependencyError: as `read_rows`.

    """
    kind = path.suffix.lower()
    if path.is_dir():
        placed = [(f"row {number}", row) for number, row in enumerate(read_saved(path), 1)]
    elif kind in (".jsonl", ".ndjson"):
        placed = _jsonl(path)
    elif kind in (".tsv", ".csv"):
        placed = (_tsv if kind == ".tsv" else _csv)(path, columns)
    else:
        raise InputError(f"{path} is of no kind that labelled data is read from.", hint=f"It takes {KINDS}.")
    if not placed:
        below = " below its header" if kind in (".tsv", ".csv") else ""
        raise InputError(f"The evaluation file {path} holds no row{below}.")
    for place, row in placed:
        missing = [name for name in columns if name not in row]
        if missing:
            has = ", ".join(name[:40] for name in list(row)[:6])
            raise InputError(f"{path} {place} lacks {' and '.join(missing)}; it has {has or 'nothing'}.")
    return placed


def read_text(path: Path, kind: str) -> str:
    """Return the content of a UTF-8 file, without a byte order mark and with its line ends.

    Raises:
        InputError: it can't be read, or is not UTF-8.

    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"The {kind} file {path} is not UTF-8: byte {error.start} does not decode (line {line}).",
            hint="Convert it, for example: iconv -f latin1 -t utf-8",
        ) from None
    except OSError as error:
        raise InputError(f"The {kind} file {path} can't be read: {error.strerror}.") from None


def _tsv(path: Path, columns: Sequence[str]) -> Placed:
    """Read tab-separated values. Quotes are text: reviews are full of them, and a TSV has no need to quote."""
    hint = f"It is tab-separated, and its first line {_first(columns, '<TAB>')}"
    lines = [line.removesuffix("\r") for line in read_text(path, "evaluation").split("\n")]
    header = lines[0].split("\t")
    _check_header(path, header, columns, hint)
    placed = []
    for number, line in enumerate(lines[1:], 2):
        if line.strip("\r"):
            placed.append((f"line {number}", _row(path, number, header, line.split("\t"), hint)))
    return placed


def _csv(path: Path, columns: Sequence[str]) -> Placed:
    """Read comma-separated values of RFC 4180; a quoted value may hold line ends."""
    hint = f"It is comma-separated, quotes as in RFC 4180, and its first line {_first(columns, ',')}"
    content = read_text(path, "evaluation")
    placed, header, number = [], [""], 1
    limit = csv.field_size_limit()
    csv.field_size_limit(max(limit, len(content)))  # of the whole process; a text may well be longer than 128 KiB
    try:
        # Lines end at a newline alone: the reader itself takes off the carriage return, and refuses one that stands alone.
        reader = csv.reader(io.StringIO(content, newline="\n"), strict=True)
        for cells in reader:
            if number == 1:
                header = cells or [""]
                _check_header(path, header, columns, hint)
            elif cells:
                placed.append((f"line {number}", _row(path, number, header, cells, hint)))
            number = reader.line_num + 1
    except csv.Error as error:
        alone = str(error).startswith("new-line character seen")
        reason = "a carriage return stands alone, outside quotes" if alone else error
        raise InputError(f"{path} line {number} is no CSV: {reason}.", hint=hint) from None
    finally:
        csv.field_size_limit(limit)
    if number == 1:
        _check_header(path, header, columns, hint)
    return placed


def _first(columns: Sequence[str], between: str) -> str:
    return f"is: {between.join(columns)}" if columns else "names the columns."


def _check_header(path: Path, header: list[str], columns: Sequence[str], hint: str) -> None:
    shown = ", ".join(name[:40] for name in header[:6])
    if not set(columns) <= set(header):
        raise InputError(
            f"The evaluation file {path} lacks the columns {' and '.join(columns)}; it has {shown or 'nothing'}.",
            hint=hint,
        )
    if not any(name.strip() for name in header):
        raise InputError(f"{path} line 1 is no header: it names no column.", hint=hint)
    twice = [name for name in header if header.count(name) > 1]
    if twice:
        raise InputError(f"{path} line 1 names the column {twice[0][:40]!r} twice.", hint=hint)


def _row(path: Path, number: int, header: list[str], cells: list[str], hint: str) -> Row:
    if len(cells) != len(header):
        raise InputError(f"{path} line {number} has {len(cells)} columns, the header {len(header)}.", hint=hint)
    return dict(zip(header, cells, strict=True))


def _jsonl(path: Path) -> Placed:
    """Read JSON Lines: one object per line."""
    decoder = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_no_number, parse_float=_finite)
    placed: Placed = []
    for number, line in enumerate(read_text(path, "evaluation").split("\n"), 1):
        if not line.strip(" \t\r"):
            continue
        try:
            row = decoder.decode(line)
            if "\\u" in line:
                json.dumps(row, ensure_ascii=False).encode()  # half of a surrogate pair is no text
        except json.JSONDecodeError as error:
            raise InputError(f"{path} line {number} is no JSON: {error.msg}, at character {error.pos + 1}.") from None
        except UnicodeEncodeError:
            raise InputError(f"{path} line {number} has half of a surrogate pair, which is no character.") from None
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path} line {number} can't be read: {error}.") from None
        if not isinstance(row, dict):
            raise InputError(
                f"{path} line {number} is no JSON object.", hint='A line is like {"text": ..., "label": ...}.'
            )
        placed.append((f"line {number}", row))
    return placed


def _object(pairs: list[tuple[str, object]]) -> Row:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"it names {next(n for n in names if names.count(n) > 1)[:40]!r} twice")
    return row


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"{digits[:40]} is too large a number")
    return number
