"""The native runner's commands: what people type and pipe into it, and what becomes of what it prints."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from edgellm.runtime import Bundle
from edgellm.toolchain import runner as toolchain
from tests.integration.runner.driving import EXIT, TIMEOUT, run

pytestmark = pytest.mark.integration


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
