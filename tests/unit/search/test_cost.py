"""What a cost is called."""

from __future__ import annotations

import dataclasses

import pytest

from edgellm.runtime.machine import machine
from edgellm.search import cost
from edgellm.search.cost import Meter


def test_what_times_are_of_is_called_the_same_at_any_load(monkeypatch: pytest.MonkeyPatch) -> None:
    """It stands over figures from before an interruption and after it."""
    now, names = machine(), set[str]()
    for load, governor in ((0.1, "performance"), (7.5, "powersave")):
        monkeypatch.setattr(cost, "machine", lambda load=load, governor=governor: dataclasses.replace(
            now, load=load, governor=governor
        ))  # fmt: skip
        names.add(str(Meter("latency")))
    assert names == {f"median time of {cost.RUNS} runs on {now.hardware}, one thread"}
    assert now.cpu in now.hardware
