"""Precisions: which scheme a layer has, and what a file that says so badly is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgellm.core import strict
from edgellm.core.precision import Precisions, mixable, parse_precisions, read_precisions
from edgellm.core.scheme import FORMATS, SCHEMES
from edgellm.errors import EdgellmError, InputError, UsageError

NAMES = ("encoder.layer.0.query", "encoder.layer.0.key", "encoder.layer.1.query", "embeddings.words")
MIXED = Precisions(
    "int8-dynamic",
    (
        ("encoder.layer.0.query", "fp32"),
        ("encoder.layer.*", "int4-dynamic"),
        ("*.query", "int8-weight-only"),
    ),
)

words = st.text(st.characters(codec="utf-8", exclude_characters="*?["), min_size=1, max_size=20)
schemes = st.sampled_from(mixable())


def test_a_full_name_goes_before_a_pattern_and_a_later_pattern_before_an_earlier_one() -> None:
    assert [MIXED.of(name).name for name in NAMES] == ["fp32", "int4-dynamic", "int8-weight-only", "int8-dynamic"]
    assert MIXED.name == "mixed"
    assert [scheme.name for scheme in MIXED.schemes] == ["int8-dynamic", "fp32", "int4-dynamic", "int8-weight-only"]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_one_scheme_for_all_is_itself(scheme: str) -> None:
    one = Precisions(scheme)
    assert (one.name, one.static, one.of("anything")) == (scheme, SCHEMES[scheme].static, SCHEMES[scheme])
    assert [fmt for fmt in FORMATS if one.calibrates(fmt)] == [f for f in FORMATS if SCHEMES[scheme].calibrates(f)]


@given(default=schemes, layers=st.dictionaries(words, schemes, max_size=5))
def test_what_is_written_is_read(default: str, layers: dict[str, str]) -> None:
    data = json.loads(json.dumps({"default": default, "layers": layers}))
    read = parse_precisions(data, "here")
    assert read == Precisions(default, tuple(layers.items()))
    assert strict.read(Precisions, json.loads(json.dumps(strict.plain(read))), "job") == read
    read.ensure_named(layers)
    assert all(read.of(name).name == scheme for name, scheme in layers.items())


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(data=json_values)
def test_whatever_else_is_refused_by_name(data: object) -> None:
    with pytest.raises(EdgellmError, match=r"here|scheme"):
        parse_precisions(data, "here")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('default = "int8-dynamc"', "No scheme 'int8-dynamc'. Did you mean 'int8-dynamic'?"),
        ('default = "fp32"\n[layers]\na = "int4"', "No scheme 'int4'. Did you mean"),
        ('defualt = "fp32"', "unknown key 'defualt'; did you mean 'default'?"),
        ("[layers]", "key 'default' is missing"),
        ('default = "fp32"\nlayers = 3', "layers: expected a table, found int '3'"),
        ('default = "fp32"\n[layers]\na = 3', "layers.a: expected str, found int '3'"),
        ('default = "fp32"\n[layers]\na.b = "fp32"', "layers.a: expected str, found a table"),
        ('default = "fp32"\n[layers]\na = "fp16"', "fp16 is of a whole model: one layer of it can't have another"),
        ('default = "fp16"\n[layers]\na = "fp32"', "fp16 is of a whole model: one layer of it can't have another"),
        ('default = "fp32"\n[layers]\na = "fp32"\na = "fp32"', "is no sound toml"),
    ],
)
def test_a_file_that_says_it_badly(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "layers.toml"
    file.write_text(text)
    with pytest.raises((InputError, UsageError)) as caught:
        read_precisions(file)
    assert message in str(caught.value)


def test_files_are_toml_or_json(tmp_path: Path) -> None:
    toml, plain = tmp_path / "a.toml", tmp_path / "a.json"
    toml.write_text('default = "fp32"\n[layers]\n"b.*" = "int4-dynamic"\na = "fp32"\n')
    plain.write_text('{"default": "fp32", "layers": {"b.*": "int4-dynamic", "a": "fp32"}}')
    assert (
        read_precisions(toml) == read_precisions(plain) == Precisions("fp32", (("b.*", "int4-dynamic"), ("a", "fp32")))
    )
    plain.write_text('{"default": "fp32", "layers": {"a": "int4-dynamic", "a": "fp32"}}')
    with pytest.raises(InputError, match="'a' stands twice"):
        read_precisions(plain)
    with pytest.raises(InputError, match="can't be read: No such file"):
        read_precisions(tmp_path / "none.toml")
    toml.write_bytes(b"\xff")
    with pytest.raises(InputError, match="no UTF-8 text"):
        read_precisions(toml)


def test_a_layer_that_is_not_there_names_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"no layer 'encoder.layer.0.qeury'. Did you mean 'encoder.layer.0.query'\?"):
        Precisions("fp32", (("encoder.layer.0.qeury", "int8-dynamic"),)).ensure_named(NAMES)
    with pytest.raises(UsageError, match=r"no layer 'decoder\.\*'"):
        Precisions("fp32", (("decoder.*", "int8-dynamic"),)).ensure_named(NAMES)
    MIXED.ensure_named(NAMES)


def test_a_format_that_cant_express_a_layers_scheme_refuses_it_with_the_reason() -> None:
    for fmt in ("onnx", "tflite"):
        MIXED.ensure_expressed(fmt, dict(zip(FORMATS, FORMATS, strict=True)))
    with pytest.raises(UsageError, match="executorch can't express int8-weight-only: XNNPACK's linear"):
        MIXED.ensure_expressed("executorch", dict(zip(FORMATS, FORMATS, strict=True)))


def test_an_ethos_u_gives_bytes_to_linears_where_all_else_has_16_bits() -> None:
    backends = {"tflite": "tflite-ethos-u"}
    Precisions("a16w8", (("encoder.*", "int8-static"),)).ensure_expressed("tflite", backends)
    Precisions("a16w8", (("encoder.*", "int8-static"), ("*.query", "a16w8"))).ensure_expressed("tflite", backends)
    for default, layers, said in (
        ("int8-static", (), "an encoder's answers collapse"),
        ("int8-static", (("encoder.*", "a16w8"),), "an encoder's answers collapse"),
        ("a16w8", (("encoder.*", "int4-dynamic"),), "can't express int4-dynamic"),
    ):
        with pytest.raises(UsageError, match=said):
            Precisions(default, layers).ensure_expressed("tflite", backends)
    for backend in ("qnn", "executorch-coreml"):
        with pytest.raises(UsageError, match="its backend takes one scheme for the whole model"):
            Precisions("a16w8", (("encoder.*", "int8-static"),)).ensure_expressed("qnn", {"qnn": backend})
