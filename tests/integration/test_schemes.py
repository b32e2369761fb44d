"""Each scheme through a whole build of a small model: what can be expressed ships, and says what it is."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from edgellm.runtime import Bundle
from tests.integration.conftest import edgellm

Model = Callable[[str], Path]

BITS = {"fp16": 16, "int4-dynamic": 4, "int4-weight-only": 4}


def built(folder: Path, out: Path, *options: str) -> Bundle:
    done = edgellm("build", str(folder), "--target", "linux-x86_64", "--out", str(out), "--quiet", *options)
    assert done.returncode == 0, done.stderr
    return Bundle.open(out)


@pytest.mark.parametrize(
    ("scheme", "formats"),
    [
        pytest.param("fp16", ("executorch", "onnx", "tflite"), marks=pytest.mark.full),
        pytest.param("int4-dynamic", ("executorch", "onnx", "tflite"), marks=pytest.mark.full),
        pytest.param("int4-weight-only", ("onnx", "tflite"), marks=pytest.mark.full),
    ],
)
def test_a_scheme_ships_in_every_format_that_can_express_it(
    scheme: str, formats: tuple[str, ...], model: Model, tmp_path: Path
) -> None:
    asked = [part for fmt in formats for part in ("--format", fmt)]
    manifest = built(
        model("wordy"), tmp_path / "b", "--scheme", scheme, "--min-agreement", "0.9", "--seq-len", "16,32", *asked
    ).manifest
    assert sorted(artifact.format for artifact in manifest.artifacts) == list(formats)
    for artifact in manifest.artifacts:
        assert artifact.scheme == scheme
        assert artifact.agreement.mean > (0.9999 if scheme == "fp16" else 0.95)
        weights = sum(part.bytes for part in artifact.contents if part.kind != "graph and metadata")
        # Scales, and tables of few rows, are beside the weights.
        assert weights < 1.4 * manifest.model.parameters * BITS[scheme] / 8, (artifact.id, artifact.contents)
    assert (manifest.calibration is not None) == (scheme != "fp16")
    assert any("unpacks the int4 weights" in note for note in manifest.notes) == (scheme == "int4-weight-only")


def test_layers_have_schemes_of_their_own(model: Model, tmp_path: Path) -> None:
    """A model whose feed-forward 8 bits ruin ships with that in fp32."""
    layers = tmp_path / "layers.toml"
    layers.write_text(
        'default = "int8-dynamic"\n[layers]\n"model.encoder.layer.*.attention.self.key" = "int8-static"\n'
        '"model.embeddings.word_embeddings" = "int4-dynamic"\n"model.encoder.layer.*.output.dense" = "fp32"\n'
        '"model.encoder.layer.*.attention.output.dense" = "int4-dynamic"\n'
    )
    manifest = built(
        model("collapsing"), tmp_path / "b", "--scheme", "mixed", "--layers", str(layers), "--min-agreement", "0.95",
        "--seq-len", "16,32",
    ).manifest  # fmt: skip
    assert {artifact.id for artifact in manifest.artifacts} == {"executorch-mixed", "onnx-mixed", "tflite-mixed"}
    assert manifest.calibration is not None
    assert manifest.calibration.ranges == "mse"
    for fmt in ("executorch", "onnx", "tflite"):
        (note,) = (
            each for each in manifest.notes if each.startswith(f"4-bit weights of {fmt} were fitted at 2 layers: ")
        )
        assert 0 < int(re.findall(r"costs (\d+)% of the squared error", note)[0]) < 100
    sizes = {artifact.format: artifact.bytes for artifact in manifest.artifacts}
    whole = built(
        model("collapsing"), tmp_path / "w", "--scheme", "fp32", "--format", "onnx", "--seq-len", "16,32"
    ).manifest
    assert sizes["onnx"] < 0.7 * whole.artifacts[0].bytes


@pytest.mark.full
def test_what_is_fitted_is_said_and_can_be_left_out(model: Model, tmp_path: Path) -> None:
    bundles = {}
    for name, more in (("fitted", []), ("nearest", ["--no-fit"])):
        done = edgellm(
            "build", str(model("wordy")), "--target", "linux-x86_64", "--format", "onnx", "--scheme", "int4-dynamic",
            "--min-agreement", "0", "--seq-len", "16,32", "--out", str(tmp_path / name), *more,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        manifest = Bundle.open(tmp_path / name).manifest
        assert ("\n4-bit weights of onnx were fitted at " in done.stdout) == (name == "fitted")
        assert ("Tuned on edgellm's own 96 texts" in done.stdout) == (name == "fitted")
        assert (manifest.calibration is None, manifest.notes == ()) == (name == "nearest",) * 2
        bundles[name] = manifest.artifacts[0]
    assert bundles["fitted"].bytes == bundles["nearest"].bytes
    assert bundles["fitted"].agreement.mean > bundles["nearest"].agreement.mean


@pytest.mark.parametrize(
    ("layers", "options", "message"),
    [
        ('default = "fp32"\n[layers]\n"model.encoder.layer.0.qeury" = "int8-dynamic"', ["--scheme", "mixed"],
         "The model has no layer 'model.encoder.layer.0.qeury'. Did you mean 'model.encoder.layer.0."),
        ('default = "int4-weight-only"', ["--scheme", "mixed"], "executorch can't express int4-weight-only"),
        ('default = "fp32"', ["--scheme", "int8-dynamic"], "--layers has no use with --scheme int8-dynamic. Use --sch"),
    ],
)  # fmt: skip
def test_layers_that_cant_be_are_refused(
    layers: str, options: list[str], message: str, model: Model, tmp_path: Path
) -> None:
    file = tmp_path / "layers.toml"
    file.write_text(layers)
    done = edgellm(
        "build", str(model("encoder")), "--target", "linux-x86_64", "--out", str(tmp_path / "b"), "--layers", str(file),
        *options,
    )  # fmt: skip
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    "scheme",
    [
        "int8-dynamic",
        pytest.param("int8-static", marks=pytest.mark.full),
        pytest.param("int4-dynamic", marks=pytest.mark.full),
    ],
)
def test_a_channel_a_hundred_times_as_large_never_ruins_a_bundle_silently(
    scheme: str, model: Model, tmp_path: Path
) -> None:
    """Equalization saves the model, or the gate stops it."""
    out = tmp_path / "b"
    done = edgellm(
        "build", str(model("spike")), "--target", "linux-x86_64", "--scheme", scheme, "--seq-len", "16,32",
        "--out", str(out),
    )  # fmt: skip
    if done.returncode == 0:
        assert all(artifact.agreement.mean >= 0.99 for artifact in Bundle.open(out).manifest.artifacts)
    else:
        assert done.returncode == 5
        assert f"{scheme} agrees with the fp32 model by 0." in done.stderr
        assert not out.exists()
