"""Reads plain data (TOML, JSON) into frozen dataclasses, and refuses what does not fit.

One reader for targets and manifests: an unknown key, a missing key or a value of the wrong type is an
error that names the place. A device has no pydantic, so this is written by hand and kept small.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import types
import typing
from collections.abc import Mapping
from typing import TypeVar, cast

T = TypeVar("T")


class StrictError(ValueError):
    """Data does not fit its dataclass; the message names the place."""


def read(cls: type[T], data: object, where: str) -> T:
    """Return an instance of the dataclass `cls` filled from `data`.

    Args:
        cls: a dataclass whose fields are str, int, float, bool, None, tuples of any or of a given length,
            str-keyed dicts, other dataclasses, or unions of these. An int is taken where a float is declared.
        data: what `json.loads` or `tomllib.loads` returned.
        where: name of the place, for messages ("targets/x.toml").

    Raises:
        StrictError: a key is unknown or missing, or a value has the wrong type.

    """
    return cast(T, _read_dataclass(cls, data, where))


def plain(value: object) -> object:
    """Return `value` as JSON-ready data: dataclasses become dicts, tuples become lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    return value


@functools.cache
def _fields(cls: type) -> dict[str, tuple[object, bool]]:
    """Name to (type, required) of a dataclass's fields."""
    hints = typing.get_type_hints(cls)
    return {
        f.name: (
            hints[f.name],
            f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING,
        )
        for f in dataclasses.fields(cls)
    }


def _read_dataclass(cls: type, data: object, where: str) -> object:
    if not isinstance(data, Mapping):
        raise StrictError(f"{where}: expected a table, found {_kind(data)}")
    fields = _fields(cls)
    for key in data:
        if key not in fields:
            near = difflib.get_close_matches(str(key), fields, n=1)
            guess = f"; did you mean '{near[0]}'?" if near else ""
            raise StrictError(f"{where}: unknown key '{key}'{guess}")
    values = {}
    for name, (kind, required) in fields.items():
        if name in data:
            values[name] = _read(kind, data[name], f"{where}: {name}")
        elif required:
            raise StrictError(f"{where}: key '{name}' is missing")
    try:
        return cls(**values)
    except ValueError as error:
        raise StrictError(f"{where}: {error}") from None


def _read(kind: object, data: object, where: str) -> object:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _read_union(args, data, where)
    if origin is typing.Literal:
        if not any(data == arg and type(data) is type(arg) for arg in args):
            raise StrictError(f"{where}: {data!r} is none of {', '.join(map(repr, args))}")
        return data
    if origin is tuple:
        if not isinstance(data, (list, tuple)):
            raise StrictError(f"{where}: expected a list, found {_kind(data)}")
        kinds = args if args[-1] is not Ellipsis else args[:1] * len(data)
        if len(data) != len(kinds):
            raise StrictError(f"{where}: expected {len(kinds)} items, found {len(data)}")
        return tuple(_read(each, item, f"{where}[{i}]") for i, (each, item) in enumerate(zip(kinds, data, strict=True)))
    if origin in (dict, Mapping):
        if not isinstance(data, Mapping):
            raise StrictError(f"{where}: expected a table, found {_kind(data)}")
        return {str(key): _read(args[1], item, f"{where}.{key}") for key, item in data.items()}
    if kind is object:
        return data
    if dataclasses.is_dataclass(kind):
        return _read_dataclass(cast(type, kind), data, where)
    return _read_scalar(cast(type, kind), data, where)


def _read_union(args: tuple[object, ...], data: object, where: str) -> object:
    if data is None and type(None) in args:
        return None
    errors = []
    for kind in args:
        if kind is type(None):
            continue
        try:
            return _read(kind, data, where)
        except StrictError as error:
            errors.append(str(error))
    raise StrictError(errors[0])


def _read_scalar(kind: type, data: object, where: str) -> object:
    # bool is an int in Python; here it is not.
    if kind is float and isinstance(data, (int, float)) and not isinstance(data, bool):
        try:
            number = float(data)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise StrictError(f"{where}: expected a finite number, found {_kind(data)}")
        return number
    if isinstance(data, kind) and not (kind is int and isinstance(data, bool)):
        return data
    raise StrictError(f"{where}: expected {kind.__name__}, found {_kind(data)}")


def _kind(data: object) -> str:
    if data is None:
        return "nothing"
    names = {"dict": "a table", "list": "a list", "tuple": "a list"}
    return names.get(type(data).__name__, f"{type(data).__name__} {str(data)[:40]!r}")
