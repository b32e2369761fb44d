"""The real model on two emulated Arm CPUs: its verdict and its cost, from raw text, in three formats."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgellm.runtime import Bundle
from tests.docs import ROOT, commands, lay_out, run, shape
from tests.integration.conftest import edgellm
from tests.tiny import reseal

pytestmark = pytest.mark.arm

FORMATS = ("executorch", "onnx", "tflite")
CPUS = ("emulator:cortex-a72", "emulator:cortex-a76")
CASES = 8


@pytest.fixture(scope="module")
def verified(minilm: Bundle) -> list[dict[str, object]]:
    """What `edgellm verify --json` says about both CPUs."""
    devices = [word for name in CPUS for word in ("--device", name)]
    done = edgellm("verify", str(minilm.path), *devices, "--cases", str(CASES), "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["ok"]
    found: list[dict[str, object]] = report["devices"]
    return found


def test_three_formats_agree_with_fp32_and_with_the_build_host(verified: list[dict[str, object]]) -> None:
    assert [each["device"] for each in verified] == list(CPUS)
    for each in verified:
        assert each["emulated"]
        artifacts: list[dict[str, dict[str, object]]] = each["artifacts"]  # type: ignore[assignment]
        assert {item["format"] for item in artifacts} == set(FORMATS)  # type: ignore[type-var]
        for item in artifacts:
            agreement, host = item["agreement"], item["against"]["host"]
            assert (agreement["n"], agreement["device"]) == (CASES, each["device"])
            assert agreement["mean"] >= 0.99, item  # type: ignore[operator]
            assert agreement["min"] >= 0.975, item  # type: ignore[operator]
            assert host["mean"] >= (0.999 if item["format"] != "onnx" else 0.995), item  # type: ignore[operator]


def test_executorch_ran_in_the_native_runner(verified: list[dict[str, object]]) -> None:
    engines = {item["format"]: item["engine"] for item in verified[0]["artifacts"]}  # type: ignore[attr-defined]
    assert engines["executorch"].startswith("edgellm-runner ")
    assert engines["onnx"].startswith("onnxruntime ")
    assert engines["tflite"].startswith("ai-edge-litert ")


def test_a_kernel_that_differs_between_the_cpus_shows(verified: list[dict[str, object]]) -> None:
    scores = [
        {item["format"]: item["against"][other]["mean"] for item in each["artifacts"]}  # type: ignore[attr-defined]
        for each, other in zip(verified, reversed(CPUS), strict=True)
    ]
    assert scores[0] == pytest.approx(scores[1])
    assert any(score < 1 for score in scores[0].values()), "A72 has no dot product and takes other int8 kernels"


def test_the_reports_are_kept_outside_of_the_manifest(minilm: Bundle, verified: list[dict[str, object]]) -> None:
    for each in verified:
        path = minilm.path / "reports" / f"verify-{str(each['device']).replace(':', '-')}.json"
        report = json.loads(path.read_text(encoding="utf-8"))
        assert report["artifacts"] == each["artifacts"]
        assert (report["emulated"], report["device"]) == (True, each["device"])
    minilm.use_all()


def counted(*bundles: Bundle, tokens: int) -> tuple[dict[str, dict[str, object]], str]:
    """Return the record of each artifact on a Cortex-A76, and all that was printed."""
    done = edgellm("bench", *(str(b.path) for b in bundles), "--device", CPUS[1], "--tokens", str(tokens), "--json")
    assert done.returncode == 0, done.stderr
    return {record["id"]: record for record in json.loads(done.stdout)["records"]}, done.stdout


def test_instructions_are_counted_and_repeat_and_nothing_is_timed(minilm: Bundle) -> None:
    records, printed = counted(minilm, tokens=16)
    again, _ = counted(minilm, tokens=16)
    assert {record["format"] for record in records.values()} == set(FORMATS)
    for name, record in records.items():
        assert again[name]["instructions"] == pytest.approx(record["instructions"], rel=0.005)
    for record in records.values():
        assert set(record) == {"id", "format", "scheme", "tokens", "cpu", "instructions", "of_fp32"}
        assert (record["tokens"], record["cpu"]) == (16, "cortex-a76")
        # 16 tokens are 170 M multiplications; sdot does 16 of them, and nothing could do more than 32.
        assert 5e6 < record["instructions"] < 100e6  # type: ignore[operator]
    assert "_ms" not in printed
    assert "latency" not in printed


def test_one_perturbed_weight_fails_and_names_the_text(minilm: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(minilm.path, folder, ignore=shutil.ignore_patterns("reports"))
    path = folder / minilm.artifact("onnx").file
    model = onnx.load(str(path))
    weight = next(
        item
        for item in model.graph.initializer
        if item.data_type == onnx.TensorProto.INT8 and len(item.dims) == 2 and item.dims[0] != item.dims[1] < 30000
    )
    weight.CopyFrom(numpy_helper.from_array(-np.asarray(numpy_helper.to_array(weight)), weight.name))
    onnx.save(model, str(path))
    reseal(folder)
    done = edgellm("verify", str(folder), "--device", CPUS[0], "--format", "onnx", "--cases", "4")
    assert done.returncode == 5, done.stdout
    assert "FAILED" in done.stdout
    assert "Worst of all: onnx on " in done.stdout
    report = json.loads((folder / "reports" / "verify-emulator-cortex-a72.json").read_text(encoding="utf-8"))
    assert not report["ok"]


def test_saturating_activations_per_tensor_fail(minilm: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(minilm.path, folder, ignore=shutil.ignore_patterns("reports"))
    path = folder / minilm.artifact("onnx").file
    model = onnx.load(str(path))
    # Each activation is cut at a bound that is too small for it, as a badly calibrated scale does.
    model.graph.initializer.append(numpy_helper.from_array(np.float32(-0.5), "low"))
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0.5), "high"))
    nodes = []
    for node in model.graph.node:
        if node.op_type == "DynamicQuantizeLinear":
            name = f"{node.name}.clipped"
            nodes.append(onnx.helper.make_node("Clip", [node.input[0], "low", "high"], [name], name=name))
            node.input[0] = name
        nodes.append(node)
    assert len(nodes) > len(model.graph.node)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    onnx.save(model, str(path))
    reseal(folder)
    done = edgellm("verify", str(folder), "--device", CPUS[1], "--format", "onnx", "--cases", "4", "--json")
    assert done.returncode == 5, done.stdout
    (verdict,) = json.loads(done.stdout)["artifacts"]
    assert verdict["agreement"]["mean"] < 0.99
    assert verdict["against"]["host"]["mean"] > 0.99, "the file is wrong, and not the CPU"


def test_what_the_readme_says_about_emulated_devices(minilm: Bundle, tmp_path: Path) -> None:
    lay_out(tmp_path, minilm.path)
    found = commands((ROOT / "README.md").read_text(encoding="utf-8"), emulator=True)
    assert found
    for command in found:
        assert shape(run(command.line, tmp_path)) == shape(command.output), f"$ {command.line}"


@pytest.mark.full
def test_int8_takes_a_good_third_of_the_instructions_of_fp32(minilm: Bundle, tmp_path: Path) -> None:
    done = edgellm("build", "--target", "android-arm64", "--scheme", "fp32", "--out", str(tmp_path / "fp32"), "--quiet")
    assert done.returncode == 0, done.stderr
    records, _ = counted(minilm, Bundle.open(tmp_path / "fp32"), tokens=64)
    shares = {r["format"]: r["of_fp32"] for r in records.values() if r["scheme"] == "int8-dynamic"}
    # `make bench-arm` prints .369, .424 and .364.
    assert shares["executorch"] < 0.38  # type: ignore[operator]
    assert shares["onnx"] < 0.45  # type: ignore[operator]
    assert shares["tflite"] < 0.38  # type: ignore[operator]


@pytest.mark.full
def test_a_build_gates_on_the_devices_of_its_target(tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    done = edgellm("build", "--target", "raspberry-pi-4", "--verify-on-device", "--out", str(out), "--json")
    assert done.returncode == 0, done.stderr
    (device,) = json.loads(done.stdout)["devices"]
    assert (device["device"], device["emulated"], device["ok"]) == (CPUS[0], True, True)
    assert all(item["agreement"]["n"] == 96 and item["agreement"]["min"] >= 0.975 for item in device["artifacts"])
    assert (out / "reports" / "verify-emulator-cortex-a72.json").is_file()
