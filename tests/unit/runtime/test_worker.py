"""The worker as a real process: the lines it speaks, and that nothing but its end ends it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgellm.runtime import Bundle
from tests.tiny import tiny_bundle

COMMAND = [sys.executable, "-P", "-m", "edgellm.runtime"]


class Pipe:
    """Speaks to a worker in bytes, without the client of `edgellm.device`."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    def line(self, data: bytes) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(data + b"\n")
        self.process.stdin.flush()
        reply = json.loads(self.process.stdout.readline())
        assert isinstance(reply, dict)
        return reply

    def __call__(self, op: str, **fields: object) -> dict[str, Any]:
        return self.line(json.dumps({"op": op, **fields}).encode())

    def open(self, home: Bundle, **fields: object) -> dict[str, Any]:
        return self("open", **{"bundle": str(home.path), "artifact": "onnx-fp32", "threads": 1, **fields})


@contextmanager
def worker(command: list[str] = COMMAND, **env: str) -> Iterator[Pipe]:
    environment = {**os.environ, **env}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as process:
        yield Pipe(process)
        out, _ = process.communicate(timeout=20)
        assert out == b""
        assert process.returncode == 0


@pytest.fixture(scope="module")
def opened(embedder: Bundle) -> Iterator[Pipe]:
    with worker() as pipe:
        assert "error" not in pipe.open(embedder)
        yield pipe


def test_open_says_which_engine_on_which_machine(embedder: Bundle) -> None:
    with worker() as pipe:
        reply = pipe.open(embedder)
        assert set(reply) == {"protocol", "engine", "load_ms", "machine"}
        assert reply["engine"].startswith("onnxruntime ")
        assert reply["load_ms"] > 0
        assert reply["machine"]["cores"] >= 1
        assert pipe.open(embedder)["error"]["kind"] == "UsageError"  # one artifact per worker


def test_run_takes_raw_text_and_shows_everything_on_the_way(opened: Pipe, embedder: Bundle) -> None:
    for case in embedder.golden():
        reply = opened("run", input=case.input)
        assert set(reply) == {"feeds", "outputs", "value", "timing", "truncated"}
        assert reply["feeds"][0]["input_ids"] == case.feeds[0]["input_ids"].tolist()
        np.testing.assert_allclose(reply["outputs"][0]["embedding"], case.outputs[0]["embedding"], rtol=1e-5)
        assert reply["value"] == reply["outputs"][0]["embedding"][0]
        assert set(reply["timing"]) == {"tokenize_ms", "inference_ms"}
        assert reply["truncated"] is False


def test_run_with_a_limit_says_that_it_cut(opened: Pipe) -> None:
    reply = opened("run", input="boots boots boots boots", max_tokens=4)
    assert reply["truncated"] is True
    assert len(reply["feeds"][0]["input_ids"][0]) == 4


def test_infer_takes_feeds(opened: Pipe) -> None:
    run = opened("run", input="red boots")
    reply = opened("infer", feeds=run["feeds"][0])
    assert reply["outputs"] == run["outputs"][0]
    assert set(reply) == {"outputs", "timing"}


def test_time_gives_one_sample_per_run(opened: Pipe) -> None:
    reply = opened("time", input="red boots", max_tokens=None, warmup=2, runs=7)
    assert set(reply) == {"tokens", "tokenize_ms", "inference_ms", "cpu_ms", "peak_rss_mb"}
    assert (reply["tokens"], len(reply["tokenize_ms"]), len(reply["inference_ms"])) == (4, 7, 7)
    assert reply["peak_rss_mb"] > 10
    assert opened("time", input="x", warmup=1, runs=0)["inference_ms"] == []


def test_time_takes_feeds_and_then_tokenizes_nothing(opened: Pipe) -> None:
    feeds = opened("run", input="red boots")["feeds"][0]
    reply = opened("time", feeds=feeds, warmup=2, runs=7)
    assert set(reply) == {"tokens", "tokenize_ms", "inference_ms", "cpu_ms", "peak_rss_mb"}
    assert (reply["tokens"], reply["tokenize_ms"], len(reply["inference_ms"])) == (4, [0.0] * 7, 7)
    assert all(took > 0 for took in reply["inference_ms"])
    assert opened("time", feeds={"input_ids": [[1]]}, runs=1)["error"]["kind"] == "InputError"
    assert opened("time", feeds=feeds, input="x", runs=1)["error"]["kind"] == "UsageError"


@pytest.mark.parametrize(
    ("line", "kind", "fragment"),
    [
        (b"", "InputError", "The request is wrong"),
        (b"garbage", "InputError", "The request is wrong"),
        (b'{"op": "run"', "InputError", "The request is wrong"),
        (b"[1]", "UsageError", "A request is an object whose op is one of open, run, infer, time"),
        (b"null", "UsageError", "A request is an object"),
        (b"{}", "UsageError", "A request is an object"),
        (b'{"op": "exec"}', "UsageError", "A request is an object"),
        (b'{"op": ["run"]}', "InputError", "The request is wrong"),
        (b'{"op": "run"}', "InputError", "KeyError 'input'"),
        (b'{"op": "run", "input": 5}', "InputError", "takes a text, not int"),
        (b'{"op": "run", "input": "\\ud800"}', "InputError", "surrogate"),
        (b'{"op": "run", "input": "x", "max_tokens": 2}', "InputError", "no room"),
        (b'{"op": "run", "input": "x", "max_tokens": "2"}', "InputError", "The request is wrong"),
        (b'{"op": "infer", "feeds": {"input_ids": [[1]]}}', "InputError", "takes input_ids, attention_mask"),
        (b'{"op": "infer", "feeds": {"input_ids": [[9999]], "attention_mask": [[1]]}}', "InputError", "is valid"),
        (b'{"op": "infer", "feeds": {"input_ids": [[1, 2], [3]]}}', "InputError", "The request is wrong"),
        (b'{"op": "infer", "feeds": [1]}', "InputError", "The request is wrong"),
        (b'{"op": "infer", "feeds": {"input_ids": [[1e99]], "attention_mask": [[1]]}}', "InputError", ""),
        (b'{"op": "time", "input": "x"}', "InputError", "KeyError 'runs'"),
        (b"[" * 100_000, "", ""),
    ],
)
def test_a_bad_line_gets_an_error_and_the_worker_goes_on(opened: Pipe, line: bytes, kind: str, fragment: str) -> None:
    error = opened.line(line)["error"]
    assert set(error) == {"kind", "message", "hint"}
    assert fragment in error["message"]
    assert error["kind"] == kind or not kind
    assert "value" in opened("run", input="still there")


@pytest.mark.parametrize("encoding", ["utf-8:strict", "ascii", "latin-1"], ids=["UTF-8", "C", "Latin-1"])
def test_bytes_that_are_no_text_do_not_end_the_worker(encoding: str) -> None:
    with worker(PYTHONIOENCODING=encoding) as pipe:
        assert "error" in pipe.line(b'\xff\xfe{"op": "run"}')
        assert "error" in pipe("run", input="nothing is open")


def test_text_crosses_the_pipe_whatever_the_locale(embedder: Bundle) -> None:
    with worker(PYTHONIOENCODING="ascii", LC_ALL="C") as pipe:
        pipe.open(embedder)
        assert "value" in pipe.line('{"op": "run", "input": "naïve 🐟"}'.encode())


def test_requests_before_open_say_so() -> None:
    with worker() as pipe:
        for op in ("run", "infer", "time"):
            error = pipe(op, input="x", feeds={}, runs=1)["error"]
            assert (error["kind"], error["message"]) == (
                "UsageError",
                "No artifact is open: send an open request first.",
            )


def test_a_bundle_that_can_not_be_opened_is_an_error_of_its_kind(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "bundle")
    (bundle.path / "tokenizer.json").write_text("{}")
    with worker() as pipe:
        assert pipe.open(bundle)["error"]["kind"] == "BundleError"
        assert pipe.open(bundle, bundle=str(tmp_path / "none"))["error"]["kind"] == "BundleError"
        assert pipe.open(bundle, artifact="tflite")["error"]["kind"] == "UsageError"
        assert pipe.open(bundle, threads=0)["error"]["kind"] == "UsageError"


NOISY = """
import os, subprocess, sys
from edgellm.runtime.engines import onnx
quiet = onnx.OnnxEngine.run
def run(self, feeds):
    print("python prints")
    os.write(1, b"C++ prints\\n")
    subprocess.run(["echo", "a child prints"])
    sys.stdout.flush()
    return quiet(self, feeds)
onnx.OnnxEngine.run = run
from edgellm.runtime.worker import main
sys.exit(main())
"""


def test_an_engine_that_prints_does_not_break_the_protocol(embedder: Bundle) -> None:
    with worker([sys.executable, "-P", "-c", NOISY]) as pipe:
        pipe.open(embedder)
        assert "value" in pipe("run", input="red boots")
        assert "value" in pipe("run", input="red boots")


BROKEN = NOISY.replace('print("python prints")', 'raise RuntimeError("kernel failed")')


def test_an_engine_that_raises_anything_is_an_error_and_the_worker_goes_on(embedder: Bundle) -> None:
    with worker([sys.executable, "-P", "-c", BROKEN]) as pipe:
        pipe.open(embedder)
        for _ in range(2):
            error = pipe("run", input="red boots")["error"]
            assert "kernel failed" in error["message"]
