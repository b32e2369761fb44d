"""The strict reader: what fits gets in unchanged, whatever else is a StrictError that names the place."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgellm.core import strict
from edgellm.core.delegation import Delegation, Fallback
from edgellm.core.manifest import Artifact, Manifest, TaskOptions
from edgellm.core.scheme import PORTABLE
from edgellm.core.signature import InputSpec, OutputSpec, Signature
from edgellm.core.target import Target


@dataclass(frozen=True)
class Inner:
    size: int
    ratio: float = 1.0


@dataclass(frozen=True)
class Outer:
    name: str
    level: Literal[1, 2, 3]
    inner: Inner
    rows: tuple[Inner, ...] = ()
    notes: dict[str, str] = dataclasses.field(default_factory=dict)
    maybe: int | None = None
    flag: bool = False
    mixed: tuple[int | str, ...] = ()
    pairs: dict[str, tuple[float, str]] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("name: is empty")


VALID: dict[str, Any] = {"name": "x", "level": 2, "inner": {"size": 3}}

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats() | st.text(max_size=8),
    lambda child: st.lists(child, max_size=3) | st.dictionaries(st.text(max_size=8), child, max_size=3),
    max_leaves=8,
)


_INPUT = InputSpec("input_ids", "int64", (1, "tokens"), 9, 0)
SIGNATURES = [
    Signature((_INPUT,), (OutputSpec("logits", "float32", (1, 2)),), min_tokens=2),
    Signature((_INPUT,), (OutputSpec("embedding", "float32", (1, "tokens", 8)),), buckets=(16, 2**31)),
]


CONSISTENT = {
    Manifest: {"max_tokens": st.integers(16, 2**31 - 1)},
    Artifact: {
        "format": st.sampled_from(PORTABLE),
        "delegation": st.sampled_from(
            [None, Delegation("cpu", 1, 3, 1, 2.0, 0.0, "time", (Fallback("x", 1, "y", 0.0),))]
        ),
    },
    TaskOptions: {"labels": st.just(())},
}
"""Fields that a manifest checks against each other."""


def strategy_of(kind: Any) -> st.SearchStrategy[Any]:
    """Return values of a type that the reader knows."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind is Signature:
        return st.sampled_from(SIGNATURES)
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        fields = {f.name: strategy_of(hints[f.name]) for f in dataclasses.fields(kind)}
        return st.builds(kind, **{**fields, **CONSISTENT.get(kind, {})})
    if origin in (typing.Union, types.UnionType):
        return st.one_of([strategy_of(arg) for arg in args])
    if origin is tuple and args[-1] is not Ellipsis:
        return st.tuples(*map(strategy_of, args))
    if origin is tuple:
        return st.lists(strategy_of(args[0]), max_size=2).map(tuple)
    if origin is dict:
        return st.dictionaries(st.text(max_size=4), strategy_of(args[1]), max_size=2)
    scalars = {
        str: st.text(max_size=4),
        int: st.integers(1, 2**31 - 1),
        float: st.floats(allow_nan=False, allow_infinity=False),
        bool: st.booleans(),
        type(None): st.none(),
    }
    return scalars[kind]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(strategy_of(Manifest))
def test_a_manifest_survives_json(manifest: Manifest) -> None:
    assert strict.read(Manifest, json.loads(json.dumps(strict.plain(manifest))), "m") == manifest


@settings(max_examples=150, deadline=None)
@given(JSON, st.sampled_from([Manifest, Target, Outer]))
def test_any_json_is_read_or_refused(data: object, cls: type) -> None:
    refusal = "x"
    try:
        strict.read(cls, data, "x")
    except strict.StrictError as error:
        refusal = str(error)
    assert refusal.startswith("x")


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([f.name for f in dataclasses.fields(Outer)]), JSON)
def test_any_json_in_a_field_is_read_or_refused(name: str, value: object) -> None:
    try:
        read = strict.read(Outer, {**VALID, name: value}, "x")
    except strict.StrictError as error:
        refusal = str(error)
    else:
        refusal = ""
        assert strict.plain(getattr(read, name)) == value or name == "inner"
    assert refusal.startswith(f"x: {name}" if refusal else "")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nmae": "y"}, "x: unknown key 'nmae'; did you mean 'name'?"),
        ({"zzzzzz": 1}, "x: unknown key 'zzzzzz'"),
        ({"name": None}, "x: name: expected str, found nothing"),
        ({"name": ""}, "x: name: is empty"),
        ({"level": 4}, "x: level: 4 is none of 1, 2, 3"),
        ({"level": True}, "x: level: True is none of 1, 2, 3"),
        ({"level": 1.0}, "x: level: 1.0 is none of 1, 2, 3"),
        ({"level": []}, "x: level: [] is none of 1, 2, 3"),
        ({"inner": {}}, "x: inner: key 'size' is missing"),
        ({"inner": []}, "x: inner: expected a table, found a list"),
        ({"inner": {"size": True}}, "x: inner: size: expected int, found bool 'True'"),
        ({"inner": {"size": 1.0}}, "x: inner: size: expected int, found float '1.0'"),
        ({"inner": {"size": 1, "ratio": False}}, "x: inner: ratio: expected float, found bool"),
        ({"inner": {"size": 1, "ratio": "1"}}, "x: inner: ratio: expected float, found str '1'"),
        ({"inner": {"size": 1, "ratio": float("nan")}}, "x: inner: ratio:"),
        ({"inner": {"size": 1, "ratio": float("inf")}}, "x: inner: ratio:"),
        ({"inner": {"size": 1, "ratio": 10**400}}, "x: inner: ratio:"),
        ({"rows": [{"size": 1}, {"size": 1, "x": 2}]}, "x: rows[1]: unknown key 'x'"),
        ({"rows": {"size": 1}}, "x: rows: expected a list, found a table"),
        ({"rows": "ab"}, "x: rows: expected a list, found str 'ab'"),
        ({"notes": {"a": 1}}, "x: notes.a: expected str, found int '1'"),
        ({"notes": ["a"]}, "x: notes: expected a table, found a list"),
        ({"maybe": "1"}, "x: maybe: expected int, found str '1'"),
        ({"maybe": False}, "x: maybe: expected int, found bool"),
        ({"flag": 1}, "x: flag: expected bool, found int '1'"),
        ({"pairs": {"a": 1}}, "x: pairs.a: expected a list, found int '1'"),
        ({"pairs": {"a": [1]}}, "x: pairs.a: expected 2 items, found 1"),
        ({"pairs": {"a": [1, "b", "c"]}}, "x: pairs.a: expected 2 items, found 3"),
        ({"pairs": {"a": ["b", 1]}}, "x: pairs.a[0]: expected float, found str 'b'"),
        ({"pairs": {"a": [1, 2]}}, "x: pairs.a[1]: expected str, found int '2'"),
        ({"mixed": [1, "tokens", None]}, "x: mixed[2]: expected int, found nothing"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
def test_what_does_not_fit_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(strict.StrictError) as caught:
        strict.read(Outer, {**VALID, **change}, "x")
    assert str(caught.value).startswith(message)


def test_defaults_fill_what_is_left_out_and_whole_numbers_pass_for_floats() -> None:
    given = {**VALID, "inner": {"size": 1, "ratio": 2}, "mixed": [1, "tokens"], "pairs": {"a": [3, "b"]}}
    read = strict.read(Outer, given, "x")
    assert read == Outer("x", 2, Inner(1, 2.0), mixed=(1, "tokens"), pairs={"a": (3.0, "b")})
    assert strict.plain(read.pairs) == {"a": [3.0, "b"]}
    assert isinstance(read.inner.ratio, float)
