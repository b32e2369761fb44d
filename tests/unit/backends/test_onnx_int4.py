"""ONNX in 4 bits and in fp16: ONNX Runtime gives what the grid says, from files of that size."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto

from edgellm.backends import _onnx_int4, _onnx_rewrite
from edgellm.backends._onnx_fp16 import halve
from edgellm.backends.rounding import group_of, to_nearest
from tests.unit.backends.test_onnx_rewrites import after, f32, model, node, pairs, run

IDS = np.array([[0, 5, 99, 5]], dtype=np.int64)


def rounded(weight: Any) -> Any:
    """Return a weight [out, in] on its grid."""
    return to_nearest(torch.from_numpy(weight), group_of(weight.shape[1])).numpy()


def product(width: int, rows: int = 6) -> tuple[Any, Any]:
    """Return a matmul by a weight [width, rows] that lies on its grid, and what it reads."""
    x = f32(1, 3, width)
    weight = np.ascontiguousarray(rounded(f32(rows, width)).T)
    return model([node("MatMul", ["x", "w"], ["y"], name="m")], {"w": weight}, x=x), x


@pytest.mark.parametrize("width", [32, 64, 96, 40, 7])
def test_int4_weights_that_lie_on_their_grid_change_nothing(width: int) -> None:
    made, x = product(width)
    before = made.ByteSize()
    count, operators = after(lambda m: _onnx_int4.quantize_matmuls(m, lambda name: _onnx_int4.FP32), made, x)
    assert (count, operators["MatMulNBits"], operators["MatMul"]) == (1, 1, 0)
    assert not [i for i in made.graph.initializer if i.data_type == TensorProto.FLOAT]
    assert made.ByteSize() < before or width < 40


def test_activations_are_quantized_where_that_is_the_scheme() -> None:
    made, x = product(64)
    exact = run(copy.deepcopy(made), x)[0]
    _onnx_int4.quantize_matmuls(made, lambda name: _onnx_int4.INT8)
    error = float(np.abs(run(made, x)[0] - exact).max() / np.abs(exact).max())
    assert error < 0.03


def test_matmuls_without_a_level_stay() -> None:
    made, x = product(64)
    count, operators = after(lambda m: _onnx_int4.quantize_matmuls(m, lambda name: None), made, x)
    assert (count, operators) == (0, Counter({"MatMul": 1}))
    assert [item.domain for item in made.opset_import] == [""]


def test_scales_that_fp16_cant_hold_stay_fp32() -> None:
    made, x = product(64)
    weight = next(i for i in made.graph.initializer if i.name == "w")
    weight.raw_data = (np.frombuffer(weight.raw_data, np.float32) * np.float32(2**-30)).tobytes()
    after(lambda m: _onnx_int4.quantize_matmuls(m, lambda name: _onnx_int4.FP32), made, x, atol=1e-12)
    assert [i for i in made.graph.initializer if i.name.endswith(".scale")]


@pytest.mark.parametrize("width", [32, 64, 6])
@pytest.mark.parametrize("ids", [IDS, IDS[0], IDS[None]], ids=["sentence", "positions", "deeper"])
def test_a_table_in_4_bits_is_looked_up_exactly(width: int, ids: Any) -> None:
    table = rounded(f32(100, width) * np.logspace(-3, 3, 100, dtype=np.float32)[:, None])
    made = model([node("Gather", ["table", "x"], ["y"])], {"table": table}, x=ids)
    before = made.ByteSize()
    count, operators = after(lambda m: _onnx_int4.quantize_tables(m, lambda name: True), made, ids, atol=0)
    assert (count, operators["Gather"]) == (1, 2)
    assert made.ByteSize() < before / 3 or width == 6


@pytest.mark.parametrize("case", ["small", "odd width", "not wanted", "computed with"])
def test_other_tables_stay(case: str) -> None:
    table = f32(16 if case == "small" else 100, 9 if case == "odd width" else 8)
    nodes = [node("Gather", ["table", "x"], ["y"])]
    if case == "computed with":
        nodes = [
            node("Gather", ["table", "x"], ["h"]),
            node("Neg", ["table"], ["n"]),
            node("Gather", ["n", "x"], ["y"]),
        ]
    made = model(nodes, {"table": table}, x=IDS % 16)
    assert after(lambda m: _onnx_int4.quantize_tables(m, lambda name: case != "not wanted"), made, IDS % 16)[0] == 0


def test_only_pairs_of_one_scheme_are_merged() -> None:
    nodes, constants, outputs = pairs(8, 8, 8)
    schemes = {"w0": "int8-dynamic", "w1": "fp32", "w2": "int8-dynamic"}
    made = model(nodes, constants, outputs)
    merged, operators = after(lambda m: _onnx_rewrite.merge_matmuls(m, schemes), made)
    assert (merged, operators["MatMul"]) == (1, 2)
    assert schemes["m0.merged.weight"] == "int8-dynamic"


def test_fp16_constants_take_half_and_the_answers_stay_float32() -> None:
    table, weight = f32(200, 16), f32(16, 128)
    nodes = [
        node("Gather", ["table", "x"], ["h"], name="look"),
        node("MatMul", ["h", "w"], ["p"]),
        node("Add", ["p", "b"], ["y"]),
    ]
    made = model(nodes, {"table": table, "w": weight, "b": f32(128)}, x=IDS)
    before = made.ByteSize()
    count, operators = after(halve, made, IDS, atol=0.02)
    assert (count, operators["Cast"]) == (2, 2)
    assert made.ByteSize() < 0.6 * before
    beyond = model([node("MatMul", ["x", "w"], ["y"])], {"w": f32(64, 64) * 1e5}, x=f32(1, 64))
    assert halve(beyond) == 0


def test_a_table_that_is_computed_with_as_well_is_stored_once_in_fp16() -> None:
    nodes = [
        node("Gather", ["table", "x"], ["h"], name="look"),
        node("Transpose", ["table"], ["t"], name="turn"),
        node("MatMul", ["h", "t"], ["y"]),
    ]
    made = model(nodes, {"table": f32(100, 16)}, x=IDS)
    after(halve, made, IDS, atol=0.1)
    assert [item.name for item in made.graph.initializer] == ["table.fp16"]
