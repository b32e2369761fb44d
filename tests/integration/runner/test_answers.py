"""The native runner gives the same answers as the Python runtime, and measures the same things."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgellm.core.latency import Latency
from edgellm.core.manifest import Artifact
from edgellm.runtime import Bundle, Session
from edgellm.runtime.bundle import to_json
from edgellm.runtime.client import WorkerClient
from edgellm.runtime.machine import Machine
from edgellm.toolchain import runner as toolchain
from tests.integration.conftest import edgellm
from tests.integration.runner.driving import EXIT, edit, feeds_line, run, worker

pytestmark = pytest.mark.integration


def test_it_answers_as_the_python_runtime_does(program: Path, demo_bundle: Bundle, artifact: Artifact) -> None:
    session = Session.open(demo_bundle, format=artifact.id)
    with worker(program, demo_bundle.path) as ask:
        for case in islice(demo_bundle.golden(), 24):
            feeds = {name: array.tolist() for name, array in case.feeds[0].items()}
            reply = ask(json.dumps({"op": "infer", "feeds": feeds}).encode())
            assert set(reply) == {"outputs", "timing"}
            expected = session.infer(case.feeds[0])["embedding"]
            got = np.asarray(reply["outputs"]["embedding"], dtype=np.float32)
            np.testing.assert_array_equal(got, expected)
            # No digit more than gives the float back, but for the rare one that Grisu2 adds.
            digits, shortest = len(json.dumps(reply["outputs"]["embedding"])), len(json.dumps(to_json(expected)))
            assert digits <= shortest * 1.01


def test_texts_shorter_than_it_takes_are_padded(program: Path, demo_bundle: Bundle, artifact: Artifact) -> None:
    assert artifact.signature.min_tokens > 2
    session = Session.open(demo_bundle, format=artifact.id)
    feeds = {"input_ids": [[101, 102]], "attention_mask": [[1, 1]], "token_type_ids": [[0, 0]]}
    with worker(program, demo_bundle.path) as ask:
        got = ask(feeds_line("infer", **feeds))["outputs"]["embedding"]
    expected = session.infer({name: np.array(rows, dtype=np.int64) for name, rows in feeds.items()})
    np.testing.assert_array_equal(np.asarray(got, dtype=np.float32), expected["embedding"])


def test_a_session_through_it_gives_the_same_values(
    program: Path, demo_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [str(case.input) for case in islice(demo_bundle.golden(), 4)]
    expected = [result.value for result in Session.open(demo_bundle, format="executorch")(texts)]
    monkeypatch.setenv("EDGELLM_RUNNER", str(program))
    native = Session.open(demo_bundle, format="executorch")
    assert native.remote
    for result, value in zip(native(texts), expected, strict=True):
        np.testing.assert_array_equal(result.value, value)


def test_a_bundle_is_verified_through_it(program: Path, demo_bundle: Bundle) -> None:
    env = {**os.environ, "EDGELLM_RUNNER": str(program)}
    done = edgellm("verify", str(demo_bundle.path), "--format", "executorch", "--cases", "4", env=env)
    assert done.returncode == 0, done.stderr


def test_golden_reaches_the_agreement_that_the_manifest_states(
    program: Path, demo_bundle: Bundle, artifact: Artifact
) -> None:
    done = run(program, "golden", str(demo_bundle.path), "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["ok"] is True
    assert report["agreement"]["n"] == artifact.agreement.n
    assert report["agreement"]["mean"] == pytest.approx(artifact.agreement.mean, abs=1e-6)
    assert report["agreement"]["min"] == pytest.approx(artifact.agreement.min, abs=1e-6)
    assert report["agreement"]["worst"] == artifact.agreement.worst
    few = run(program, "golden", str(demo_bundle.path), "--cases", "3", "--threads", "2", f"--artifact={artifact.id}")
    assert "3 cases" in few.stdout


def test_golden_fails_the_gate_with_its_exit_code(program: Path, copied: Path) -> None:
    edit(copied, lambda manifest: manifest.update(min_agreement=0.9999))
    done = run(program, "golden", str(copied))
    assert done.returncode == EXIT["GateError"]
    assert "the gate is 0.9999" in done.stderr


def test_a_classifier_is_judged_by_its_decisions(program: Path, copied: Path) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest["task"] = "text-classification"
        manifest["task_options"]["scores"] = "softmax"

    edit(copied, change)
    report = json.loads(run(program, "golden", str(copied), "--cases", "8", "--json").stdout)
    assert report["agreement"]["metric"] == "same decision"
    assert report["agreement"]["mean"] in {n / 8 for n in range(9)}


@pytest.mark.parametrize(("runs", "p99"), [(3, False), (100, True)])
def test_bench_prints_what_edgellm_bench_prints(
    program: Path, demo_bundle: Bundle, artifact: Artifact, runs: int, p99: bool
) -> None:
    done = run(program, "bench", str(demo_bundle.path), "--tokens", "16", "--runs", str(runs), "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert set(report["machine"]) == {field.name for field in dataclasses.fields(Machine)}
    assert report["engines"] == {artifact.id: f"edgellm-runner {toolchain._own_version()} (executorch 1.5.1)"}
    (record,) = report["records"]
    assert list(record) == [field.name for field in dataclasses.fields(Latency)]
    latency = Latency(**record)
    assert (latency.id, latency.tokens, latency.runs, latency.threads) == (artifact.id, 16, runs, 1)
    assert (latency.p99_ms is not None) == p99
    assert 0 < latency.p50_ms <= latency.p90_ms
    assert latency.peak_rss_mb > 10
    people = run(program, "bench", str(demo_bundle.path), "--tokens", "16", "--runs", "3", "--warmup", "1").stdout
    assert "p99 n/a" in people


def test_open_and_time_reply_as_the_python_worker_does(program: Path, demo_bundle: Bundle) -> None:
    commands = {"python": [sys.executable, "-P", "-m", "edgellm.runtime"], "runner": [str(program)]}
    feeds = json.loads(feeds_line("time"))["feeds"]
    replies: dict[str, list[dict[str, Any]]] = {}
    for name, command in commands.items():
        with WorkerClient(command, what=name) as client:
            opened = client.request("open", bundle=str(demo_bundle.path), artifact="executorch", threads=2)
            replies[name] = [opened, client.request("time", feeds=feeds, warmup=1, runs=4)]
    (a, x), (b, y) = replies["python"], replies["runner"]
    assert b["protocol"] == 1
    assert a.keys() | {"protocol"} == b.keys()
    assert x.keys() == y.keys()
    left, right = Machine(**a["machine"]), Machine(**b["machine"])
    assert dataclasses.replace(right, python=left.python, load=left.load) == left
    assert (y["tokens"], y["tokenize_ms"], len(y["inference_ms"])) == (3, [0.0] * 4, 4)
