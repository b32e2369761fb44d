"""Sensitivity finds what was planted, and every part of it is consistent with the whole."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgellm.core import strict
from edgellm.core.sensitivity import Sensitivity

from .conftest import edgellm

pytestmark = pytest.mark.integration


def measured(model: Path, *options: str) -> Sensitivity:
    done = edgellm("sensitivity", str(model), *options, "--json")
    assert done.returncode == 0, done.stderr
    return strict.read(Sensitivity, json.loads(done.stdout), "sensitivity")


def decibels(value: float | None) -> float:
    """Return a ratio; a part that changes nothing, as a pooler that nobody listens to, has an infinite one."""
    return math.inf if value is None else value


def test_a_planted_outlier_is_found_and_its_kind_named(model: Callable[[str], Path]) -> None:
    found = measured(model("collapsing"), "--scheme", "int8-dynamic")
    assert (found.scheme, found.format, found.ranges) == ("int8-dynamic", "executorch", None)
    assert (found.calibrated, found.measured) == (64, 32)
    assert {part.name.partition("layer.")[2] for part in found.layers[:2]} == {"0.output.dense", "1.output.dense"}
    assert found.kinds[0].name == "inputs"
    assert {part.name for part in found.kinds} == {"inputs", "weights", "tables"}
    whole = decibels(found.whole.snr_db)
    inputs = found.kinds[0]
    assert decibels(inputs.without.snr_db) > whole + 6, "without the culprit it is much better"
    assert inputs.without.agreement > 0.99 > found.whole.agreement
    assert all(decibels(part.alone.snr_db) >= whole - 1 for part in (*found.layers, *found.kinds))
    order = [decibels(part.alone.snr_db) for part in found.layers]
    assert order == sorted(order)


def test_static_ranges_and_what_a_person_reads(model: Callable[[str], Path], tmp_path: Path) -> None:
    own = tmp_path / "texts.txt"
    own.write_text("".join(f"The kettle number {number} is on.\n" for number in range(30)))
    picture = tmp_path / "parts.svg"
    done = edgellm(
        "sensitivity", str(model("classifier")), "--calibration", str(own), "--format", "onnx", "--plot", str(picture)
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("classifier, int8-static as in onnx, ranges by mse: ")
    rows: dict[str, Any] = {line.split()[0]: line for line in done.stdout.splitlines() if line}
    assert {"inputs", "weights", "tables"} <= rows.keys()
    assert "outputs" not in rows, "ONNX leaves them in fp32"
    assert "Simulated in fp32 on 10 texts; 20 others chose scales and ranges." in done.stdout
    assert "agreement: equal decisions" in done.stdout
    assert "edgellm's own texts" not in done.stdout
    drawn = picture.read_text(encoding="utf-8")
    assert "simulated in fp32 on 10 texts; all layers" in drawn
    assert all(f">{name}</text>" in drawn for name in rows if name.startswith("model."))
