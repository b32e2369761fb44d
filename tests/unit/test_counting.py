"""Counting: the arithmetic, and what may not be set side by side. The counter itself is tested on an emulator."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from edgellm.benchmark import bench
from edgellm.cli import render
from edgellm.core import strict
from edgellm.counting import count
from edgellm.device.host import Host
from edgellm.errors import UsageError
from edgellm.runtime import Bundle
from edgellm.runtime.client import WorkerClient
from tests.tiny import edit_manifest, tiny_bundle

WORKER = """
import json, sys, pathlib
meter, total = pathlib.Path(sys.argv[1]), 0
for line in sys.stdin:
    request = json.loads(line)
    total += 1000 + 7 * len(line)  # reading and answering cost something as well
    if request["op"] == "time":
        tokens = len(request["feeds"]["input_ids"][0])
        total += (request["warmup"] + request["runs"]) * 50_000 * tokens
    meter.write_text(str(total))
    print(json.dumps({"engine": "abacus 1"}), flush=True)
"""


class Abacus(Host):
    """A device with an engine that takes 50,000 instructions per token."""

    name = "emulator:abacus"
    emulated = True
    cpu = "abacus"

    def check(self, formats: Sequence[str], *, counting: bool = False) -> None:
        assert counting

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._workers = itertools.count()

    def start(self, fmt: str, *, counting: bool = False) -> WorkerClient:
        assert counting
        meter = self._folder / f"meter-{next(self._workers)}"
        command = [sys.executable, "-c", WORKER, str(meter)]
        return WorkerClient(command, what="abacus", counter=lambda: int(meter.read_text()))


def test_a_count_is_the_difference_between_two_blocks(embedder: Bundle, tmp_path: Path) -> None:
    result = count([embedder], [Abacus(tmp_path)], tokens=(8, 16), runs=3)
    assert [(r.tokens, r.instructions) for r in result.records] == [(8, 400_000), (16, 800_000)]
    assert {(r.cpu, r.format, r.scheme) for r in result.records} == {("abacus", "onnx", "fp32")}
    assert result.engines == {"emulator:abacus": {"onnx-fp32": "abacus 1"}}


def test_no_time_and_no_latency_is_ever_said_of_an_emulated_run(embedder: Bundle, tmp_path: Path) -> None:
    result = count([embedder], [Abacus(tmp_path)], tokens=(8,))
    said = json.dumps(strict.plain(result)) + render.counted(result)
    assert "latency" not in said
    assert "_ms" not in said
    assert not [word for word in said.replace('"', " ").split() if word.strip(",.") == "ms"]


@pytest.mark.parametrize("same", [True, False])
def test_int8_is_set_beside_fp32_of_the_same_model(tmp_path: Path, same: bool) -> None:
    fp32, other = tiny_bundle(tmp_path / "fp32"), tiny_bundle(tmp_path / "other")

    def change(data: dict[str, Any]) -> None:
        data["artifacts"][0] |= {"id": "onnx-int8-dynamic", "scheme": "int8-dynamic"}
        if not same:
            data["model"]["source_sha256"] = "0" * 64

    edit_manifest(other.path, change)
    result = count([fp32, Bundle.open(other.path)], [Abacus(tmp_path)], tokens=(8,))
    assert [r.of_fp32 for r in result.records] == [None, 1.0 if same else None]
    lines = render.counted(result).splitlines()
    assert lines[1].split() == ["abacus", "onnx", "fp32", "8", "0.40"]
    assert lines[2].split() == ["abacus", "onnx", "int8-dynamic", "8", "0.40", *(["1.000"] if same else [])]


def test_a_real_device_is_not_counted_and_an_emulated_one_not_timed(embedder: Bundle, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="host is no emulator: it has a latency"):
        count([embedder], [Host()])
    with pytest.raises(UsageError, match="emulator:abacus is an emulator and has no latency"):
        bench(embedder, Abacus(tmp_path))
    with pytest.raises(UsageError, match="emulator:abacus and host can't be compared"):
        count([embedder], [Abacus(tmp_path), Host()])


def test_two_bundles_with_the_same_artifact_are_refused(tmp_path: Path, embedder: Bundle) -> None:
    with pytest.raises(UsageError, match="hold onnx-fp32"):
        count([embedder, tiny_bundle(tmp_path / "b")], [Abacus(tmp_path)])


@pytest.mark.parametrize("options", [{"runs": 0}, {"tokens": (2,)}, {"tokens": (1000,)}, {"formats": ("tflite",)}])
def test_wrong_numbers_are_refused(embedder: Bundle, tmp_path: Path, options: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        count([embedder], [Abacus(tmp_path)], **options)  # type: ignore[arg-type]
