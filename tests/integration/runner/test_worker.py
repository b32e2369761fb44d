"""Lines that a worker can't serve get an error with the words of the Python runtime, and the native runner goes on."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgellm.core.manifest import Artifact
from edgellm.errors import InputError, UsageError, from_wire
from edgellm.runtime import Bundle, Session
from edgellm.runtime.client import WorkerClient
from tests.integration.runner.driving import feeds_line, worker

pytestmark = pytest.mark.integration


LINES = [
    (b"", "InputError", "The request is wrong"),
    (b"garbage", "InputError", "The request is wrong"),
    (b'{"op": "run"', "InputError", "The request is wrong"),
    (b"\xff\xfe{}", "InputError", "The request is wrong"),
    (b"[1]", "UsageError", "A request is an object whose op is one of open, infer, time"),
    (b"null", "UsageError", "A request is an object"),
    (b'{"op": ["run"]}', "UsageError", "A request is an object"),
    (b'{"op": "run", "input": "x"}', "UsageError", "has no tokenizer"),
    (b'{"op": "time", "input": "x", "runs": 1}', "UsageError", "has no tokenizer"),
    (feeds_line("time")[:-1] + b', "input": "x"}', "UsageError", "has either feeds or an input"),
    (b'{"op": "infer"}', "InputError", "'feeds' is missing"),
    (b'{"op": "infer", "feeds": [1]}', "InputError", "no object of input names"),
    (b'{"op": "infer", "feeds": {}}', "InputError", "token_type_ids, not nothing"),
    (b'{"op": "infer", "feeds": {"input_ids": [[1]]}}', "InputError", "takes input_ids, attention_mask, token_type_ids"),
    (b'{"op": "time", "feeds": {}, "runs": "2"}', "InputError", "'runs' is string"),
    (feeds_line("infer", other=[[1]]), "InputError", "not attention_mask, input_ids, other, token_type_ids"),
    (feeds_line("infer", input_ids=[[101, 30522, 102]]), "InputError", "holds 30522; 0 to 30521 is valid"),
    (feeds_line("infer", input_ids=[[101, -1, 102]]), "InputError", "holds -1; 0 to 30521 is valid"),
    (feeds_line("infer", attention_mask=[[1, 2, 1]]), "InputError", "attention_mask holds 2; 0 to 1 is valid"),
    (feeds_line("infer", input_ids=[[2**64]]), "InputError", "dtype float64; int64 is needed"),
    (feeds_line("infer", input_ids=[[1.5, 1, 1]]), "InputError", "dtype float64; int64 is needed"),
    (feeds_line("infer", input_ids=[[True, 1, 1]]), "InputError", "dtype bool; int64 is needed"),
    (feeds_line("infer", input_ids=["101"]), "InputError", "dtype object; int64 is needed"),
    (feeds_line("infer", input_ids=[[101, [1], 102]]), "InputError", "The request is wrong"),
    (feeds_line("infer", input_ids=[101]), "InputError", "has shape [1]; [1, tokens] is needed"),
    (feeds_line("infer", input_ids=[[1, 2, 3]] * 2), "InputError", "has shape [2, 3]; [1, tokens] is needed"),
    (feeds_line("infer", input_ids=[[]]), "InputError", "has shape [1, 0]; [1, tokens] is needed"),
    (feeds_line("infer", input_ids=[[1, 2], [3]]), "InputError", "The request is wrong"),
    (feeds_line("infer", attention_mask=[[1]]), "InputError", "attention_mask has 1 tokens, input_ids has 3"),
    (
        feeds_line("infer", input_ids=[[1] * 129], attention_mask=[[1] * 129], token_type_ids=[[0] * 129]),
        "InputError",
        "129 tokens exceed the bundle's 128",
    ),
    (b"[" * 1_000_000, "InputError", "deeper than 64 levels"),
    (b'{"op":' * 100_000, "InputError", "deeper than 64 levels"),
    (b"x" * (17 << 20), "InputError", "longer than 16 MiB"),
    (b'{"op": "open", "bundle": ".", "artifact": "executorch"}', "UsageError", "holds one artifact"),
]  # fmt: skip


def test_a_bad_line_gets_an_error_and_the_runner_goes_on(program: Path, demo_bundle: Bundle) -> None:
    with worker(program, demo_bundle.path) as ask:
        for line, kind, fragment in LINES:
            error = ask(line)["error"]
            assert set(error) == {"kind", "message", "hint"}, line[:80]
            assert (error["kind"], fragment in error["message"]) == (kind, True), (line[:80], error)
            assert "outputs" in ask(feeds_line("infer"))


def test_its_words_are_those_of_the_python_session(program: Path, demo_bundle: Bundle, artifact: Artifact) -> None:
    session = Session.open(demo_bundle, format=artifact.id)
    bad: list[dict[str, object]] = [
        {"input_ids": [[101, 40000, 102]]},
        {"input_ids": [[1, 2, 3]] * 2},
        {"attention_mask": [[1]]},
        {"input_ids": [[1] * 200], "attention_mask": [[1] * 200], "token_type_ids": [[0] * 200]},
    ]
    with worker(program, demo_bundle.path) as ask:
        for changed in bad:
            line = feeds_line("infer", **changed)
            feeds = {name: np.array(rows, dtype=np.int64) for name, rows in json.loads(line)["feeds"].items()}
            with pytest.raises(InputError) as caught:
                session.infer(feeds)
            assert str(from_wire(ask(line)["error"])) == str(caught.value)
        both: dict[str, Any] = {"feeds": {}, "input": "x", "runs": 1}
        python = [sys.executable, "-P", "-m", "edgellm.runtime"]
        with WorkerClient(python, what="python") as client:
            client.request("open", bundle=str(demo_bundle.path), artifact=artifact.id)
            with pytest.raises(UsageError) as refused:
                client.request("time", **both)
        assert str(from_wire(ask(json.dumps({"op": "time", **both}).encode())["error"])) == str(refused.value)


def test_what_is_open_is_what_was_hashed(program: Path, copied: Path, artifact: Artifact) -> None:
    with worker(program, copied) as ask:
        before = ask(feeds_line("infer"))["outputs"]
        with (copied / artifact.file).open("r+b") as file:
            file.write(bytes(artifact.bytes))
        assert ask(feeds_line("infer"))["outputs"] == before


def test_requests_before_open_say_so(program: Path, demo_bundle: Bundle) -> None:
    with worker(program) as ask:
        request = {"op": "open", "bundle": str(demo_bundle.path), "artifact": "executorch", "threads": -5}
        assert ask(json.dumps(request).encode())["error"]["message"].startswith("-5 threads can't compute")
        for op in ("infer", "time"):
            assert ask(feeds_line(op))["error"]["message"] == "No artifact is open: send an open request first."
