"""A search of a real model: killed in mid-trial, resumed, and its command builds what was chosen."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgellm.core import strict
from edgellm.core.search import Front
from edgellm.runtime import Bundle

from .conftest import edgellm

pytestmark = pytest.mark.integration


def test_a_search_is_killed_resumed_and_built(model: Callable[[str], Path], tmp_path: Path) -> None:
    out = tmp_path / "found"
    asked = [
        "search", str(model("wordy")), "--target", "linux-x86_64", "--format", "onnx", "--max-drop", "2", "--trials", "3",
        "--scheme", "int4-dynamic", "--seq-len", "16,32", "--out", str(out),
    ]  # fmt: skip
    with subprocess.Popen([sys.executable, "-m", "edgellm", *asked], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("trial 0"):  # so trial 1 runs, or is about to
                break
        process.send_signal(signal.SIGKILL)
    again = edgellm(*asked)
    assert again.returncode == 2
    assert "There is a study 'edgellm'" in again.stderr
    other = edgellm(*asked, "--max-drop", "3", "--resume")
    assert other.returncode == 2
    assert "is of something else: bounds" in other.stderr

    done = edgellm(*asked, "--resume", "--json")
    assert done.returncode == 0, done.stderr
    found = strict.read(Front, json.loads(done.stdout), "front")
    assert json.loads((out / "front.json").read_text()) == json.loads(done.stdout)
    assert [point.number for point in found.points] == [0, 1, 2]
    assert not found.failures
    assert found.points[0].origin == "all int8-dynamic"
    assert found.chosen is not None
    chosen, uniform = found.point(found.chosen), found.points[0]
    assert found.gain is not None
    assert found.gain > 0.25
    assert found.gain == pytest.approx(1 - chosen.bytes / uniform.bytes)
    assert (out / "front.svg").read_text().startswith("<?xml")

    words = shlex.split(found.command)
    assert words[0] == "edgellm"
    built = edgellm(*words[1:], "--out", str(tmp_path / "bundle"), "--quiet")
    assert built.returncode == 0, built.stderr
    assert Bundle.open(tmp_path / "bundle").manifest.artifacts[0].bytes == chosen.bytes, (
        "the same artifact, from the cache"
    )


def test_bounds_that_nothing_keeps_name_the_closest_point(model: Callable[[str], Path], tmp_path: Path) -> None:
    done = edgellm(
        "search", str(model("wordy")), "--target", "linux-x86_64", "--format", "onnx", "--max-size", "10KB", "--trials", "1",
        "--scheme", "int4-dynamic", "--seq-len", "16,32", "--out", str(tmp_path / "found"), "--quiet",
    )  # fmt: skip
    assert done.returncode == 5
    assert "The closest, trial 0, breaks --max-size 10000: 0." in done.stderr
    assert json.loads((tmp_path / "found" / "front.json").read_text())["chosen"] is None
