"""The native runner, built here: the same answers as the Python runtime, and clear words for what is wrong."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgellm.core.latency import Latency
from edgellm.core.manifest import Artifact
from edgellm.errors import InputError, UsageError, from_wire
from edgellm.runtime import Bundle, Session
from edgellm.runtime.bundle import to_json
from edgellm.runtime.client import WorkerClient
from edgellm.runtime.machine import Machine
from edgellm.toolchain import runner as toolchain
from tests.tiny import reseal

from .conftest import ROOT, edgellm

pytestmark = pytest.mark.integration

TIMEOUT = 120
EXIT = {"UsageError": 2, "InputError": 3, "GateError": 5, "BundleError": 6, "DeviceError": 7}


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `edgellm runner build --json` printed."""
    out = tmp_path_factory.mktemp("runner") / "runner"
    done = edgellm("runner", "build", "--target", "linux-x86_64", "--out", str(out), "--json")
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


@pytest.fixture(scope="session")
def program(built: dict[str, Any]) -> Path:
    return Path(built["path"], toolchain.EXECUTABLE)


@pytest.fixture(scope="session")
def artifact(demo_bundle: Bundle) -> Artifact:
    return demo_bundle.artifact("executorch")


@pytest.fixture
def copied(demo_bundle: Bundle, artifact: Artifact, tmp_path: Path) -> Path:
    """A copy of the bundle to break; the artifacts that the runner can't run stay away, as on a device."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    for name in ("manifest.json", "golden.jsonl", artifact.file):
        shutil.copy(demo_bundle.path / name, folder / name)
    return folder


def run(program: Path, *args: str, text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(program), *args], input=text, capture_output=True, text=True, check=False, timeout=TIMEOUT
    )


@contextmanager
def worker(program: Path, bundle: Path | None = None) -> Iterator[Callable[[bytes], dict[str, Any]]]:
    """Yield what sends a line and returns the reply; at the end nothing else may have been printed."""
    with subprocess.Popen(
        [str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def ask(line: bytes) -> dict[str, Any]:
            process.stdin.write(line + b"\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
            reply = json.loads(process.stdout.readline())  # type: ignore[union-attr]
            assert isinstance(reply, dict)
            return reply

        if bundle is not None:
            request = {"op": "open", "bundle": str(bundle), "artifact": "executorch", "threads": 1}
            assert "error" not in ask(json.dumps(request).encode())
        yield ask
        out, _ = process.communicate(timeout=20)
        assert out == b""
        assert process.returncode == 0


def feeds_line(op: str, **changed: object) -> bytes:
    feeds = {"input_ids": [[101, 7592, 102]], "attention_mask": [[1, 1, 1]], "token_type_ids": [[0, 0, 0]]}
    return json.dumps({"op": op, "feeds": {**feeds, **changed}, "runs": 1}).encode()


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def entry(manifest: dict[str, Any], name: str) -> dict[str, Any]:
    return next(item for item in manifest["files"] if item["path"] == name)


# What it is made of


def test_the_build_states_its_facts(built: dict[str, Any], program: Path) -> None:
    assert built == {**json.loads((program.parent / "runner.json").read_text()), "path": str(program.parent)}
    assert (built["toolchain"], built["executorch"]) == ("linux-x86_64", "1.5.1")
    assert {path.name for path in program.parent.iterdir()} == {item["path"] for item in built["files"]} | {
        "runner.json"
    }
    assert not [name for name in built["needed"] if "torch" in name or "python" in name]
    assert built["executable_bytes"] == program.stat().st_size < 1_000_000
    dynamic = subprocess.run(["readelf", "-dW", str(program)], capture_output=True, text=True, check=True).stdout
    assert [line.split()[-1] for line in dynamic.splitlines() if "RUNPATH" in line or "RPATH" in line] == ["[$ORIGIN]"]
    library = str(program.parent / "libedgellm.so")
    flags = subprocess.run(["readelf", "-dW", library], capture_output=True, text=True, check=True).stdout
    assert "NODELETE" in flags  # libexecutorch.so keeps a pointer to its function that logs
    assert str(ROOT).encode() not in program.read_bytes()


def test_a_folder_that_is_no_runner_is_left_alone(tmp_path: Path, built: dict[str, Any]) -> None:
    (tmp_path / "letter.txt").write_text("Dear all")
    done = edgellm("runner", "build", "--target", "linux-x86_64", "--out", str(tmp_path))
    assert (done.returncode, (tmp_path / "letter.txt").read_text()) == (2, "Dear all")
    assert "is left alone" in done.stderr


def test_a_runner_is_replaced_and_the_cache_serves_the_copy(built: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "runner"
    for _ in range(2):
        again = toolchain.build_runner("linux-x86_64", out)
        assert [dataclasses.asdict(file) for file in again.files] == [
            {**item, "needed": tuple(item["needed"])} for item in built["files"]
        ]
    assert [path.name for path in tmp_path.iterdir()] == ["runner"]


def test_android_needs_an_ndk_and_says_so_in_one_line(tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("ANDROID_NDK")}
    done = edgellm("runner", "build", "--target", "android-arm64", "--out", str(tmp_path / "x"), env=env)
    assert done.returncode == 4
    assert len(done.stderr.splitlines()) == 1
    assert "needs an Android NDK, and neither ANDROID_NDK nor ANDROID_NDK_HOME names one" in done.stderr


def test_sha256_is_as_fips_180_states_it(tmp_path: Path) -> None:
    source = ROOT / "toolchains" / "runner"
    test = tmp_path / "test"
    sources = [str(source / "tests" / "sha256_test.cpp"), str(source / "src" / "sha256.cpp")]
    subprocess.run(["g++", "-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror",
                    f"-I{source / 'src'}", *sources, "-o", str(test)], check=True)  # fmt: skip
    assert subprocess.run([str(test)], check=False).returncode == 0


# The same answers


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


def test_ids_come_a_text_a_line_and_a_bad_line_stops_nothing(program: Path, demo_bundle: Bundle) -> None:
    done = run(program, "ids", str(demo_bundle.path), text="101 7592 102\n101 x 102\n\n101\t2088  102\r\n")
    assert done.returncode == EXIT["InputError"]
    good, bad, empty, last = (json.loads(line) for line in done.stdout.splitlines())
    assert set(good) == {"outputs", "inference_ms"}
    assert np.asarray(good["outputs"]["embedding"]).shape == np.asarray(last["outputs"]["embedding"]).shape
    assert bad["error"]["message"].startswith("A line is ids separated by spaces; this is none: x 102")
    assert "[1, 0]; [1, tokens] is needed" in empty["error"]["message"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"101 7592 102\0 9999999 x", "this is none: 102\0 9999999 x"),
        (b"101\v7592", "this is none: 101\v7592"),
        (b"101 +", "this is none: +"),
        (b"101 1-2", "this is none: 1-2"),
        (b"0x65", "this is none: 0x65"),
        (b"99999999999999999999", "this is none: 99999999999999999999"),
        (b"\xff", "this is none: \ufffd"),
        (b"-7", "holds -7"),
    ],
)
def test_ids_are_digits_and_nothing_else(program: Path, demo_bundle: Bundle, line: bytes, words: str) -> None:
    command = [str(program), "ids", str(demo_bundle.path)]
    done = subprocess.run(command, input=line + b"\n+101 102\n", capture_output=True, check=False, timeout=TIMEOUT)
    assert done.returncode == EXIT["InputError"]
    bad, good = (json.loads(answer) for answer in done.stdout.splitlines())
    assert words in bad["error"]["message"]
    assert "outputs" in good


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


# The worker's lines


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


def test_a_pipe_that_does_not_block_is_waited_for(program: Path, demo_bundle: Bundle) -> None:
    end, start = os.pipe()
    os.set_blocking(end, False)
    with subprocess.Popen([str(program), "ids", str(demo_bundle.path)], stdin=end, stdout=subprocess.PIPE) as process:
        os.close(end)
        assert process.stdout is not None
        for _ in range(2):
            time.sleep(0.3)
            os.write(start, b"101 102\n")
            assert "outputs" in json.loads(process.stdout.readline())
        os.close(start)
        assert process.wait(timeout=TIMEOUT) == 0


def test_an_input_that_can_not_be_read_is_an_error(program: Path, demo_bundle: Bundle) -> None:
    folder = os.open("/", os.O_RDONLY)
    for args in (["serve"], ["ids", str(demo_bundle.path)]):
        done = subprocess.run([str(program), *args], stdin=folder, capture_output=True, text=True, check=False)
        assert done.returncode == EXIT["DeviceError"]
        assert "Standard input can't be read: Is a directory" in done.stderr
    os.close(folder)


def test_lost_output_is_an_error(program: Path, demo_bundle: Bundle) -> None:
    bundle = str(demo_bundle.path)
    bench = ["bench", bundle, "--tokens", "4", "--runs", "1"]
    golden = ["golden", bundle, "--cases", "1"]
    with Path("/dev/full").open("w") as full:
        for args in (["--version"], ["--help"], golden, [*golden, "--json"], bench, [*bench, "--json"]):
            done = subprocess.run([str(program), *args], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
            assert done.returncode == EXIT["DeviceError"], args
            assert "Standard output can't be written to" in done.stderr


# Damaged bundles


def altered(folder: Path, artifact: Artifact) -> None:
    with (folder / artifact.file).open("r+b") as file:
        file.seek(1_000_000)
        byte = file.read(1)
        file.seek(1_000_000)
        file.write(bytes([byte[0] ^ 1]))


def truncated(folder: Path, artifact: Artifact) -> None:
    os.truncate(folder / artifact.file, artifact.bytes - 1)


def missing(folder: Path, artifact: Artifact) -> None:
    (folder / artifact.file).unlink()


def a_folder(folder: Path, artifact: Artifact) -> None:
    missing(folder, artifact)
    (folder / artifact.file).mkdir()


def a_pipe(folder: Path, artifact: Artifact) -> None:
    missing(folder, artifact)
    os.mkfifo(folder / artifact.file)


def a_link_out(folder: Path, artifact: Artifact) -> None:
    path = folder / artifact.file
    path.rename(folder.parent / "elsewhere.pte")
    path.symlink_to(folder.parent / "elsewhere.pte")


def renamed(name: str) -> Callable[[Path, Artifact], None]:
    def change(folder: Path, artifact: Artifact) -> None:
        def edited(manifest: dict[str, Any]) -> None:
            entry(manifest, artifact.file)["path"] = name
            next(item for item in manifest["artifacts"] if item["id"] == artifact.id)["file"] = name

        edit(folder, edited)

    return change


def manifest_with(**fields: object) -> Callable[[Path, Artifact], None]:
    return lambda folder, artifact: edit(folder, lambda manifest: manifest.update(fields))


def written(text: bytes) -> Callable[[Path, Artifact], None]:
    def change(folder: Path, artifact: Artifact) -> None:
        (folder / "manifest.json").write_bytes(text)

    return change


def replaced(old: bytes, new: bytes) -> Callable[[Path, Artifact], None]:
    """Plant a program that asks for something else, with hashes that are right."""

    def change(folder: Path, artifact: Artifact) -> None:
        path = folder / artifact.file
        content = path.read_bytes()
        assert old in content
        assert len(old) == len(new)
        path.write_bytes(content.replace(old, new))
        seal(folder, artifact)

    return change


def garbage(folder: Path, artifact: Artifact) -> None:
    (folder / artifact.file).write_bytes(b"no program" * 1000)
    seal(folder, artifact)


def half(folder: Path, artifact: Artifact) -> None:
    os.truncate(folder / artifact.file, artifact.bytes // 2)
    seal(folder, artifact)


def a_link_to_itself(folder: Path, artifact: Artifact) -> None:
    (folder / "manifest.json").unlink()
    (folder / "manifest.json").symlink_to("manifest.json")


def a_bucket(length: int) -> Callable[[Path, Artifact], None]:
    def change(folder: Path, artifact: Artifact) -> None:
        edit(folder, lambda manifest: manifest["artifacts"][0]["signature"].update(buckets=[length]))

    return change


def seal(folder: Path, artifact: Artifact) -> None:
    """Make the hashes right; `reseal` wants the files of every artifact."""
    edit(folder, lambda m: m.update(artifacts=[item for item in m["artifacts"] if item["id"] == artifact.id]))
    reseal(folder)


DAMAGES = [
    (altered, "was altered: its SHA-256 is not the manifest's"),
    (truncated, "bytes, the manifest says"),
    (missing, "can't be read: No such file or directory"),
    (a_folder, "can't be read: Is a directory"),
    (a_pipe, "can't be read: it is no regular file"),
    (a_link_out, "leads out of the bundle"),
    (renamed("../bundle/model.pte"), "which is no path inside the bundle"),
    (renamed("/etc/hostname"), "which is no path inside the bundle"),
    (renamed("a//b"), "which is no path inside the bundle"),
    (renamed("nul\0.pte"), "which is no path inside the bundle"),
    (renamed("manifest.json"), "which is no path inside the bundle"),
    (manifest_with(schema_version=2), "has schema version 2; this runner reads 1"),
    (manifest_with(schema_version=True), "has schema version true"),
    (manifest_with(max_tokens=0), "max_tokens is no length"),
    (manifest_with(max_tokens="128"), "'max_tokens' is string, not a whole number"),
    (manifest_with(files=[]), "is not among the files of the manifest"),
    (manifest_with(artifacts=[]), "artifact ids are missing"),
    (manifest_with(artifacts=[7]), "an object with 'id' is needed"),
    (written(b""), "can't be read"),
    (written(b"[" * 100_000), "deeper than 64 levels"),
    (written(b"{}"), "has schema version null"),
    (written(b" " * ((16 << 20) + 1)), "it is larger than 16 MiB"),
    (written(json.dumps({str(n): n for n in range(600_000)}).encode()), "has schema version null"),  # in linear time
    (a_link_to_itself, "manifest.json can't be read: Too many levels of symbolic links"),
    (a_bucket(2**31), "buckets: lengths are positive and ascend"),
    (garbage, "ExecuTorch can't load"),
    (half, "ExecuTorch can't load"),
    (
        replaced(b"quantized_decomposed::embedding_byte", b"quantized_decomposed::embedding_bite"),
        "0x14 OperatorMissing",
    ),
    (replaced(b"XnnpackBackend", b"XnnpackBackenb"), "0x20 NotFound"),
]


@pytest.mark.parametrize(("damage", "words"), DAMAGES, ids=[f"{n} {words}" for n, (_, words) in enumerate(DAMAGES)])
def test_a_damaged_bundle_is_refused_with_the_cause(
    program: Path, copied: Path, artifact: Artifact, damage: Callable[[Path, Artifact], None], words: str
) -> None:
    damage(copied, artifact)
    done = run(program, "bench", str(copied), "--tokens", "4", "--runs", "1")
    assert (done.returncode, words in done.stderr) == (EXIT["BundleError"], True), done.stderr
    assert done.stdout == ""
    with worker(program) as ask:
        request = {"op": "open", "bundle": str(copied), "artifact": artifact.id}
        error = ask(json.dumps(request).encode())["error"]
        assert error["kind"] == "BundleError"
        assert words in error["message"]


def test_golden_cases_are_checked_before_they_are_used(program: Path, copied: Path) -> None:
    with (copied / "golden.jsonl").open("a") as file:
        file.write("\n")
    done = run(program, "golden", str(copied))
    assert (done.returncode, "golden.jsonl has" in done.stderr) == (EXIT["BundleError"], True)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([[1.0], [0.5] * 383], "an output is no regular array"),
        ([[0.5] * 383, [1.0]], "an output is no regular array"),
        ([0.5, [0.5]], "an output is no regular array"),
        ([[0.5], 0.5], "an output is no regular array"),
        ([[], [0.5] * 384], "an output is no regular array"),
        ([["x"]], "an output holds something that is no number"),
        ([], "an output is empty"),
        ([[]], "an output is empty"),
        ([0.5] * 384, "gives [1, 384] where the golden case has [384]"),
        ([[0.5]] * 384, "gives [1, 384] where the golden case has [384, 1]"),
        ([[0.5] * 385], "gives [1, 384] where the golden case has [1, 385]"),
    ],
)
def test_a_golden_case_of_another_shape_is_refused(
    program: Path, copied: Path, artifact: Artifact, rows: list[object], words: str
) -> None:
    case = json.loads((copied / "golden.jsonl").read_text().splitlines()[0])
    case["outputs"][0]["embedding"] = rows
    (copied / "golden.jsonl").write_text(json.dumps(case) + "\n")
    seal(copied, artifact)
    done = run(program, "golden", str(copied))
    assert (done.returncode, words in done.stderr) == (EXIT["BundleError"], True), done.stderr


def test_a_golden_case_that_is_too_long_is_refused(program: Path, copied: Path, artifact: Artifact) -> None:
    (copied / "golden.jsonl").write_bytes(b" " * (64 << 20) + b"1\n")
    seal(copied, artifact)
    done = run(program, "golden", str(copied))
    assert (done.returncode, "line 1 is wrong: it is longer than 64 MiB" in done.stderr) == (EXIT["BundleError"], True)


@pytest.mark.parametrize(
    ("args", "kind", "words"),
    [
        (["dance"], "UsageError", "No command 'dance'"),
        (["golden"], "UsageError", "needs a bundle"),
        (["golden", "a", "b"], "UsageError", "one bundle too many"),
        (["golden", "a", "--cases", "x"], "UsageError", "--cases takes a whole number, not 'x'"),
        (["golden", "a", "--cases"], "UsageError", "--cases needs a value"),
        (["golden", "a", "--runs", "1"], "UsageError", "'golden' has no option '--runs'"),
        (["golden", "/nowhere"], "BundleError", "is no bundle: it has no manifest.json"),
        (["bench", "BUNDLE"], "UsageError", "--tokens are 1 or more"),
        (["bench", "BUNDLE", "--tokens", "4000"], "UsageError", "at most 128 tokens"),
        (["bench", "BUNDLE", "--tokens", "4", "--threads", "0"], "UsageError", "0 threads can't compute"),
        (["bench", "BUNDLE", "--tokens", "4", "--threads", "-5"], "UsageError", "-5 threads can't compute"),
        (["bench", "BUNDLE", "--tokens", "4", "--artifact", "onnx"], "UsageError", "onnx-int8-dynamic is onnx"),
        (["ids", "BUNDLE", "--artifact", "x"], "UsageError", "No format 'x'. Choices: executorch-int8-dynamic"),
    ],
)
def test_a_wrong_command_line_has_its_exit_code(
    program: Path, demo_bundle: Bundle, args: list[str], kind: str, words: str
) -> None:
    done = run(program, *(str(demo_bundle.path) if arg == "BUNDLE" else arg for arg in args))
    assert (done.returncode, words in done.stderr) == (EXIT[kind], True), done.stderr


def test_help_and_version(program: Path) -> None:
    assert run(program, "--version").stdout == f"edgellm-runner {toolchain._own_version()} (executorch 1.5.1)\n"
    helped = run(program, "--help").stdout
    assert "edgellm-runner golden BUNDLE" in helped
    for args in (["-h"], ["golden", "-h"], ["golden", "--help"], ["ids", "--help"], ["bench", "x", "--help"]):
        done = run(program, *args)
        assert (done.returncode, done.stdout) == (0, helped)


# In an app


APP = r"""
#include <edgellm.h>
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv) {
  edgellm_session *session = NULL;
  edgellm_output output;
  const int64_t ids[] = {101, 7592, 102};
  const int64_t bad[] = {101, 99999, 102};
  const int64_t ones[] = {1, 1, 1}, zeros[] = {0, 0, 0};
  edgellm_input inputs[3];
  (void)argc;
  if (edgellm_open("/nowhere", NULL, 1, &session) != EDGELLM_BUNDLE || session != NULL) return 10;
  if (strstr(edgellm_last_error(), "is no bundle") == NULL) return 11;
  if (edgellm_open(argv[1], "onnx", 1, &session) != EDGELLM_USAGE) return 12;
  if (edgellm_open(NULL, NULL, 1, &session) != EDGELLM_USAGE) return 13;
  if (edgellm_open(argv[1], NULL, 1, &session) != EDGELLM_OK) {
    fprintf(stderr, "%s\n", edgellm_last_error());
    return 14;
  }
  if (edgellm_get_output(session, 0, &output) != EDGELLM_USAGE) return 15;
  if (edgellm_run_ids(session, bad, 3) != EDGELLM_INPUT) return 16;
  if (strstr(edgellm_last_error(), "holds 99999") == NULL) return 17;
  if (edgellm_run_ids(session, ids, 3) != EDGELLM_OK) return 18;
  if (edgellm_output_count(session) != 1 || edgellm_max_tokens(session) != 128) return 19;
  if (edgellm_get_output(session, 1, &output) != EDGELLM_USAGE) return 20;
  if (edgellm_get_output(session, 0, &output) != EDGELLM_OK) return 21;
  if (output.rank != 2 || output.shape[0] != 1 || (size_t)output.shape[1] != output.count) return 22;
  {
    const float first = output.values[0];
    inputs[0].name = "input_ids"; inputs[0].values = ids; inputs[0].tokens = 3;
    inputs[1].name = "attention_mask"; inputs[1].values = ones; inputs[1].tokens = 3;
    inputs[2].name = "token_type_ids"; inputs[2].values = zeros; inputs[2].tokens = 3;
    if (edgellm_run(session, inputs, 2) != EDGELLM_INPUT) return 23;
    if (edgellm_run(session, inputs, 3) != EDGELLM_OK) return 24;
    if (edgellm_get_output(session, 0, &output) != EDGELLM_OK || output.values[0] != first) return 25;
  }
  {
    edgellm_session *second = NULL; /* the pool of compute threads is the process's */
    if (edgellm_open(argv[1], NULL, 2, &second) != EDGELLM_USAGE) return 26;
    if (edgellm_open(argv[1], NULL, 1, &second) != EDGELLM_OK) return 27;
    edgellm_close(second);
  }
  printf("%s %s %.9g\n", edgellm_version(), output.name, output.values[0]);
  /* after a run that failed there is no output; a length that is absurd forms no pointer */
  if (edgellm_run_ids(session, bad, 3) != EDGELLM_INPUT) return 28;
  if (edgellm_get_output(session, 0, &output) != EDGELLM_USAGE) return 29;
  if (edgellm_run_ids(session, ids, 3) != EDGELLM_OK) return 30;
  if (edgellm_run_ids(session, ids, SIZE_MAX) != EDGELLM_INPUT) return 31;
  if (strstr(edgellm_last_error(), "tokens exceed the bundle's 128") == NULL) return 32;
  if (edgellm_get_output(session, 0, &output) != EDGELLM_USAGE) return 33;
  inputs[1].tokens = SIZE_MAX / 8;
  if (edgellm_run(session, inputs, 3) != EDGELLM_INPUT) return 34;
  edgellm_close(session);
  edgellm_close(NULL);
  if (edgellm_open(argv[1], "executorch", 1, &session) != EDGELLM_OK) return 35;
  edgellm_close(session);
  return 0;
}
"""

THREADS = r"""
#include <edgellm.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

enum { COUNT = 4, RUNS = 20, WIDTH = 384 };

static const char *bundle;
static float values[COUNT][WIDTH];

static void *work(void *place) {
  const int64_t ids[] = {101, 7592, 2088, 102};
  edgellm_session *session = NULL;
  edgellm_output output;
  int i;
  if (edgellm_open(bundle, NULL, 1, &session) != EDGELLM_OK) return NULL;
  for (i = 0; i < RUNS; ++i) {
    if (edgellm_run_ids(session, ids, 4) != EDGELLM_OK) return NULL;
    if (edgellm_get_output(session, 0, &output) != EDGELLM_OK || output.count != WIDTH) return NULL;
    if (i > 0 && memcmp(place, output.values, sizeof values[0]) != 0) return NULL;
    memcpy(place, output.values, sizeof values[0]);
  }
  edgellm_close(session);
  /* errors are the thread's own */
  if (edgellm_open("/nowhere", NULL, 1, &session) != EDGELLM_BUNDLE) return NULL;
  return strstr(edgellm_last_error(), "/nowhere is no bundle") == NULL ? NULL : place;
}

int main(int argc, char **argv) {
  pthread_t threads[COUNT];
  int i;
  (void)argc;
  bundle = argv[1];
  for (i = 0; i < COUNT; ++i) {
    if (pthread_create(&threads[i], NULL, work, values[i]) != 0) return 10;
  }
  for (i = 0; i < COUNT; ++i) {
    void *done = NULL;
    if (pthread_join(threads[i], &done) != 0 || done == NULL) return 20 + i;
    if (memcmp(values[0], values[i], sizeof values[0]) != 0) return 30 + i;
  }
  printf("%d.%d.%d\n", EDGELLM_VERSION_MAJOR, EDGELLM_VERSION_MINOR, EDGELLM_VERSION_PATCH);
  return strlen(edgellm_last_error()) == 0 ? 0 : 40;
}
"""


def compiled(code: str, library: Path, folder: Path) -> Path:
    """Build a C program on `edgellm.h` as an app does."""
    source, app = folder / "app.c", folder / "app"
    source.write_text(code)
    subprocess.run(
        ["cc", "-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror", "-pthread", f"-I{library}", str(source),
         f"-L{library}", "-ledgellm", f"-Wl,-rpath,{library},-rpath-link,{library}", "-o", str(app)], check=True,
    )  # fmt: skip
    return app


def test_an_app_in_c_embeds_it(program: Path, demo_bundle: Bundle, tmp_path: Path) -> None:
    app = compiled(APP, program.parent, tmp_path)
    done = subprocess.run([str(app), str(demo_bundle.path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    version, name, first = done.stdout.replace(") ", ")|").partition("|")[0], *done.stdout.split()[-2:]
    assert version == f"{toolchain._own_version()} (executorch 1.5.1)"
    assert name == "embedding"
    line = run(program, "ids", str(demo_bundle.path), text="101 7592 102").stdout
    assert np.float32(first) == np.float32(json.loads(line)["outputs"]["embedding"][0][0])


def test_threads_with_a_session_each_get_the_same_values(program: Path, demo_bundle: Bundle, tmp_path: Path) -> None:
    app = compiled(THREADS, program.parent, tmp_path)
    command = [str(app), str(demo_bundle.path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT)
    assert done.returncode == 0, done.stderr
    assert re.match(r"\d+\.\d+\.\d+", toolchain._own_version())[0] == done.stdout.strip()  # type: ignore[index]


def test_only_the_functions_of_the_header_are_exported(program: Path) -> None:
    library = program.parent / "libedgellm.so"
    done = subprocess.run(["nm", "-D", "--defined-only", str(library)], capture_output=True, text=True, check=True)
    exported = {line.split()[-1] for line in done.stdout.splitlines()}
    header = (program.parent / "edgellm.h").read_text()
    assert exported
    assert all(name.startswith("edgellm_") and f"{name}(" in header for name in exported)


def test_the_folder_works_wherever_it_is_put(program: Path, demo_bundle: Bundle, tmp_path: Path) -> None:
    moved = tmp_path / "a folder" / "with spaces"
    shutil.copytree(program.parent, moved)
    env = {"PATH": "/nowhere"}
    command = [str(moved / program.name), "golden", str(demo_bundle.path), "--cases", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env, cwd="/")
    assert done.returncode == 0, done.stderr
    loaded = subprocess.run(["ldd", str(moved / program.name)], capture_output=True, text=True, check=True).stdout
    found = [line.split("=> ")[1].split(" (")[0] for line in loaded.splitlines() if "executorch" in line]
    assert len(found) == 5
    assert all(Path(path).parent == moved for path in found)
