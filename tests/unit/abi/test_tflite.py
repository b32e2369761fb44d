"""TFLite files against runtimes: the table is what the installed runtime registers, and operators it lacks are named."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from edgellm.abi import Finding
from edgellm.abi.artifacts import examine_artifact
from edgellm.abi.tflite import describe, supported, table
from edgellm.backends.tflite import stamp_fully_connected
from edgellm.core.target import Target
from edgellm.targets import load_target
from tests.unit.abi.files import tflite_bytes

PI = load_target("raspberry-pi-4")
FULLY_CONNECTED = schema.BuiltinOperator.FULLY_CONNECTED


def with_runtime(package: str, bounds: str) -> Target:
    return dataclasses.replace(
        PI, runtimes={**{k: v for k, v in PI.runtimes.items() if k == "onnxruntime"}, package: bounds}
    )


def only(path: Path, target: Target) -> Finding:
    (finding,) = examine_artifact(path, "tflite", target)
    return finding


def loads(data: bytes) -> bool:
    try:
        Interpreter(model_content=data)
    except ValueError as error:
        if "Didn't find op for builtin opcode" not in str(error):
            raise
        return False
    return True


@pytest.fixture
def stamped(tmp_path: Path) -> Path:
    """A file as the backend stamps dynamic int8."""
    data = bytearray(tflite_bytes([(FULLY_CONNECTED, 9), (schema.BuiltinOperator.SOFTMAX, 2)]))
    stamp_fully_connected(data, 12)
    (tmp_path / "model.tflite").write_bytes(data)
    return tmp_path / "model.tflite"


def test_the_names_and_codes_of_the_table_are_the_schema_s() -> None:
    for code, name in table()[0].items():
        assert getattr(schema.BuiltinOperator, name) == code


def test_the_last_column_is_what_the_installed_runtime_registers() -> None:
    """How each column was measured; a newer runtime with more wants a column of its own."""
    found = supported("ai-edge-litert", (2, 3))
    assert found is not None
    for code, newest in found[1].items():
        for version, expected in ((newest, True), (newest + 1, False)):
            assert loads(tflite_bytes([(code, version)])) == expected, describe((code, version, ""))


def test_no_release_forgets_what_an_older_one_had() -> None:
    columns = [column for (package, _), column in sorted(table()[1].items()) if package == "ai-edge-litert"]
    for older, newer in itertools.pairwise(columns):
        assert all(newer[code] >= version for code, version in older.items())


@pytest.mark.parametrize(
    ("package", "version", "row"),
    [
        ("ai-edge-litert", (2, 1), "ai-edge-litert 2.1"), ("ai-edge-litert", (2,), "ai-edge-litert 2.0"),
        ("ai-edge-litert", (9, 9), "ai-edge-litert 2.2"), ("ai-edge-litert", (1, 4, 7), "ai-edge-litert 1.4"),
        ("tflite-runtime", (2, 14), "tflite-runtime 2.14"), ("tflite-runtime", (2, 13), None),
    ],
)  # fmt: skip
def test_a_release_is_judged_by_the_newest_row_that_is_not_newer(
    package: str, version: tuple[int, ...], row: str | None
) -> None:
    found = supported(package, version)
    assert (found and found[0]) == row


def test_our_own_stamp_passes_for_the_runtime_that_computes_it(stamped: Path) -> None:
    finding = only(stamped, with_runtime("ai-edge-litert", ">=2.1"))
    assert (finding.level, finding.rule) == ("ok", "operators")


def test_our_own_stamp_keeps_it_from_tflite_runtime(stamped: Path) -> None:
    finding = only(stamped, with_runtime("tflite-runtime", ">=2.14"))
    assert finding.level == "error"
    assert finding.message == (
        "tflite-runtime 2.14, the oldest that raspberry-pi-4 allows, lacks FULLY_CONNECTED v12 (it has up to v10)."
    )
    assert finding.hint


def test_an_operator_version_from_the_future_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(tflite_bytes([(schema.BuiltinOperator.GELU, 2), (FULLY_CONNECTED, 14)]))
    assert only(path, with_runtime("ai-edge-litert", ">=2.1")).level == "ok"
    older = only(path, with_runtime("ai-edge-litert", ">=1.2"))
    assert "ai-edge-litert 1.2, the oldest that raspberry-pi-4 allows, lacks FULLY_CONNECTED v14" in older.message
    assert "GELU" not in older.message


def test_every_declared_runtime_has_to_load_it(stamped: Path) -> None:
    both = dataclasses.replace(PI, runtimes={**PI.runtimes, "tflite-runtime": "==2.14"})
    assert [f.level for f in examine_artifact(stamped, "tflite", both)] == ["ok", "error"]


def test_a_runtime_that_is_unknown_is_a_warning(stamped: Path) -> None:
    finding = only(stamped, with_runtime("tflite-runtime", ">=2.5"))
    assert (finding.level, finding.message[:42]) == ("warning", "nothing is known of tflite-runtime 2.5, wh")


@pytest.mark.parametrize("operator", [(schema.BuiltinOperator.STABLEHLO_SORT, 1), (999, 1)])
def test_an_operator_without_kernels_is_an_error(tmp_path: Path, operator: tuple[int, int]) -> None:
    (tmp_path / "m.tflite").write_bytes(tflite_bytes([operator]))
    finding = only(tmp_path / "m.tflite", PI)
    assert finding.level == "error"
    assert f"lacks builtin {operator[0]} v1 (it has none)" in finding.message


def test_a_custom_operator_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "m.tflite").write_bytes(tflite_bytes([(32, 1, "FlexErf")]))
    assert "has no custom operator FlexErf" in only(tmp_path / "m.tflite", PI).message


def test_another_schema_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "m.tflite").write_bytes(tflite_bytes([(0, 1)], schema=4))
    findings = examine_artifact(tmp_path / "m.tflite", "tflite", PI)
    assert [(f.rule, f.level) for f in findings] == [("schema", "error"), ("operators", "ok")]


def test_a_target_without_the_format_says_so(stamped: Path) -> None:
    target = dataclasses.replace(PI, formats=("onnx",))
    (first, *_) = examine_artifact(stamped, "tflite", target)
    assert (first.rule, first.level, first.message) == ("format", "error", "tflite; raspberry-pi-4 takes onnx.")


def test_a_damaged_file_is_a_finding(tmp_path: Path) -> None:
    (tmp_path / "m.tflite").write_bytes(b"\x1c\0\0\0TFL2" + bytes(40))
    finding = only(tmp_path / "m.tflite", PI)
    assert (finding.rule, finding.level) == ("readable", "error")
    assert "'TFL2' where 'TFL3' belongs" in finding.message
