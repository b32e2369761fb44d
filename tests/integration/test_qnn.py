"""Qualcomm's NPU: small models compiled for one SoC, and run by the vendor's emulation."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from edgellm.abi.artifacts import examine_artifact
from edgellm.abi.qnn import NODE
from edgellm.runtime import Bundle, Session
from edgellm.targets import load_target

from .conftest import edgellm

pytestmark = pytest.mark.integration
Model = Callable[[str], Path]
# The classifier decides at random, so that its int8 artifact may flip more of what is as good as undecided.
COMMON = ("--seq-len", "16,32", "--min-agreement", "0.95", "--quiet", "--out")


@pytest.fixture(scope="module")
def classifier(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    out = tmp_path_factory.mktemp("qnn") / "bundle"
    done = edgellm("build", str(model("classifier")), "--target", "snapdragon-8-gen3", *COMMON, str(out))
    assert done.returncode == 0, done.stderr
    return Bundle.open(out)


def test_each_length_is_one_node_that_the_npu_runs_whole(classifier: Bundle) -> None:
    artifact, portable = classifier.manifest.artifacts
    assert (artifact.id, artifact.delegate, artifact.signature.buckets) == ("qnn-a16w8", "htp", (16, 32))
    assert artifact.files == ("model-a16w8-16.onnx", "model-a16w8-32.onnx")
    assert artifact.bytes == sum(classifier.use(name).stat().st_size for name in artifact.files)
    for name in artifact.files:
        assert [node.op_type for node in onnx.load(classifier.use(name)).graph.node] == [NODE]
    # With the fit's threads its last bits change, and 0 to 3 of 288 texts that are as good as undecided flip.
    assert artifact.agreement.mean >= 0.98
    assert "emulation" in artifact.agreement.device
    assert (portable.id, portable.delegate) == ("onnx-int8-dynamic", "cpu")
    assert any(note.startswith("8-bit weights of qnn were fitted at ") for note in classifier.manifest.notes)
    assert "emulation" not in portable.agreement.device


def test_a_session_says_which_artifact_answers(classifier: Bundle) -> None:
    text = "A calm and clear morning."
    here = Session.open(classifier.path)(text)
    assert here.format == "onnx"  # the NPU is only emulated on this machine
    there = Session.open(classifier.path, format="qnn")(text)
    assert there.format == "qnn"
    labels = [value[0]["label"] for value in (here.value, there.value)]  # type: ignore[index]
    assert labels[0] == labels[1]


def test_an_emulated_npu_has_no_latency(classifier: Bundle) -> None:
    done = edgellm("bench", str(classifier.path), "--format", "qnn")
    assert done.returncode == 2
    assert "qnn is not run by the hardware that it is for on this machine" in done.stderr
    done = edgellm("bench", str(classifier.path), "--runs", "2", "--tokens", "16")
    assert done.returncode == 0, done.stderr
    assert "qnn" not in done.stdout.split("engines")[0]


def test_a_context_binary_for_another_soc_is_caught(classifier: Bundle, tmp_path: Path) -> None:
    path = classifier.path / classifier.manifest.artifacts[0].file
    findings = examine_artifact(path, "qnn", load_target("snapdragon-8-gen2"))
    assert [f.rule for f in findings if f.level == "error"] == ["SoC"]
    assert "compiled for SoC 57; snapdragon-8-gen2 is SoC 43" in findings[-1].message
    assert not [f for f in examine_artifact(path, "qnn", load_target("snapdragon-8-gen3")) if f.level != "ok"]
    done = edgellm("doctor", str(classifier.path), "--target", "snapdragon-8-gen2")
    assert done.returncode == 6, done.stdout
    assert "compiled for SoC 57" in done.stdout + done.stderr


def test_a_damaged_context_binary_is_an_error_and_no_crash(classifier: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    shutil.copyfile(classifier.path / classifier.manifest.artifacts[0].file, path)
    model = onnx.load(path)
    (cache,) = [a for a in model.graph.node[0].attribute if a.name == "ep_cache_context"]
    cache.s = cache.s[:100] + b"\xff" * 400 + cache.s[500:]
    onnx.save(model, path)
    findings = examine_artifact(path, "qnn", load_target("snapdragon-8-gen3"))
    assert [(f.rule, f.level) for f in findings] == [("readable", "error")]


def test_eight_bits_on_the_npu(model: Model, tmp_path: Path) -> None:
    done = edgellm(
        "build", str(model("encoder")), "--target", "snapdragon-8-elite", "--format", "qnn", "--scheme", "int8-static",
        "--no-fit", *COMMON, str(tmp_path / "bundle"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    manifest = Bundle.open(tmp_path / "bundle").manifest
    (artifact,) = manifest.artifacts
    assert (artifact.scheme, artifact.session_options) == ("int8-static", {"htp_arch": "79", "soc_model": "69"})
    assert manifest.calibration is not None, "its ranges are calibrated all the same"
    assert not any("fitted" in note for note in manifest.notes)


def test_an_operator_that_the_npu_does_not_take_fails_the_build(model: Model, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import torch\nfrom transformers import AutoModel\n"
        "class Odd(torch.nn.Module):\n"
        "    def __init__(self):\n"
        f"        super().__init__(); self.inner = AutoModel.from_pretrained({str(model('encoder'))!r}, "
        "add_pooling_layer=False)\n"
        "        self.config = self.inner.config\n"
        "    def forward(self, input_ids, attention_mask, token_type_ids):\n"
        "        out = self.inner(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)\n"
        "        out.last_hidden_state = torch.atanh(out.last_hidden_state * 1e-3) * 1e3\n        return out\n"
        "def odd():\n    return Odd().eval()\n"
    )
    done = edgellm(
        "build", "mine:odd", "--target", "snapdragon-8-gen3", "--task", "feature-extraction", "--tokenizer",
        str(model("encoder")), "--format", "qnn", *COMMON, str(tmp_path / "bundle"), cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 5, done.stderr
    assert "1 Atanh (the QNN provider does not run it on the HTP)" in done.stderr
    assert not (tmp_path / "bundle").exists()
