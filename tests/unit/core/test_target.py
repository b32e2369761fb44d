"""Targets: every shipped file reads, and every rule refuses the file that breaks it and it alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgellm.backends._vendor_sdks import VENDOR_SDKS
from edgellm.core.scheme import SCHEMES
from edgellm.errors import InputError, UsageError
from edgellm.targets import load_target, read_target, target_names

BROKEN = Path(__file__).parents[2] / "targets"

RULES = {
    "unknown_key": "unknown key 'toolchains'; did you mean 'toolchain'?",
    "unknown_nested_key": "onnx: unknown key 'opsets'; did you mean 'opset'?",
    "missing_key": "key 'cpu' is missing",
    "wrong_type": "abi: expected str, found a list",
    "wrong_item": "cpu_features[1]: expected str, found int '8'",
    "no_format": "formats: at least one format is needed",
    "unknown_format": "formats: no format 'coreml', choose from executorch, mlpackage, onnx, qnn, tflite",
    "format_without_delegate": "delegates: no delegate for format 'onnx'",
    "duplicate_format": "formats: a format is named twice",
    "unknown_scheme": "scheme: no scheme 'int8', choose from fp32, fp16, int8-dynamic, int8-static, a16w8, int8-weight-only",
    "opset_too_new": "onnx: opset 24 is outside 18 to 23",
    "opset_too_old": "onnx: opset 17 is outside 18 to 23",
    "ir_version": "onnx: ir_version 7 is outside 8 to 11",
    "name_key": "unknown key 'name'; the file name is the name",
    "tier": "tier: 4 is none of 1, 2, 3",
    "tier_bool": "tier: True is none of 1, 2, 3",
    "arch": "arch: 'armv7l' is none of 'aarch32', 'aarch64', 'x86_64'",
    "duplicate_key": "is not TOML",
    "not_toml": "is not TOML",
    "not_utf8": "can't decode byte",
    "cpu_feature": "cpu_features: aarch64 has no 'avx2', choose from bf16, dotprod, fp16",
    "runtime_package": "runtimes: no engine package 'onnx-runtime', choose from ai-edge-litert, executorch, onnxruntime",
    "runtime_bounds": "runtimes.onnxruntime: '1.17 or newer' is not a list of version bounds such as '>=1.17,<2'",
    "runtime_without_oldest": "runtimes.onnxruntime: '<2' names no oldest version; begin it with >=",
    "runtime_impossible": "runtimes.onnxruntime: '>=1.17,<1.10' allows no version at all",
    "format_without_runtime": "runtimes: no version of ai-edge-litert or tflite-runtime for format 'tflite'",
    "abi": "abi: 'linux-gnu' is none of linux-gnu-<glibc version>, android-<API level>, ios-<version>",
    "page_bytes": "page_bytes: 8192 is none of 4096, 16384, 65536",
}


@pytest.mark.parametrize("rule", RULES)
def test_a_broken_target_is_refused_with_its_name_and_the_rule(rule: str) -> None:
    with pytest.raises(InputError) as caught:
        read_target(BROKEN / f"invalid_{rule}.toml")
    message = str(caught.value)
    assert message.startswith(f"invalid_{rule}.toml")
    assert RULES[rule] in message


def test_every_broken_file_is_tested() -> None:
    assert {path.stem.removeprefix("invalid_") for path in BROKEN.glob("*.toml")} == set(RULES)


def test_the_issue_s_targets_are_all_there() -> None:
    expected = {"android-arm64", "ios-arm64", "linux-arm64", "linux-x86_64", "raspberry-pi-4", "raspberry-pi-5"}
    assert expected <= set(target_names())
    assert target_names() == sorted(target_names())


@pytest.mark.parametrize("name", target_names())
def test_a_shipped_target_reads_and_its_default_scheme_is_possible(name: str) -> None:
    target = load_target(name)
    assert target.name == name
    assert set(target.delegates) == set(target.formats)
    for fmt in target.formats:
        if target.tier < 3:
            assert target.backend(fmt) in SCHEMES[target.scheme_of(fmt)].backends
        else:
            assert target.delegates[fmt] in VENDOR_SDKS
    assert target.toolchain in {"host", "bare-metal", name, *target_names()}


@pytest.mark.parametrize(("asked", "nearest"), [("andriod-arm64", "android-arm64"), ("raspberry-pi", "raspberry-pi-")])
def test_an_unknown_target_names_the_nearest_and_what_lists_them(asked: str, nearest: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_target(asked)
    assert f"Did you mean '{nearest}" in str(caught.value)
    assert "'edgellm targets' lists all." in str(caught.value)


@pytest.mark.parametrize("name", ["../targets/linux-arm64", "", ".", "linux-arm64.toml", "/etc/passwd", "a\0b"])
def test_a_target_is_a_name_and_no_path(name: str) -> None:
    with pytest.raises(UsageError, match="No target"):
        load_target(name)
