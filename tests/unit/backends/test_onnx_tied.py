"""A head that reads the embedding table: int8 like any other matmul, and in the file once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgellm.backends._onnx_graph import drop_unused
from edgellm.backends._onnx_quantize import quantize_dynamic, quantize_tables, quantize_weights
from edgellm.backends._onnx_tied import share, untie

ROWS, WIDTH = 300, 32


def table() -> NDArray[np.float32]:
    return np.random.default_rng(2).normal(size=(ROWS, WIDTH)).astype(np.float32)


def tied(perm: tuple[int, ...] = (1, 0), *, gain: float | None = None) -> onnx.ModelProto:
    """Return ids [1, tokens] to scores [1, tokens, ROWS]; with a gain, the head has a table of its own."""
    constants = [numpy_helper.from_array(table(), "table")]
    if gain is not None:
        constants.append(numpy_helper.from_array(table() * np.linspace(1, gain, WIDTH, dtype=np.float32), "own"))
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["hidden"], name="lookup"),
        helper.make_node("Transpose", ["own" if gain is not None else "table"], ["head"], name="turn", perm=perm),
        helper.make_node("MatMul", ["hidden", "head"], ["scores"], name="score"),
    ]
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, [1, "tokens"])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, "tokens", ROWS])
    graph = helper.make_graph(nodes, "tied", [ids], [scores], constants)
    model = helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 20)])
    onnx.checker.check_model(model)
    return model


def run(model: onnx.ModelProto) -> NDArray[np.float32]:
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (scores,) = session.run(None, {"ids": np.array([[0, 7, 299, 12]], dtype=np.int64)})
    return np.asarray(scores)


def quantized(model: onnx.ModelProto, scheme: str, folder: Path) -> onnx.ModelProto:
    untie(model)
    quantize_tables(model)
    if scheme == "int8-dynamic":
        model = quantize_dynamic(model, folder)
    else:
        quantize_weights(model)
    return model


@pytest.mark.parametrize("scheme", ["int8-dynamic", "int8-weight-only"])
def test_a_tied_head_is_int8_and_stored_once(scheme: str, tmp_path: Path) -> None:
    expected = run(tied())
    model = quantized(tied(), scheme, tmp_path)
    before = run(model)
    assert share(model) == 1
    drop_unused(model)
    assert np.array_equal(run(model), before)
    assert np.corrcoef(before.ravel(), expected.ravel())[0, 1] > 0.999
    assert sum(numpy_helper.to_array(item).nbytes for item in model.graph.initializer) < 1.5 * ROWS * WIDTH
    assert not [item for item in model.graph.initializer if item.data_type == TensorProto.FLOAT and len(item.dims) == 2
                and min(item.dims) > 1]  # fmt: skip


@pytest.mark.parametrize("scheme", ["int8-dynamic", "int8-weight-only"])
def test_another_table_is_not_taken_for_it(scheme: str, tmp_path: Path) -> None:
    model = quantized(tied(gain=1.5), scheme, tmp_path)
    before = run(model)
    assert share(model) == 0
    assert np.array_equal(run(model), before)


def test_taking_apart_changes_nothing() -> None:
    model = tied()
    assert untie(model) == 1
    assert [node.op_type for node in model.graph.node] == ["Gather", "MatMul"]
    assert np.array_equal(run(model), run(tied()))
    assert untie(model) == 0


def test_values_a_step_apart_are_shared_only_where_they_are_few() -> None:
    def model(changed: int) -> onnx.ModelProto:
        low = np.random.default_rng(3).integers(-126, 126, size=(2000, WIDTH)).astype(np.int8)
        high = low.T.copy()
        high.reshape(-1)[:changed] += 1
        nodes = [helper.make_node("Gather", ["low", "ids"], ["rows"])]
        initializers = [numpy_helper.from_array(low, "low"), numpy_helper.from_array(high, "high")]
        return helper.make_model(helper.make_graph(nodes, "pair", [], [], initializers))

    assert [share(model(changed)) for changed in (0, 6, 7)] == [1, 1, 0]
