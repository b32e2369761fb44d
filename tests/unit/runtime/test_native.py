"""EDGELLM_RUNNER: the native runner in the place of ExecuTorch's Python package, stood in for by a script here.

The script is no model: what is tested is who is started, what it is asked, and what is said when it fails.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgellm.errors import BundleError, DeviceError, UsageError
from edgellm.runtime import Bundle, Session, engines
from edgellm.runtime.worker import Worker
from tests.tiny import reseal, tiny_bundle

SCRIPT = """#!{python}
import json, sys
if sys.argv[1:] == ["--version"]:
    print("edgellm-runner 9.9 (executorch 1.5.1)")
    sys.exit()
asked = open({asked!r}, "a")
for line in sys.stdin:
    request = json.loads(line)
    print(json.dumps(request), file=asked, flush=True)
    if request["op"] == "open":
        reply = {opened}
    elif request["op"] == "time":
        reply = {{"inference_ms": [3.0] * request["runs"]}}
    elif request["op"] == "usage":
        reply = {{"cpu_ms": 12.5, "peak_rss_mb": 33.0}}
    else:
        {fails}
        reply = {{"outputs": {{"embedding": [[0.5] * {width}]}}, "timing": {{"tokenize_ms": 0.0, "inference_ms": 1.0}}}}
    print(json.dumps(reply), flush=True)
"""


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """A bundle whose artifact says that it is ExecuTorch's; no engine ever reads it here."""
    made = tiny_bundle(tmp_path / "bundle")
    path = made.path / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["artifacts"][0] |= {"format": "executorch", "id": "executorch-fp32", "delegate": "xnnpack"}
    manifest["matrix"]["names"][1] = "executorch-fp32"
    path.write_text(json.dumps(manifest))
    reseal(made.path)
    return Bundle.open(made.path)


@pytest.fixture
def width(bundle: Bundle) -> int:
    return int(bundle.manifest.artifacts[0].signature.outputs[0].shape[-1])


class Fake:
    """A runner script and what it was asked."""

    def __init__(self, folder: Path, width: int, *, opened: str = "", fails: str = "pass") -> None:
        self.path, self.log = folder / "runner", folder / "asked.jsonl"
        opened = (
            opened
            or '{"protocol": 1, "engine": "edgellm-runner 9.9 (executorch 1.5.1)", "load_ms": 7.0, "machine": {}}'
        )
        text = SCRIPT.format(python=sys.executable, asked=str(self.log), opened=opened, fails=fails, width=width)
        self.path.write_text(text)
        self.path.chmod(0o755)

    def asked(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]


def test_the_runner_opens_the_artifact_and_answers(
    bundle: Bundle, width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = Fake(tmp_path, width)
    monkeypatch.setenv("EDGELLM_RUNNER", str(fake.path))
    session = Session.open(bundle, threads=3)
    assert session.load_ms == 7.0
    done = session.run("red boots")
    np.testing.assert_array_equal(done.outputs[0]["embedding"], np.full((1, width), 0.5, dtype=np.float32))
    assert done.outputs[0]["embedding"].dtype == np.float32
    opened, infer = fake.asked()
    assert opened == {
        "op": "open", "bundle": str(bundle.path.resolve()), "artifact": "executorch-fp32", "threads": 3,
    }  # fmt: skip
    assert infer["feeds"] == {name: array.tolist() for name, array in done.feeds[0].items()}
    assert session.usage() == engines.Usage(12.5, 33.0)
    assert engines.engine_version("executorch") == "edgellm-runner 9.9 (executorch 1.5.1)"
    assert engines.require("executorch") == "edgellm-runner"


def test_bad_feeds_never_reach_it(bundle: Bundle, width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake(tmp_path, width)
    monkeypatch.setenv("EDGELLM_RUNNER", str(fake.path))
    session = Session.open(bundle)
    with pytest.raises(Exception, match="takes input_ids"):
        session.infer({})
    assert [request["op"] for request in fake.asked()] == ["open"]


def test_no_torch_is_imported_and_the_worker_says_which_engine_it_is(
    bundle: Bundle, width: int, tmp_path: Path
) -> None:
    fake = Fake(tmp_path, width)
    feeds = {spec.name: [[1, 1]] for spec in bundle.manifest.artifacts[0].signature.inputs}
    requests = [
        {"op": "open", "bundle": str(bundle.path), "artifact": "executorch"},
        {"op": "time", "feeds": feeds, "warmup": 1, "runs": 2},
    ]
    code = "import sys; from edgellm.runtime.worker import main; main(); assert 'torch' not in sys.modules"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        input="".join(json.dumps(request) + "\n" for request in requests),
        capture_output=True, text=True, check=True, env={**os.environ, "EDGELLM_RUNNER": str(fake.path)},
    )  # fmt: skip
    opened, timed = (json.loads(line) for line in done.stdout.splitlines())
    assert opened["engine"] == "edgellm-runner 9.9 (executorch 1.5.1)"
    assert opened["load_ms"] == 7.0
    # The runner's clock and memory, not the worker's: the pipe is in neither.
    assert (timed["tokens"], timed["tokenize_ms"], timed["inference_ms"]) == (2, [0.0, 0.0], [3.0, 3.0])
    assert timed["peak_rss_mb"] == 33.0
    assert [(r["op"], r.get("runs")) for r in fake.asked()] == [
        ("open", None), ("time", 1), ("usage", None), ("time", 2), ("usage", None),
    ]  # fmt: skip


def test_a_text_is_tokenized_here_and_timed_there(
    bundle: Bundle, width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = Fake(tmp_path, width)
    monkeypatch.setenv("EDGELLM_RUNNER", str(fake.path))
    worker = Worker()
    worker.reply(json.dumps({"op": "open", "bundle": str(bundle.path), "artifact": "executorch"}))
    timed = worker.reply(json.dumps({"op": "time", "input": "The kettle is on.", "max_tokens": 4, "runs": 3}))
    assert timed["inference_ms"] == [3.0] * 3
    assert len(timed["tokenize_ms"]) == 3  # type: ignore[arg-type]
    assert min(timed["tokenize_ms"]) > 0  # type: ignore[call-overload]
    assert timed["tokens"] == 4


@pytest.mark.parametrize("kind", ["missing", "folder", "not executable"])
def test_a_variable_that_names_no_program_is_an_error_and_not_a_fallback(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    named = tmp_path / "named"
    if kind == "folder":
        named.mkdir()
    if kind == "not executable":
        named.write_text("#!/bin/sh\n")
    monkeypatch.setenv("EDGELLM_RUNNER", str(named))
    with pytest.raises(UsageError, match=r"EDGELLM_RUNNER names .*named, which is no program"):
        Session.open(bundle)
    with pytest.raises(UsageError, match="EDGELLM_RUNNER"):
        engines.engine_version("executorch")


def test_another_program_or_one_for_another_machine_is_an_error(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    other.write_text("#!/bin/sh\necho bash 5.2\n")
    other.chmod(0o755)
    monkeypatch.setenv("EDGELLM_RUNNER", str(other))
    with pytest.raises(DeviceError, match=r"is no edgellm-runner that runs here. It says: bash 5.2"):
        Session.open(bundle)
    foreign = tmp_path / "foreign"
    foreign.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\xb7\x00" + bytes(44))  # ELF for aarch64
    foreign.chmod(0o755)
    monkeypatch.setenv("EDGELLM_RUNNER", str(foreign))
    with pytest.raises(DeviceError, match="does not run here: Exec format error"):
        Session.open(bundle)


def test_an_error_of_the_runner_keeps_its_kind(
    bundle: Bundle, width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire = '{"error": {"kind": "BundleError", "message": "ExecuTorch can\'t load it.", "hint": "0x14"}}'
    monkeypatch.setenv("EDGELLM_RUNNER", str(Fake(tmp_path, width, opened=wire).path))
    with pytest.raises(BundleError, match="can't load it"):
        Session.open(bundle)


def test_a_runner_that_dies_says_of_what(
    bundle: Bundle, width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails = "import os, signal; os.kill(os.getpid(), signal.SIGILL)"
    monkeypatch.setenv("EDGELLM_RUNNER", str(Fake(tmp_path, width, fails=fails).path))
    session = Session.open(bundle)
    with pytest.raises(DeviceError, match="edgellm-runner died of SIGILL"):
        session("red boots")


def test_other_formats_do_not_care(embedder: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGELLM_RUNNER", str(tmp_path / "nowhere"))
    assert Session.open(embedder).format == "onnx"
    assert engines.engine_version("onnx").startswith("onnxruntime ")
    monkeypatch.setenv("EDGELLM_RUNNER", "")
    assert engines.native_runner("executorch") is None


def test_a_runner_of_another_protocol_is_refused_when_it_opens(
    bundle: Bundle, width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = Fake(tmp_path, width, opened='{"protocol": 2, "engine": "x", "load_ms": 7.0, "machine": {}}')
    monkeypatch.setenv("EDGELLM_RUNNER", str(fake.path))
    with pytest.raises(DeviceError, match=r"speaks another version of the worker's lines \(2\)"):
        Session.open(bundle)
