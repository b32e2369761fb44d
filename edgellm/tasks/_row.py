"""Reading raw inputs and rows of labelled data: the same checks and sentences for every task."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import cast

from edgellm.errors import InputError, unknown


def arguments(
    raw: object, task: str, *, required: Collection[str], optional: Collection[str] = ()
) -> dict[str, object]:
    """Return a raw input as an object with the arguments that a task takes.

    Raises:
        InputError: it is no object, an argument misses, or one is unknown.

    """
    if not isinstance(raw, Mapping):
        needed = ", ".join(f'"{name}": ...' for name in required)
        raise InputError(f"{task} takes an object, {{{needed}}}, not {_kind(raw)}.")
    for name in raw:
        if name not in {*required, *optional}:
            error = unknown("argument", str(name), sorted({*required, *optional}), hint=f"{task} takes no other.")
            raise InputError(str(error))
    missing = [name for name in required if name not in raw]
    if missing:
        raise InputError(f"{task} lacks {' and '.join(missing)}.")
    return cast("dict[str, object]", dict(raw))


def text_of(value: object, name: str) -> str:
    """Return a value that has to be a text.

    Raises:
        InputError: it is none.

    """
    if not isinstance(value, str):
        raise InputError(f"{name} is {_kind(value)}; it has to be a text.")
    return value


def texts_of(value: object, name: str) -> list[str]:
    """Return a value that has to be a list of one or more texts.

    Raises:
        InputError: it is none.

    """
    if not isinstance(value, (list, tuple)) or not value:
        raise InputError(f"{name} is {_kind(value)}; it has to be a list of texts.")
    return [text_of(item, f"an item of {name}") for item in value]


def whole_of(value: object, name: str, *, least: int) -> int:
    """Return a value that has to be a whole number.

    Raises:
        InputError: it is none, or below `least`.

    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"{name} is {value!r}; it has to be a whole number, {least} or more.")
    return value


def flag_of(value: object, name: str) -> bool:
    """Return a value that has to be true or false.

    Raises:
        InputError: it is neither.

    """
    if not isinstance(value, bool):
        raise InputError(f"{name} is {value!r}; it has to be true or false.")
    return value


def number_of(value: object, name: str) -> float:
    """Return a value that has to be a finite number, or text that reads as one, as tables hold it.

    Raises:
        InputError: it is none.

    """
    try:
        number = float(cast("str", value)) if not isinstance(value, bool) else math.nan
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{name} is {str(value)[:40]!r}; it has to be a number.")
    return number


def column(row: Mapping[str, object], name: str, columns: str) -> object:
    """Return a column of a row of labelled data.

    Raises:
        InputError: the row has no such column.

    """
    if name not in row or row[name] is None:
        found = ", ".join(sorted(key for key in row if row[key] is not None)[:8]) or "nothing"
        raise InputError(f"The column {name} misses; there is {found}.", hint=f"The columns are {columns}.")
    return row[name]


def known_label(value: object, labels: Collection[str]) -> str:
    """Return a label that the model knows.

    Raises:
        InputError: it does not.

    """
    label = str(value).strip()
    if label not in labels:
        raise InputError(f"The model knows no label '{label}'.", hint=f"Its labels are {', '.join(list(labels)[:10])}.")
    return label


def _kind(value: object) -> str:
    if value is None:
        return "nothing"
    names = {
        str: "a text",
        int: "a number",
        float: "a number",
        bool: "true or false",
        list: "a list",
        dict: "an object",
    }
    return names.get(type(value), type(value).__name__)
