"""ONNX files against ONNX Runtime: the table is what the installed one loads, and what is newer is refused by name."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgellm.abi import Finding
from edgellm.abi.artifacts import examine_artifact
from edgellm.abi.onnx import LEVELS, level_of
from edgellm.core.target import OnnxLevel, Target
from edgellm.targets import load_target
from tests.tiny import TinyModel

PI, HOST = load_target("raspberry-pi-4"), load_target("linux-x86_64")


def write(
    path: Path,
    nodes: Sequence[onnx.NodeProto] = (),
    *,
    ir: int = 9,
    opsets: Sequence[tuple[str, int]] = (("", 20),),
    constants: Sequence[onnx.TensorProto] = (),
    functions: Sequence[onnx.FunctionProto] = (),
) -> Path:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        list(nodes) or [helper.make_node("Identity", ["x"], ["y"])], "g", [value("x", TensorProto.FLOAT, [1])],
        [value("y", TensorProto.FLOAT, [1])], list(constants),
    )  # fmt: skip
    imports = [helper.make_opsetid(*opset) for opset in opsets]
    model = helper.make_model(graph, ir_version=ir, opset_imports=imports, functions=list(functions))
    path.write_bytes(model.SerializeToString())
    return path


def problems(path: Path, target: Target = PI) -> dict[str, Finding]:
    return {f.rule: f for f in examine_artifact(path, "onnx", target) if f.level != "ok"}


def loads(path: Path) -> bool:
    try:
        ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception:  # onnxruntime has a class per status code, all below Exception
        return False
    return True


def test_the_last_row_is_what_the_installed_runtime_loads(tmp_path: Path) -> None:
    """How each row was measured; a newer runtime with more wants a row of its own."""
    _, ir, opset, ml = LEVELS[-1]
    path = tmp_path / "m.onnx"
    for more, expected in ((0, True), (1, False)):
        assert loads(write(path, ir=ir + more, opsets=[("", 13)])) == expected
        assert loads(write(path, ir=8, opsets=[("", opset + more)])) == expected
        assert loads(write(path, ir=8, opsets=[("", 13), ("ai.onnx.ml", ml + more)])) == expected


def test_rows_only_grow() -> None:
    for older, newer in itertools.pairwise(LEVELS):
        assert all(a <= b for a, b in zip(older, newer, strict=True))


def test_a_release_is_judged_by_the_newest_row_that_is_not_newer() -> None:
    assert level_of((1, 17)) == ((1, 17), 9, 20, 4)
    assert level_of((1, 20, 1)) == ((1, 18), 10, 21, 4)
    assert level_of((1, 9)) is None


def test_what_the_backend_writes_fits_every_target(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(TinyModel.random(70, 8, 3, True).onnx("logits"))
    for target in (PI, HOST):
        findings = examine_artifact(tmp_path / "m.onnx", "onnx", target)
        assert {f.rule: f.level for f in findings} == {"IR version": "ok", "opset": "ok", "operators": "ok"}


def test_a_newer_ir_is_refused(tmp_path: Path) -> None:
    problem = problems(write(tmp_path / "m.onnx", ir=10))["IR version"]
    assert problem.level == "error"
    assert problem.message.startswith("IR version 10; raspberry-pi-4 declares 9,")
    assert "older ir_version" in problem.hint


def test_the_oldest_runtime_counts_and_not_what_the_target_hopes(tmp_path: Path) -> None:
    hopeful = dataclasses.replace(PI, onnx=OnnxLevel(11, 23))
    path = write(tmp_path / "m.onnx", ir=10, opsets=[("", 21)])
    found = problems(path, hopeful)
    assert "ONNX Runtime 1.17, the oldest that raspberry-pi-4 allows, reads up to 9" in found["IR version"].message
    assert "ONNX Runtime 1.17, the oldest that raspberry-pi-4 allows, has 20" in found["opset"].message
    newer = dataclasses.replace(hopeful, runtimes={"onnxruntime": ">=1.18"})
    assert problems(path, newer) == {}


@pytest.mark.parametrize(
    ("opsets", "said"), [([("", 21)], "ai.onnx 21;"), ([("", 20), ("ai.onnx.ml", 5)], "ai.onnx.ml 5;")]
)
def test_a_newer_opset_is_refused(tmp_path: Path, opsets: list[tuple[str, int]], said: str) -> None:
    assert problems(write(tmp_path / "m.onnx", opsets=opsets))["opset"].message.startswith(said)


def test_an_opset_from_before_onnx_runtime_is_refused(tmp_path: Path) -> None:
    assert "begins at 7" in problems(write(tmp_path / "m.onnx", opsets=[("", 6)]))["opset"].message


@pytest.mark.parametrize(
    ("node", "opsets", "said"),
    [
        (("Gelu", ""), [("", 17)], "has no Gelu of ai.onnx 17"),
        (("Upsample", ""), [("", 20)], "has no Upsample of ai.onnx 20"),
        (("Magic", "my.own"), [("", 20), ("my.own", 1)], "has no Magic of my.own"),
        (("Gelu", "com.microsoft"), [("", 20)], "whose version the file does not state"),
    ],
)
def test_operators_that_are_not_there_are_named(
    tmp_path: Path, node: tuple[str, str], opsets: list[tuple[str, int]], said: str
) -> None:
    made = helper.make_node(node[0], ["x"], ["y"], domain=node[1])
    assert said in problems(write(tmp_path / "m.onnx", [made], opsets=opsets))["operators"].message


def test_operators_of_inner_graphs_and_functions_count(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info("z", TensorProto.FLOAT, [1])
    branch = helper.make_graph([helper.make_node("Magic", ["x"], ["z"], domain="my.own")], "b", [], [value])
    inner = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    path = write(tmp_path / "m.onnx", [inner], opsets=[("", 20), ("my.own", 1)])
    assert "has no Magic of my.own" in problems(path)["operators"].message
    body = [helper.make_node("Magic", ["a"], ["b"], domain="my.own")]
    function = helper.make_function("f", "Twice", ["a"], ["b"], body, [helper.make_opsetid("my.own", 1)])
    call = helper.make_node("Twice", ["x"], ["y"], domain="f")
    path = write(tmp_path / "m.onnx", [call], opsets=[("", 20), ("f", 1)], functions=[function])
    assert problems(path)["operators"].message == "ONNX Runtime has no Magic of my.own."


def test_contrib_operators_are_a_warning(tmp_path: Path) -> None:
    node = helper.make_node("FastGelu", ["x"], ["y"], domain="com.microsoft")
    problem = problems(write(tmp_path / "m.onnx", [node], opsets=[("", 20), ("com.microsoft", 1)]))["operators"]
    assert (problem.level, problem.message[:8]) == ("warning", "FastGelu")


@pytest.mark.parametrize(("oldest", "level"), [(">=1.17", None), (">=1.16", "error")])
def test_int4_matmuls_need_a_runtime_that_has_them(tmp_path: Path, oldest: str, level: str | None) -> None:
    node = helper.make_node("MatMulNBits", ["x", "w", "s"], ["y"], domain="com.microsoft")
    path = write(tmp_path / "m.onnx", [node], opsets=[("", 19), ("com.microsoft", 1)])
    found = problems(path, dataclasses.replace(PI, runtimes={**PI.runtimes, "onnxruntime": oldest}))
    assert (found["operators"].level if "operators" in found else None) == level


@pytest.mark.parametrize(
    ("largest", "features", "level"),
    [(127, ("avx2",), "warning"), (64, ("avx2",), None), (127, ("avx2", "avx_vnni"), "ok"), (127, ("amx_int8",), "ok")],
)
def test_signed_weights_without_vnni_saturate_on_x86(
    tmp_path: Path, largest: int, features: tuple[str, ...], level: str | None
) -> None:
    weight = numpy_helper.from_array(np.array([[1, -largest]], dtype=np.int8), "w")
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("MatMulInteger", ["q", "w", "z"], ["p"]),
        helper.make_node("Cast", ["p"], ["y"], to=TensorProto.FLOAT),
    ]
    path = write(tmp_path / "m.onnx", nodes, constants=[weight])
    target = dataclasses.replace(HOST, cpu_features=features)
    assert {f.rule: f.level for f in examine_artifact(path, "onnx", target)}.get("CPU features") == level
    assert "CPU features" not in {f.rule for f in examine_artifact(path, "onnx", PI)}


@pytest.mark.parametrize("location", ["weights.bin", "../weights.bin", "/etc/hostname", "w" * 300])
def test_weights_in_another_file_have_to_be_beside_it(tmp_path: Path, location: str) -> None:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    entry: Any = tensor.external_data.add()
    entry.key, entry.value = "location", location
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "weights.bin").write_bytes(bytes(4))
    path = write(folder / "m.onnx", constants=[tensor])
    assert "which is not beside it" in problems(path)["other files"].message
    (folder / "weights.bin").write_bytes(bytes(4))
    assert (problems(path) == {}) == (location == "weights.bin")


@pytest.mark.parametrize("data", [b"\x08", b"\x08\x09", bytes(100), b"hello, world", b"\xff" * 64])
def test_bytes_that_are_no_model_are_a_finding_of_one_line(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(data)
    problem = problems(tmp_path / "m.onnx")["readable"]
    assert "is no sound ONNX file: " in problem.message
    assert "\n" not in problem.message
