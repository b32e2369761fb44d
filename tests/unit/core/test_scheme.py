"""Schemes: which format can express which, and what an impossible pair is told."""

from __future__ import annotations

import pytest

from edgellm.core.scheme import FORMATS, SCHEMES, resolve_scheme
from edgellm.errors import UsageError


@pytest.mark.parametrize("name", ["fp32", "fp16", "int8-dynamic", "int8-static", "int4-dynamic"])
def test_schemes_that_every_format_expresses(name: str) -> None:
    assert resolve_scheme(name, FORMATS).name == name


@pytest.mark.parametrize(
    ("formats", "also"),
    [(("executorch",), None), (("executorch", "tflite", "onnx"), "--format tflite --format onnx")],
)
@pytest.mark.parametrize("bits", [8, 4])
def test_executorch_refuses_weight_only_with_the_reason_and_what_works(
    formats: tuple[str, ...], also: str | None, bits: int
) -> None:
    with pytest.raises(UsageError) as caught:
        resolve_scheme(f"int{bits}-weight-only", formats)
    message = str(caught.value)
    assert message.startswith(f"executorch can't express int{bits}-weight-only: XNNPACK's linear runs in fp32")
    assert "Use --scheme fp32 or fp16 or int8-dynamic or int8-static or int4-dynamic" in message
    assert (also in message) if also else ("--format" not in message)


def test_the_other_formats_take_weight_only() -> None:
    for name in ("int8-weight-only", "int4-weight-only"):
        assert resolve_scheme(name, ("onnx", "tflite")).name == name


@pytest.mark.parametrize(
    ("name", "formats"),
    [
        ("fp32", []),
        ("fp16", []),
        ("int8-dynamic", ["onnx"]),
        ("int8-static", list(FORMATS)),
        ("int8-weight-only", []),
        ("int4-dynamic", list(FORMATS)),
        ("int4-weight-only", list(FORMATS)),
    ],
)
def test_what_runs_calibration_texts(name: str, formats: list[str]) -> None:
    assert [fmt for fmt in FORMATS if SCHEMES[name].calibrates(fmt)] == formats


def test_an_unknown_scheme_names_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"No scheme 'int8-dynamc'. Did you mean 'int8-dynamic'\?"):
        resolve_scheme("int8-dynamc", FORMATS)


def test_a_refusal_names_only_real_formats() -> None:
    assert {fmt for scheme in SCHEMES.values() for fmt in scheme.refused} <= set(FORMATS)
