"""Schemes: which backend can express which, and what an impossible pair is told."""

from __future__ import annotations

import pytest

from edgellm.backends import TOOLS
from edgellm.core.scheme import DELEGATES, FORMATS, PORTABLE, SCHEMES, Tuning, backend_of, resolve_schemes
from edgellm.errors import UsageError


def resolve(*asked: str, formats: tuple[str, ...] = PORTABLE) -> dict[str, str]:
    defaults = dict.fromkeys(formats, "fp32" if "qnn" not in formats else "int8-static")
    return resolve_schemes(asked, defaults, {fmt: fmt for fmt in formats})


@pytest.mark.parametrize("name", ["fp32", "fp16", "int8-dynamic", "int8-static", "int4-dynamic"])
def test_schemes_that_every_portable_format_expresses(name: str) -> None:
    assert resolve(name) == dict.fromkeys(PORTABLE, name)


@pytest.mark.parametrize(
    ("formats", "also"),
    [(("executorch",), None), (("executorch", "tflite", "onnx"), "--format tflite --format onnx")],
)
@pytest.mark.parametrize("bits", [8, 4])
def test_executorch_refuses_weight_only_with_the_reason_and_what_works(
    formats: tuple[str, ...], also: str | None, bits: int
) -> None:
    with pytest.raises(UsageError) as caught:
        resolve(f"int{bits}-weight-only", formats=formats)
    message = str(caught.value)
    assert message.startswith(f"executorch can't express int{bits}-weight-only: XNNPACK's linear runs in fp32")
    assert "Use --scheme fp32 or fp16 or int8-dynamic or int8-static or int4-dynamic" in message
    assert (also in message) if also else ("--format" not in message)


def test_the_other_formats_take_weight_only() -> None:
    assert set(resolve("int8-weight-only", formats=("onnx", "tflite")).values()) == {"int8-weight-only"}


def test_a_format_can_have_a_scheme_of_its_own_whatever_the_order() -> None:
    expected = {"qnn": "a16w8", "onnx": "int8-dynamic"}
    assert resolve("qnn=a16w8", "int8-dynamic", formats=("onnx", "qnn")) == expected
    assert resolve("onnx=int8-dynamic", "qnn=a16w8", formats=("onnx", "qnn")) == expected


@pytest.mark.parametrize("name", ["fp32", "int8-dynamic", "int8-weight-only"])
def test_the_npu_refuses_what_it_can_t_compute(name: str) -> None:
    with pytest.raises(UsageError, match=f"qnn can't express {name}: the HTP "):
        resolve(name, formats=("qnn", "onnx"))


def test_sixteen_bit_activations_are_the_npu_s_alone() -> None:
    with pytest.raises(UsageError) as caught:
        resolve("a16w8", formats=("qnn", "onnx"))
    assert "onnx can't express a16w8" in str(caught.value)
    assert "--scheme qnn=a16w8 for that format alone" in str(caught.value)


def test_a_scheme_for_a_format_that_is_not_built_is_refused() -> None:
    with pytest.raises(UsageError, match="No format 'qnn'"):
        resolve("qnn=a16w8")


@pytest.mark.parametrize(
    ("name", "backends"),
    [
        ("fp32", []),
        ("int8-dynamic", ["onnx"]),
        ("int8-static", list(FORMATS)),
        ("int8-weight-only", []),
        ("a16w8", list(FORMATS)),
        ("int4-dynamic", list(FORMATS)),
    ],
)
def test_what_runs_calibration_texts(name: str, backends: list[str]) -> None:
    assert [each for each in FORMATS if SCHEMES[name].calibrates(each)] == backends


def test_what_is_left_out_runs_no_calibration_texts() -> None:
    assert not SCHEMES["int4-dynamic"].calibrates("onnx", Tuning(fit=False))
    assert SCHEMES["int4-dynamic"].calibrates("onnx", Tuning(equalize=False))
    assert not SCHEMES["int8-dynamic"].calibrates("onnx", Tuning(equalize=False))
    assert SCHEMES["int8-dynamic"].calibrates("onnx", Tuning(fit=False))
    assert SCHEMES["a16w8"].calibrates("qnn", Tuning(equalize=False, fit=False)), "its ranges are calibrated"


def test_an_unknown_scheme_names_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"No scheme 'int8-dynamc'. Did you mean 'int8-dynamic'\?"):
        resolve("int8-dynamc")


def test_a_scheme_names_only_real_backends() -> None:
    for scheme in SCHEMES.values():
        assert {*scheme.refused, *scheme.backends, *scheme.equalized} <= set(TOOLS)
        assert not set(scheme.refused) & set(scheme.backends)


def test_another_delegate_has_a_backend_of_its_own() -> None:
    assert [backend_of(fmt, delegate) for fmt, delegate in DELEGATES.items()] == list(DELEGATES)
    assert backend_of("executorch", "vulkan") == "executorch-vulkan"


def test_biases_are_corrected_on_texts_wherever_weights_become_integers() -> None:
    asked = Tuning(equalize=False, fit=False, correct_bias=True)
    assert [each.name for each in SCHEMES.values() if not each.calibrates("executorch", asked)] == ["fp32", "fp16"]
