"""The version stamp that makes old TFLite runtimes refuse what they would compute wrongly."""

from __future__ import annotations

import flatbuffers
import pytest
from ai_edge_litert import schema_py_generated as schema

from edgellm.backends.tflite import stamp_fully_connected
from edgellm.errors import EdgellmError

FULLY_CONNECTED, ADD = schema.BuiltinOperator.FULLY_CONNECTED, schema.BuiltinOperator.ADD


def flatbuffer(*codes: tuple[int, int]) -> bytearray:
    """Return a model of nothing but operator codes and their versions."""
    model = schema.ModelT()
    model.version = 3
    model.operatorCodes = []
    for builtin, version in codes:
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = builtin
        code.version = version
        model.operatorCodes.append(code)
    builder = flatbuffers.Builder(256)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytearray(builder.Output())


def versions(data: bytearray) -> list[int]:
    model = schema.Model.GetRootAsModel(data, 0)
    return [model.OperatorCodes(i).Version() for i in range(model.OperatorCodesLength())]


def test_every_fully_connected_is_raised_and_nothing_else() -> None:
    data = flatbuffer((ADD, 2), (FULLY_CONNECTED, 4), (FULLY_CONNECTED, 9), (ADD, 1))
    size = len(data)
    stamp_fully_connected(data, 12)
    assert versions(data) == [2, 12, 12, 1]
    assert len(data) == size


def test_a_newer_version_is_not_lowered() -> None:
    data = flatbuffer((FULLY_CONNECTED, 14))
    stamp_fully_connected(data, 12)
    assert versions(data) == [14]


@pytest.mark.parametrize("codes", [(), ((ADD, 2),)])
def test_a_graph_without_any_is_refused_since_it_would_go_unguarded(codes: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(EdgellmError, match="no FULLY_CONNECTED"):
        stamp_fully_connected(flatbuffer(*codes), 12)


def test_a_version_that_is_not_stored_is_refused_since_it_can_not_be_patched() -> None:
    with pytest.raises(EdgellmError, match="can't be guarded"):
        stamp_fully_connected(flatbuffer((FULLY_CONNECTED, 1)), 12)
