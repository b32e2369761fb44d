"""Bad input: one clear paragraph on standard error, the exit code of its kind, no traceback, nothing half-written."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgellm.cli import main as entry
from edgellm.runtime import Bundle
from tests.tiny import reseal, tiny_bundle
from tests.unit.cli.command import Done, call, spawn
from tests.unit.stages.folders import model_folder

USAGE, INPUT, MISSING, GATE, BUNDLE, DEVICE, INTERNAL = 2, 3, 4, 5, 6, 7, 70


@pytest.fixture
def place(tmp_path: Path, embedder: Bundle, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in a folder with one of everything that a command may be given."""
    model_folder(tmp_path / "model")
    labels = {"0": "bad", "1": "good"}
    model_folder(tmp_path / "judge", architectures=["BertForSequenceClassification"], id2label=labels)
    model_folder(tmp_path / "pickled")
    (tmp_path / "pickled" / "model.safetensors").rename(tmp_path / "pickled" / "pytorch_model.bin")
    shutil.copytree(embedder.path, tmp_path / "good")
    altered = shutil.copytree(embedder.path, tmp_path / "altered")
    (altered / "model-fp32.onnx").write_bytes((altered / "model-fp32.onnx").read_bytes()[:-1] + b"x")
    tiny_bundle(tmp_path / "wrong", noise=0.8)
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "thesis.txt").write_text("precious")
    (tmp_path / "drawings.svg").mkdir()
    (tmp_path / "model.pt2").write_bytes(b"\x80\x04pickle")
    (tmp_path / "calibration.txt").write_text("one text\n")
    (tmp_path / "empty.tsv").write_text("")
    (tmp_path / "eval.tsv").write_text("text\tlabel\nfine\tgood\n")
    (tmp_path / "latin1.tsv").write_bytes("text\tlabel\nGröße\tgood\n".encode("latin-1"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


BUILDS: list[tuple[str, int, str]] = [
    ("model --target andriod-arm64", USAGE, "No target 'andriod-arm64'. Did you mean 'android-arm64'?"),
    ("model --target linux-arm64 --format onx", USAGE, "No format 'onx'. Did you mean 'onnx'?"),
    ("model --target linux-arm64 --scheme int8-dynamc", USAGE, "Did you mean 'int8-dynamic'?"),
    ("model --target linux-arm64 --max-fallback 1.5", USAGE, "--max-fallback is 1.5; it is a share, from 0 to 1."),
    ("model --target linux-arm64 --scheme mixed", USAGE, "--scheme mixed needs --layers FILE"),
    ("model --target linux-arm64 --layers x.toml --scheme fp32", USAGE, "--layers has no use with --scheme fp32"),
    ("model --target linux-arm64 --layers x.toml", INPUT, "The file of layers x.toml can't be read"),
    (
        "model --target snapdragon-8-gen3 --scheme qnn=fp32",
        USAGE,
        "qnn can't express fp32: the HTP computes in 8 and 16 bits",
    ),
    ("model --target snapdragon-8-gen3 --scheme tflite=fp32", USAGE, "No format 'tflite'"),
    ("model --target android-arm64-mediatek", MISSING, "needs NeuroPilot Express SDK"),
    ("model --target ethos-u85-512 --scheme int8-static", USAGE, "tflite can't express int8-static"),
    ("model --target linux-arm64 --scheme int8-weight-only", USAGE, "executorch can't express int8-weight-only"),
    ("model --target linux-arm64 --task text-clasification", USAGE, "Did you mean 'text-classification'?"),
    ("model --target linux-arm64 --pooling max", USAGE, "No pooling 'max'. Choices: mean, cls, none"),
    ("judge --target linux-arm64 --pooling mean", USAGE, "--pooling belongs to feature-extraction"),
    ("model --target linux-arm64 --scheme fp32 --calibration calibration.txt", USAGE, "runs no samples"),
    ("model --target linux-arm64 --eval eval.tsv", INPUT, "The column text_pair misses"),
    ("model --target linux-arm64 --min-agreement 99", USAGE, "it goes from 0 to 1"),
    ("model --target linux-arm64 --min-agreement high", USAGE, "'high' is not a valid float"),
    ("model --target linux-arm64 --seq-len 16,x", USAGE, "is not whole numbers separated by commas"),
    ("model --target linux-arm64 --seq-len=", USAGE, "is not whole numbers separated by commas"),
    ("model --target linux-arm64 --seq-len 2", USAGE, "a length is 4 tokens or more"),
    ("model --target linux-arm64 --seq-len 100000", USAGE, "position table ends at 64"),
    (
        "model --target linux-arm64 --out papers",
        USAGE,
        "holds something that is no bundle, or a bundle and something else, and is left alone",
    ),
    ("model --target linux-arm64 --out model.pt2", USAGE, "exists and is no folder"),
    ("model", USAGE, "Missing option '--target'"),
    ("model --target linux-arm64 --fast", USAGE, "No such option"),
    ("package.module:function --target linux-arm64", USAGE, "Give --task and --tokenizer"),
    ("papers --target linux-arm64", INPUT, "is no model: it has no config.json"),
    ("nowhere --target linux-arm64", INPUT, "There is no nowhere"),
    ("model.pt2 --target linux-arm64", INPUT, "loading a .pt2 unpickles it"),
    ("pickled --target linux-arm64", INPUT, "weights only as a pickle"),
    ("model --target linux-arm64 --tokenizer papers", INPUT, "There is no tokenizer"),
    ("judge --target linux-arm64 --eval empty.tsv", INPUT, "empty.tsv line 1 is no header: it names no column"),
    ("judge --target linux-arm64 --eval latin1.tsv", INPUT, "is not UTF-8"),
    ("judge --target linux-arm64 --eval gone.tsv", INPUT, "can't be read"),
]

OTHERS: list[tuple[str, int, str]] = [
    ("targets linux-amr64", USAGE, "Did you mean 'linux-arm64'?"),
    ("run good text --format tflite", USAGE, "No format 'tflite'. Choices: onnx. good holds no other."),
    ("run good text --threads 0", USAGE, "0 threads can't compute"),
    ("run good", USAGE, "Give either TEXT or --task-input"),
    ("run good text --task-input {}", USAGE, "Give either TEXT or --task-input"),
    ("run good --task-input {", USAGE, "--task-input is no JSON"),
    ("run good --task-input [1]", USAGE, "--task-input is no JSON object"),
    ('run good --task-input {"text":"a"}', INPUT, "feature-extraction takes a text, not dict"),
    ("bench good --runs 0", USAGE, "--runs and --threads are 1 or more"),
    ("bench good --warmup -1", USAGE, "--warmup is 0 or more"),
    ("bench good --tokens 33", USAGE, "--tokens goes from 3 to the bundle's 32"),
    ("bench good --tokens 2", USAGE, "--tokens goes from 3"),
    ("bench good --tokens ten", USAGE, "is not whole numbers"),
    ("verify good --cases 0", USAGE, "0 is not in the range"),
    ("bundel", USAGE, "No such command 'bundel'"),
    ("run good \udcff", INPUT, "half of a surrogate pair"),
    ("run altered text", BUNDLE, "model-fp32.onnx was altered"),
    ("bench altered", BUNDLE, "model-fp32.onnx was altered"),
    ("verify altered", BUNDLE, "model-fp32.onnx was altered"),
    ("run papers text", BUNDLE, "papers is no bundle: it has no manifest.json. 'edgellm build' makes one."),
    ("inspect nowhere", BUNDLE, "nowhere is no bundle"),
    ("verify wrong --cases 4", GATE, ""),
    ("sensitivity model --scheme fp32", USAGE, "fp32 quantizes nothing"),
    ("sensitivity model --scheme int8-statc", USAGE, "Did you mean 'int8-static'?"),
    ("sensitivity model --format onx", USAGE, "Did you mean 'onnx'?"),
    ("sensitivity model --scheme int8-weight-only", USAGE, "executorch can't express int8-weight-only"),
    ("sensitivity model --scheme int8-dynamic --ranges mse", USAGE, "--ranges has no use"),
    ("sensitivity model --calibration calibration.txt", INPUT, "1 texts are too few"),
    ("sensitivity model --calibration gone.txt", INPUT, "can't be read"),
    ("sensitivity papers", INPUT, "is no model: it has no config.json"),
    ("sensitivity package.module:function", INPUT, "a function leaves no folder"),
    ("sensitivity model --plot picture.png", USAGE, "--plot writes SVG, and 'picture.png' does not end in .svg"),
    ("sensitivity model --plot nowhere/a.svg", USAGE, "can't write 'nowhere/a.svg': No such file or directory. Name a"),
    ("sensitivity model --plot model.pt2/a.svg", USAGE, "can't write 'model.pt2/a.svg': Not a directory"),
    ("sensitivity model --plot drawings.svg", USAGE, "can't write 'drawings.svg': it is no file"),
    (f"sensitivity model --plot {'a' * 300}.svg", USAGE, "File name too long"),
]


def files(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def expect(done: Done, code: int, fragment: str) -> None:
    assert done.code == code, done
    assert fragment in " ".join(done.err.split())
    assert "Traceback" not in done.err
    assert done.err.startswith(("edgellm: ", "Usage: ")) or code == GATE
    assert done.out == "" or code == GATE


@pytest.mark.parametrize(("arguments", "code", "fragment"), BUILDS, ids=[row[0] for row in BUILDS])
def test_an_impossible_build(
    place: Path, capsys: pytest.CaptureFixture[str], arguments: str, code: int, fragment: str
) -> None:
    before = files(place)
    expect(call(capsys, "build", *arguments.split(), "--json"), code, fragment)
    assert files(place) == before


@pytest.mark.parametrize(("arguments", "code", "fragment"), OTHERS, ids=[ascii(row[0]) for row in OTHERS])
def test_other_commands(
    place: Path, capsys: pytest.CaptureFixture[str], arguments: str, code: int, fragment: str
) -> None:
    before = files(place)
    expect(call(capsys, *arguments.split(" ")), code, fragment)
    assert files(place) == before


@pytest.mark.parametrize(
    ("arguments", "code", "fragment"),
    [
        ("build model --target andriod-arm64", USAGE, "Did you mean 'android-arm64'?"),
        ("build model.pt2 --target linux-arm64", INPUT, "loading a .pt2 unpickles it"),
        ("build model --target linux-arm64 --out papers", USAGE, "left alone"),
        ("run altered text", BUNDLE, "was altered"),
        ("verify wrong --cases 4", GATE, ""),
    ],
)
def test_as_a_user_meets_it(place: Path, arguments: str, code: int, fragment: str) -> None:
    expect(spawn(*arguments.split(), cwd=place), code, fragment)
    assert (place / "papers" / "thesis.txt").read_text() == "precious"


def test_text_that_is_no_unicode_on_a_real_command_line(place: Path) -> None:
    command = [sys.executable, "-P", "-m", "edgellm", "run", "good", b"caf\xe9"]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == INPUT
    assert b"half of a surrogate pair" in done.stderr


def test_a_missing_engine(place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *a: None if n == "onnxruntime" else real(n, *a))
    expect(call(capsys, "run", "good", "text", "--format", "onnx"), MISSING, "pip install 'edgellm[onnx]'")


@pytest.mark.parametrize("kind", ["file", "below a file"])
def test_a_cache_that_can_not_be_made(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv("EDGELLM_CACHE", str(place / "eval.tsv" / ("x" if kind == "below a file" else "")))
    expect(call(capsys, "build", "model", "--target", "linux-arm64"), DEVICE, "eval.tsv")


DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty golden file": lambda b: (b / "golden.jsonl").write_text(""),
    "tokenizer of another kind": lambda b: (b / "tokenizer.json").write_text("{}"),
    "no model": lambda b: (b / "model-fp32.onnx").write_bytes(b"no model"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_bundle_whose_files_are_wrong_although_their_hashes_are_right(
    place: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    DAMAGES[name](place / "good")
    reseal(place / "good")
    expect(call(capsys, "verify", "good"), BUNDLE, "")


def test_an_error_inside_edgellm_keeps_its_traceback_in_a_file(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken() -> list[str]:
        raise RuntimeError("a bug")

    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("edgellm.targets.target_names", broken)
    done = call(capsys, "targets")
    expect(done, INTERNAL, "Internal error: RuntimeError: a bug The traceback is in ")
    (log,) = tmp_path.glob("edgellm-*.log")
    assert str(log) in done.err
    assert 'raise RuntimeError("a bug")' in log.read_text()


def test_an_interrupt_is_no_error_of_ours(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("edgellm.targets.target_names", interrupted)
    assert call(capsys, "targets").code == 130


def test_a_reader_that_goes_away_is_no_error_of_ours(place: Path) -> None:
    command = [sys.executable, "-P", "-m", "edgellm", "inspect", "good", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert process.returncode != INTERNAL


def test_the_entry_point_of_the_package_is_this_one() -> None:
    assert entry.main.__module__ == "edgellm.cli.main"
