"""An artifact that can't be built is refused with the reason; a machine that failed ends the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from edgellm.errors import DeviceError, EdgellmError, GateError, InputError
from edgellm.optimize import measure
from edgellm.optimize.recipe import Setup
from edgellm.runtime.bundle import Bundle
from edgellm.stages.cache import Cache


def measured(monkeypatch: pytest.MonkeyPatch, error: EdgellmError) -> Any:
    def fails(*given: object) -> Bundle:
        raise error

    monkeypatch.setattr(measure, "built", fails)
    nothing = cast(Any, None)
    return measure.measured(
        cast(Setup, nothing), Path("model"), "int8-dynamic", [], cast(Bundle, nothing), cast(Cache, nothing), Path("bundle")
    )  # fmt: skip


@pytest.mark.parametrize("kind", [GateError, InputError, EdgellmError])
def test_what_can_t_be_built_is_refused(monkeypatch: pytest.MonkeyPatch, kind: type[EdgellmError]) -> None:
    found = measured(monkeypatch, kind("lower onnx failed, with --seq-len 16"))
    assert (found.refused, found.drop) == ("lower onnx failed, with seq_len 16", None)


def test_a_refusal_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    found = measured(monkeypatch, GateError("onnx agrees by 0.9.\n\nMean agreement of each pair:\n  source  onnx"))
    assert found.refused == "onnx agrees by 0.9."


def test_a_machine_that_failed_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DeviceError):
        measured(monkeypatch, DeviceError("The disk is full."))
