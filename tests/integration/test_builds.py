"""Builds of small models: what a build must hold when things differ, or go wrong."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgellm.core.evaluation import Drop
from edgellm.runtime import Bundle, Session

from .conftest import ROOT, edgellm

pytestmark = pytest.mark.integration
Model = Callable[[str], Path]


@pytest.fixture(scope="module")
def encoder(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    out = tmp_path_factory.mktemp("encoder") / "bundle"
    done = edgellm(
        "build", str(model("encoder")), "--target", "linux-x86_64", "--no-cache", "--out", str(out), "--quiet"
    )
    assert done.returncode == 0, done.stderr
    return Bundle.open(out)


def test_two_builds_without_the_cache_give_the_same_bytes(encoder: Bundle, model: Model, tmp_path: Path) -> None:
    out = tmp_path / "twice"
    done = edgellm(
        "build", str(model("encoder")), "--target", "linux-x86_64", "--no-cache", "--out", str(out), "--quiet"
    )
    assert done.returncode == 0, done.stderr
    assert (out / "manifest.json").read_bytes() == (encoder.path / "manifest.json").read_bytes()


def test_the_longest_text_is_the_models_own_limit(encoder: Bundle) -> None:
    assert encoder.manifest.max_tokens == 64  # max_position_embeddings of the small model
    assert {a.signature.buckets for a in encoder.manifest.artifacts if a.format == "tflite"} == {(16, 32, 64)}


def test_an_accuracy_collapse_fails_the_build_and_leaves_nothing(model: Model, encoder: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    shutil.copytree(encoder.path, out)
    done = edgellm("build", str(model("collapsing")), "--target", "linux-x86_64", "--out", str(out))
    assert done.returncode == 5
    assert "onnx int8-dynamic agrees with the fp32 model by 0." in done.stderr
    assert "the gate is 0.99" in done.stderr
    assert "worst" in done.stderr
    assert "--scheme int8-weight-only" in done.stderr
    assert "not with the source" in done.stderr
    assert "Traceback" not in done.stderr
    assert (out / "manifest.json").read_bytes() == (encoder.path / "manifest.json").read_bytes()
    assert os.listdir(tmp_path) == ["bundle"]


def test_what_collapses_in_8_bit_activations_ships_with_8_bit_weights(model: Model, tmp_path: Path) -> None:
    done = edgellm(
        "build", str(model("collapsing")), "--target", "linux-x86_64", "--scheme", "int8-weight-only",
        "--format", "onnx", "--format", "tflite", "--out", str(tmp_path / "b"), "--quiet",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert all(a.agreement.min > 0.99 for a in Bundle.open(tmp_path / "b").manifest.artifacts)


def test_static_ranges_bear_a_channel_that_sticks_out(model: Model, tmp_path: Path) -> None:
    done = edgellm(
        "build",
        str(model("spike")),
        "--target",
        "linux-x86_64",
        "--scheme",
        "int8-static",
        "--out",
        str(tmp_path / "b"),
    )
    assert done.returncode == 0, done.stderr
    manifest = Bundle.open(tmp_path / "b").manifest
    assert {(a.format, a.scheme) for a in manifest.artifacts} == {
        (fmt, "int8-static") for fmt in ("executorch", "onnx", "tflite")
    }
    assert manifest.calibration is not None
    assert (manifest.calibration.texts, manifest.calibration.own, manifest.calibration.ranges) == (96, False, "mse")
    assert "Tuned on edgellm's own 96 texts; --calibration takes texts of your domain." in done.stdout
    assert all("were equalized at" in note for note in manifest.notes)
    # A quarter of fp32 and the graph: nothing of a size stayed fp32.
    parameters = manifest.model.parameters
    for artifact in manifest.artifacts:
        weights = sum(part.bytes for part in artifact.contents if part.kind != "graph and metadata")
        assert weights < 1.3 * parameters, (artifact.id, artifact.contents)


def test_calibration_texts_of_another_domain_are_noted(model: Model, tmp_path: Path) -> None:
    own = tmp_path / "own.txt"
    own.write_text("a\nb\nc\n")
    done = edgellm(
        "build", str(model("encoder")), "--target", "linux-x86_64", "--scheme", "int8-static", "--format", "onnx",
        "--calibration", str(own), "--ranges", "minmax", "--min-agreement", "0.5", "--out", str(tmp_path / "b"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    notes = Bundle.open(tmp_path / "b").manifest.notes
    (note,) = (each for each in notes if each.startswith("The calibration texts are unlike the golden texts: "))
    assert note in " ".join(done.stdout.split("\n"))


def test_a_pruned_checkpoint_loads_like_any_other(model: Model, tmp_path: Path) -> None:
    done = edgellm(
        "build", str(model("pruned")), "--target", "linux-x86_64", "--scheme", "fp32", "--format", "onnx",
        "--out", str(tmp_path / "b"), "--quiet",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    manifest = Bundle.open(tmp_path / "b").manifest
    assert manifest.artifacts[0].agreement.min > 0.999999
    full = json.loads((model("encoder") / "config.json").read_text())
    assert full == json.loads((model("pruned") / "config.json").read_text()), "the configuration does not say it"


def test_attention_that_cant_be_replaced_is_said_and_its_mask_made_finite(model: Model, tmp_path: Path) -> None:
    out = tmp_path / "b"
    done = edgellm(
        "build", str(model("own-attention")), "--target", "linux-x86_64", "--scheme", "fp32", "--format", "onnx",
        "--format", "tflite", "--out", str(out),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    note = "The attention was not rewritten (DebertaV2Model does not use the attention interface), which costs speed."
    assert Bundle.open(out).manifest.notes == (note,)
    assert note in done.stdout
    assert note in (out / "README.md").read_text(encoding="utf-8")
    # The lowest float is 0xff7fffff; its bytes would be in the file as a constant or an attribute.
    for artifact in Bundle.open(out).manifest.artifacts:
        assert b"\xff\xff\x7f\xff" not in (out / artifact.file).read_bytes(), artifact.file


def test_a_classifier_gives_the_pipelines_answers(model: Model, tmp_path: Path) -> None:
    texts = ["It works, and I like it.", "Broken on arrival 😡", "", "une phrase en français"]
    labelled = tmp_path / "dev.tsv"
    labelled.write_text('text\tlabel\nThis lamp hums all night.\tsad\nWhat a "lovely" walk!\tglad\n', encoding="utf-8")
    done = edgellm(
        "build", str(model("classifier")), "--target", "linux-x86_64", "--scheme", "fp32", "--format", "onnx",
        "--eval", str(labelled), "--out", str(tmp_path / "b"), "--quiet",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    bundle = Bundle.open(tmp_path / "b")
    assert bundle.manifest.task == "text-classification"
    assert bundle.manifest.artifacts[0].agreement.n >= 256
    evaluation = bundle.manifest.artifacts[0].evaluation
    assert evaluation is not None
    assert (evaluation.metric, evaluation.n, evaluation.source) == ("accuracy", 2, evaluation.value)
    assert list(evaluation.metrics) == ["accuracy", "macro-F1"]
    assert (evaluation.drop, evaluation.flipped, evaluation.mcnemar_p) == (Drop(0, 0, 0), 0, 1.0)
    assert f"2 texts): {evaluation.drop}" in (tmp_path / "b" / "README.md").read_text(encoding="utf-8")
    script = (
        "import json, sys\n"
        "from transformers import pipeline\n"
        f"p = pipeline('text-classification', model={str(model('classifier'))!r}, top_k=None, device='cpu')\n"
        "print(json.dumps(p(json.loads(sys.stdin.read()))))\n"
    )
    oracle = subprocess.run(
        [sys.executable, "-c", script], input=json.dumps(texts), capture_output=True, text=True, check=True
    )
    ours = Session.open(bundle)(texts)
    for expected, result in zip(json.loads(oracle.stdout.splitlines()[-1]), ours, strict=True):
        got = result.value
        assert [item["label"] for item in got] == [item["label"] for item in expected]  # type: ignore[attr-defined]
        for a, b in zip(got, expected, strict=True):  # type: ignore[call-overload]
            assert a["score"] == pytest.approx(b["score"], abs=1e-4)


def test_labels_that_the_model_does_not_know_are_refused(model: Model, tmp_path: Path) -> None:
    labelled = tmp_path / "dev.tsv"
    labelled.write_text("text\tlabel\nThis lamp hums all night.\tfurious\n", encoding="utf-8")
    done = edgellm(
        "build", str(model("classifier")), "--target", "linux-x86_64", "--scheme", "fp32", "--format", "onnx",
        "--eval", str(labelled), "--out", str(tmp_path / "b"),
    )  # fmt: skip
    assert done.returncode == 3
    assert "furious" in done.stderr
    assert not (tmp_path / "b").exists()


def test_a_checkpoint_without_a_head_is_no_classifier(model: Model, tmp_path: Path) -> None:
    done = edgellm(
        "build", str(model("encoder")), "--target", "linux-x86_64", "--task", "text-classification", "--format", "onnx",
        "--out", str(tmp_path / "b"),
    )  # fmt: skip
    assert done.returncode == 3
    assert "classifier" in done.stderr
    assert "random" in done.stderr


def test_a_function_builds_from_the_folder_it_lies_in(model: Model, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from transformers import AutoModel\n"
        f"def tiny():\n    return AutoModel.from_pretrained({str(model('encoder'))!r}, add_pooling_layer=False)\n"
        "def broken():\n    return 7\n"
    )
    common = ["--target", "linux-x86_64", "--task", "feature-extraction", "--tokenizer", str(model("encoder"))]
    done = edgellm("build", "mine:tiny", *common, "--scheme", "fp32", "--format", "onnx", "--quiet", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    manifest = Bundle.open(tmp_path / "tiny-linux-x86_64").manifest
    assert manifest.artifacts[0].agreement.min > 0.9999
    done = edgellm("build", "mine:broken", *common, cwd=tmp_path)
    assert done.returncode == 3
    assert "returned int, not an nn.Module" in done.stderr


def test_a_killed_build_leaves_no_bundle_and_the_next_one_goes_on(model: Model, tmp_path: Path) -> None:
    env = {**os.environ, "EDGELLM_CACHE": str(tmp_path / "cache")}
    command = ["build", str(model("encoder")), "--target", "linux-x86_64", "--format", "onnx", "--format", "tflite"]
    command += ["--out", str(tmp_path / "out" / "b")]
    process = subprocess.Popen(
        [sys.executable, "-m", "edgellm", *command], env=env, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stderr is not None
    for line in process.stderr:  # until the first artifact is kept
        if line.startswith("lower "):
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()
    assert not (tmp_path / "out").exists()
    time.sleep(1)  # the jobs notice that their parent is gone
    done = edgellm(*command, env=env)
    assert done.returncode == 0, done.stderr
    assert "cached" in done.stderr
    assert os.listdir(tmp_path / "out") == ["b"]
    assert not any((tmp_path / "cache" / "tmp").iterdir())


def test_two_builds_at_once_share_the_work(model: Model, tmp_path: Path) -> None:
    env = {**os.environ, "EDGELLM_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "edgellm", "build", str(model("encoder")), "--target", "linux-x86_64"]
    command += ["--format", "onnx", "--scheme", "fp32", "--out"]
    pair = [
        subprocess.Popen([*command, str(tmp_path / name)], env=env, stderr=subprocess.PIPE, text=True) for name in "ab"
    ]
    errors = [process.communicate()[1] for process in pair]
    assert [process.returncode for process in pair] == [0, 0], errors
    assert (tmp_path / "a" / "manifest.json").read_bytes() == (tmp_path / "b" / "manifest.json").read_bytes()
    assert sum("lower onnx         cached" in text for text in errors) == 1, errors


def test_numbers_of_a_bundle_are_the_fp32_models(encoder: Bundle) -> None:
    """Padding must not leak: a short text alone and the same text after a long one get the same vector."""
    for artifact in encoder.manifest.artifacts:
        session = Session.open(encoder, format=artifact.format)
        before = session("short")
        session("a much longer text that fills a larger bucket than the other one did, by some words more")
        assert np.array_equal(before.value, session("short").value)  # type: ignore[arg-type]
