"""Out of memory is told as such, however an engine says it."""

from __future__ import annotations

import json

import pytest

from edgellm.errors import BundleError
from edgellm.runtime.machine import out_of_memory
from edgellm.runtime.worker import Worker


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        BundleError("onnxruntime can't load x.onnx: std::bad_alloc.", hint="If it is too old, upgrade it."),
        ImportError("libfoo.so: failed to map segment from shared object"),
        OSError(12, "Cannot allocate memory"),
    ],
)
def test_a_request_that_runs_out_of_memory_is_a_device_error(error: Exception) -> None:
    def fail(request: object) -> dict[str, object]:
        raise error

    worker = Worker()
    worker._ops["open"] = fail
    reply = worker.reply(json.dumps({"op": "open"}))["error"]
    assert isinstance(reply, dict)
    assert reply["kind"] == "DeviceError"
    assert "ran out of memory" in reply["message"]
    assert "upgrade" not in reply["hint"]


def test_other_errors_are_not() -> None:
    assert not out_of_memory("model.tflite has no signature for 16 tokens")
