"""ONNX rewrites: whatever they change in a graph, ONNX Runtime must give the same answers before and after."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgellm.backends import _onnx_quantize, _onnx_rewrite
from edgellm.backends.onnx import rename_output

RNG = np.random.default_rng(5)
X = RNG.normal(size=(1, 3, 8)).astype(np.float32)
IDS = np.array([[0, 5, 99, 5]], dtype=np.int64)
node = helper.make_node


def f32(*shape: int) -> Any:
    return RNG.normal(size=shape).astype(np.float32)


def i64(*values: int) -> Any:
    return np.array(values, dtype=np.int64)


def model(
    nodes: Sequence[onnx.NodeProto], constants: dict[str, Any], outputs: Sequence[str] = ("y",), x: Any = X
) -> Any:
    """Return a model with one input `x`."""
    kind = TensorProto.INT64 if x.dtype == np.int64 else TensorProto.FLOAT
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", kind, list(x.shape))],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 20)])


def run(made: onnx.ModelProto, x: Any = X) -> list[Any]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return list(onnxruntime.InferenceSession(made.SerializeToString(), options).run(None, {"x": x}))


def after(
    rewrite: Callable[[Any], Any], made: onnx.ModelProto, x: Any = X, atol: float = 1e-5
) -> tuple[Any, Counter[str]]:
    """Rewrite, check that the answers stay, and return what the rewrite returned and the operators that are left."""
    expected = run(copy.deepcopy(made), x)
    returned = rewrite(made)
    for got, wanted in zip(run(made, x), expected, strict=True):
        assert got.dtype == wanted.dtype
        np.testing.assert_allclose(got, wanted, atol=atol)
    names = [item.name for item in made.graph.initializer]
    assert len(names) == len(set(names))
    assert set(names) <= {name for n in made.graph.node for name in n.input}, (
        "constants that nobody reads stay in the file"
    )
    return returned, Counter(n.op_type for n in made.graph.node)


@pytest.mark.parametrize("inner", ["node", "constant"])
def test_the_output_gets_its_name_and_what_had_it_another(inner: str) -> None:
    first = [node("Relu", ["x"], ["embedding"])] if inner == "node" else []
    constants = {} if inner == "node" else {"embedding": f32(8)}
    left = "embedding" if inner == "node" else "x"
    made = model([*first, node("Add", [left, "embedding"], ["y"], name="a")], constants)
    expected = run(copy.deepcopy(made))
    rename_output(made, "embedding")
    assert [o.name for o in made.graph.output] == ["embedding"]
    np.testing.assert_array_equal(run(made)[0], expected[0])


def test_an_output_that_others_read_as_well_is_renamed_everywhere() -> None:
    made = model([node("Relu", ["x"], ["y"]), node("Neg", ["y"], ["z"])], {}, ["y", "z"])
    expected = run(copy.deepcopy(made))
    rename_output(made, "logits")
    assert [o.name for o in made.graph.output] == ["logits", "z"]
    for got, wanted in zip(run(made), expected, strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_an_output_that_has_its_name_already_is_left_alone() -> None:
    made = model([node("Relu", ["x"], ["y"])], {})
    before = made.SerializeToString()
    rename_output(made, "y")
    assert made.SerializeToString() == before


@pytest.mark.parametrize(
    ("attributes", "inputs", "matmuls"),
    [
        ({"transB": 1}, ["x", "wt", "b"], 1),
        ({}, ["x", "w", "b"], 1),
        ({"transB": 1}, ["x", "wt"], 1),
        ({"transB": 1}, ["x", "wt", ""], 1),
        ({"alpha": 0.5, "transB": 1}, ["x", "wt", "b"], 0),
        ({"beta": 0.5, "transB": 1}, ["x", "wt", "b"], 0),
        ({"transA": 1}, ["x", "square"], 0),
    ],
)
def test_a_gemm_becomes_matmul_and_add_where_that_is_the_same(
    attributes: dict[str, Any], inputs: list[str], matmuls: int
) -> None:
    x = f32(3, 8)
    available = {"w": f32(8, 4), "wt": f32(4, 8), "b": f32(4), "square": f32(3, 3)}
    made = model([node("Gemm", inputs, ["y"], name="g", **attributes)], {k: available[k] for k in inputs[1:] if k}, x=x)
    _, operators = after(_onnx_rewrite.gemm_to_matmul, made, x)
    assert operators["MatMul"] == matmuls
    assert operators["Gemm"] == 1 - matmuls


def pairs(
    *widths: int, heads: int | None = None, **special: Any
) -> tuple[list[onnx.NodeProto], dict[str, Any], list[str]]:
    """Return `MatMul, Add` pairs over x, each [8, width], with `heads` split as attention does."""
    nodes, constants, outputs = [], {}, []
    for i, width in enumerate(widths):
        constants |= {f"w{i}": f32(8, width), f"b{i}": f32(width)}
        last = f"y{i}"
        nodes += [
            node("MatMul", ["x", f"w{i}"], [f"p{i}"], name=f"m{i}"),
            node("Add", [f"p{i}", f"b{i}"], [last], name=f"a{i}"),
        ]
        if heads:
            constants[f"s{i}"] = special.get(f"s{i}", i64(1, -1, width // heads, heads))
            perm = special.get(f"perm{i}", [0, 2, 1, 3])
            nodes += [
                node("Reshape", [last, f"s{i}"], [f"r{i}"], name=f"r{i}"),
                node("Transpose", [f"r{i}"], [f"t{i}"], name=f"t{i}", perm=perm),
            ]
            last = f"t{i}"
        outputs.append(last)
    return nodes, constants, outputs


HEADS: dict[str, tuple[tuple[int, ...], dict[str, Any], int]] = {
    # case: (widths, special shapes, Splits over heads)
    "equal": ((8, 8, 8), {}, 1),
    "pruned unequally": ((4, 8, 12), {}, 1),
    "other order": ((8, 8), {"perm1": [0, 2, 3, 1]}, 0),
    "other head width": ((8, 8), {"s1": i64(1, -1, 4, 2)}, 0),
    "width inferred": ((8, 8), {"s0": i64(1, 3, 2, -1), "s1": i64(1, 3, 2, -1)}, 0),
    "length stated": ((8, 8), {"s0": i64(1, 3, 2, 4), "s1": i64(1, 3, 2, 4)}, 1),
    "batch inferred": ((8, 8), {"s0": i64(-1, 3, 2, 4), "s1": i64(-1, 3, 2, 4)}, 0),
}


@pytest.mark.parametrize("case", HEADS)
def test_matmuls_with_heads_are_merged_and_split_once(case: str) -> None:
    widths, special, splits = HEADS[case]
    nodes, constants, outputs = pairs(*widths, heads=4, **special)
    made = model(nodes, constants, outputs)
    merged, operators = after(_onnx_rewrite.merge_matmuls, made)
    assert (merged, operators["MatMul"], operators["Split"]) == (1, 1, 1)
    assert operators["Reshape"] == (1 if splits else len(widths))


FLATTENED: dict[str, tuple[dict[int, Any], int]] = {
    # case: (shape by pair, Reshapes that are left)
    "all": ({0: i64(2, -1, 4), 1: i64(3, 3, 4)}, 1),
    "one stays": ({0: i64(2, -1, 4)}, 2),
    "one to another shape": ({0: i64(2, -1, 4), 1: i64(1, -1, 4)}, 3),
    "one to another width": ({0: i64(2, -1, 4), 1: i64(3, -1, 2)}, 3),
}


@pytest.mark.parametrize("case", FLATTENED)
def test_heads_that_drop_the_first_axis_are_split_without_it(case: str) -> None:
    shapes, reshapes = FLATTENED[case]
    nodes, constants, outputs = pairs(8, 12, heads=4)
    for i, shape in shapes.items():
        constants[f"f{i}"], outputs[i] = shape, f"f{i}.y"
        nodes.append(node("Reshape", [f"t{i}", f"f{i}"], [outputs[i]], name=f"f{i}"))
    merged, operators = after(_onnx_rewrite.merge_matmuls, model(nodes, constants, outputs))
    assert (merged, operators["Reshape"], operators["Transpose"], operators["Split"]) == (1, reshapes, 1, 1)


@pytest.mark.parametrize("by", ["another node", "the graph's reader"])
def test_heads_that_are_read_with_their_first_axis_too_keep_it(by: str) -> None:
    nodes, constants, _ = pairs(8, 8, heads=4)
    for i in range(2):
        constants[f"f{i}"] = i64(2, -1, 4)
        nodes.append(node("Reshape", [f"t{i}", f"f{i}"], [f"f{i}.y"], name=f"f{i}"))
    last = "t1"
    if by == "another node":
        nodes.append(node("Neg", ["t1"], ["z"]))
        last = "z"
    merged, operators = after(_onnx_rewrite.merge_matmuls, model(nodes, constants, ["f0.y", "f1.y", last]))
    assert (merged, operators["Reshape"]) == (1, 3)


@pytest.mark.parametrize("widths", [(8, 8), (8, 4, 2), (1, 7)])
def test_matmuls_without_heads_are_merged_as_well(widths: tuple[int, ...]) -> None:
    nodes, constants, outputs = pairs(*widths)
    merged, operators = after(_onnx_rewrite.merge_matmuls, model(nodes, constants, outputs))
    assert (merged, operators["MatMul"], operators["Add"], operators["Split"]) == (1, 1, 1, 1)


def test_one_pair_and_pairs_over_different_values_stay() -> None:
    nodes, constants, outputs = pairs(8, 8)
    nodes[2].input[0] = "other"
    made = model([node("Relu", ["x"], ["other"]), *nodes], constants, outputs)
    assert after(_onnx_rewrite.merge_matmuls, made)[0] == 0


@pytest.mark.parametrize("case", ["no bias", "residual", "two readers", "scalar bias", "short bias", "wide bias"])
def test_pairs_that_do_not_merge_stay_correct(case: str) -> None:
    nodes, constants, outputs = pairs(8, 8)
    if case == "no bias":
        nodes[3] = node("Relu", ["p1"], ["y1"])
        del constants["b1"]
    elif case == "residual":
        nodes[3] = node("Add", ["p1", "x"], ["y1"])
        del constants["b1"]
    elif case == "two readers":
        nodes.append(node("Neg", ["p1"], ["z"]))
        outputs.append("z")
    else:
        constants["b1"] = {"scalar bias": np.float32(3), "short bias": f32(1), "wide bias": f32(3, 8)}[case]
    after(_onnx_rewrite.merge_matmuls, model(nodes, constants, outputs))


def test_an_add_before_a_layer_normalization_becomes_a_sum() -> None:
    norm = node("LayerNormalization", ["s", "scale"], ["n"], axis=-1)
    made = model([node("Add", ["x", "b"], ["s"]), norm, node("Add", ["n", "b"], ["y"])], {"b": f32(8), "scale": f32(8)})
    changed, operators = after(_onnx_rewrite.unfuse_residuals, made)
    assert (changed, operators["Sum"], operators["Add"]) == (1, 1, 1)


def test_embedding_tables_become_int8_per_row() -> None:
    table = f32(100, 8) * np.logspace(-6, 3, 100, dtype=np.float32)[:, None]  # one scale for all would erase most rows
    table[5] = 0
    made = model([node("Gather", ["table", "x"], ["y"])], {"table": table}, x=IDS)
    expected = run(copy.deepcopy(made), IDS)[0]
    assert _onnx_quantize.quantize_tables(made) == 1
    got = run(made, IDS)[0]
    assert np.isfinite(got).all()
    for row, wanted in zip(got[0], expected[0], strict=True):
        assert np.abs(row - wanted).max() <= np.abs(wanted).max() / 254 * 1.001
    assert made.ByteSize() < table.nbytes / 2


@pytest.mark.parametrize("case", ["small", "tied to a matmul", "other axis", "table is the index", "two lookups"])
def test_tables_that_are_not_only_looked_up_by_row_stay_correct(case: str) -> None:
    table = f32(16 if case == "small" else 100, 100 if case == "other axis" else 8)
    nodes = [node("Gather", ["table", "x"], ["y"], axis=1 if case == "other axis" else 0)]
    x, atol = IDS % 16 if case == "small" else IDS, 1e-6
    if case == "tied to a matmul":
        nodes = [
            node("Gather", ["table", "x"], ["h"]),
            node("Transpose", ["table"], ["t"]),
            node("MatMul", ["h", "t"], ["y"]),
        ]
    elif case == "two lookups":
        nodes = [
            node("Gather", ["table", "x"], ["a"]),
            node("Gather", ["table", "x"], ["b"]),
            node("Add", ["a", "b"], ["y"]),
        ]
        atol = 0.05
    elif case == "table is the index":
        nodes = [node("Cast", ["table"], ["i"], to=TensorProto.INT64), node("Gather", ["x", "i"], ["z"], axis=1),
                 node("Cast", ["z"], ["y"], to=TensorProto.FLOAT)]  # fmt: skip
        table = np.zeros((100, 2), dtype=np.float32)
    made = model(nodes, {"table": table}, x=x)
    count, _ = after(_onnx_quantize.quantize_tables, made, x, atol)
    assert count == (1 if case == "two lookups" else 0)


@pytest.mark.parametrize("names", [("m0", "m1"), ("", "")], ids=["named", "nameless"])
def test_matmul_weights_become_int8_per_channel(names: tuple[str, str]) -> None:
    weights = {f"w{i}": f32(8, 4) * np.logspace(-3, 3, 4, dtype=np.float32) for i in range(2)}
    weights["w0"][:, 3] = 0
    nodes = [node("MatMul", ["x", f"w{i}"], [f"y{i}"], name=names[i]) for i in range(2)]
    made = model(nodes, weights, ["y0", "y1"])
    expected = run(copy.deepcopy(made))
    assert _onnx_quantize.quantize_weights(made) == 2
    for got, wanted, weight in zip(run(made), expected, weights.values(), strict=True):
        # Each weight is off by half a step at most, and a step is a channel's own.
        bound = np.abs(X).sum(-1, keepdims=True) * np.abs(weight).max(0) / 254
        assert (np.abs(got - wanted) <= bound * 1.001 + 1e-6).all()
    assert not [i for i in made.graph.initializer if i.data_type == TensorProto.FLOAT and list(i.dims) == [8, 4]]


def test_only_constant_two_dimensional_weights_are_quantized() -> None:
    nodes = [
        node("Transpose", ["x"], ["t"], perm=[0, 2, 1]),
        node("MatMul", ["x", "t"], ["s"]),
        node("MatMul", ["s", "w"], ["y"]),
    ]
    assert after(_onnx_quantize.quantize_weights, model(nodes, {"w": f32(1, 3, 4)}))[0] == 0
