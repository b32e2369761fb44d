"""Arm Ethos-U with the real converter and the real compiler: small models, and MiniLM in the full run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgellm.runtime import Bundle

from .conftest import ROOT, edgellm

pytestmark = pytest.mark.integration

AT_THE_BORDER = {"CAST", "DEQUANTIZE", "EMBEDDING_LOOKUP", "QUANTIZE", "SQUEEZE"}


def run(*command: str) -> list[Any]:
    """Return the JSON lines that a module prints."""
    done = subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, text=True, check=False, cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_an_operator_that_no_npu_takes_fails_the_build() -> None:
    (error,) = run("tests.ethos_u", "cumsum")
    assert error["kind"] == "GateError"
    assert "does not take 1 of" in error["message"]
    assert "CUMSUM: Unsupported opType" in error["message"]


def test_an_operator_that_tflite_lacks_is_named() -> None:
    (error,) = run("tests.ethos_u", "erfinv")
    assert error["kind"] == "InputError"
    assert "aten.erfinv" in error["message"]


def test_a_small_model_has_a_reference_beside_what_was_compiled() -> None:
    (made,) = run("tests.ethos_u", "plain")
    assert made["files"] == ["model-a16w8.tflite", "model-a16w8_vela.tflite"]
    assert made["reference"] == "model-a16w8.tflite"
    assert set(made["cpu"]) <= AT_THE_BORDER
    assert made["partitions"] == 1
    (linear,) = made["linears"]
    assert (linear["bytes"], linear["bias"]) == ([2, 2], True)
    assert made["agreement"] > 0.999


@pytest.mark.parametrize(
    "accelerator",
    ["ethos-u85-512", *(pytest.param(name, marks=pytest.mark.full) for name in ("ethos-u55-128", "ethos-u65-256"))],
)
def test_a_linear_may_have_bytes_where_all_else_has_16_bits(accelerator: str) -> None:
    (made,) = run("tests.ethos_u", "narrow", accelerator)
    assert made["files"] == ["model-mixed.tflite", "model-mixed_vela.tflite"]
    (linear,) = made["linears"]
    assert (linear["bytes"], linear["bias"]) == ([1, 1], True)
    assert linear["read"] == pytest.approx(1, rel=1e-3), "the range that was chosen, not that of all that was seen"
    assert made["agreement"] > 0.99
    assert set(made["cpu"]) <= AT_THE_BORDER
    assert made["partitions"] == 1


@pytest.mark.parametrize(
    "accelerator",
    ["ethos-u85-512", *(pytest.param(name, marks=pytest.mark.full) for name in ("ethos-u55-128", "ethos-u65-256"))],
)
def test_a_bert_of_random_weights_runs_on_the_npu_and_agrees(model: Callable[[str], Path], accelerator: str) -> None:
    (found,) = run(
        "tests.figures.ethos_u", "--model", str(model("wordy")), "--accelerator", accelerator, "--tokens", "32",
        "--texts", "20", "--json",
    )  # fmt: skip
    assert set(found["cpu_operators"]) <= AT_THE_BORDER
    assert found["npu_operators"] > 100
    assert found["partitions"] == 1
    assert found["sram_bytes"] > 0
    assert found["estimated_ms"] > 0
    assert found["mean"] > 0.99


@pytest.mark.full
def test_minilm_on_ethos_u85_agrees() -> None:
    (found,) = run("tests.figures.ethos_u", "--accelerator", "ethos-u85-512", "--json")
    assert found["texts"] == 50
    assert found["mean"] >= 0.97
    assert set(found["cpu_operators"]) <= AT_THE_BORDER


def test_a_build_ships_the_reference_that_was_gated_beside_what_vela_compiled(
    model: Callable[[str], Path], tmp_path: Path
) -> None:
    run("tests.ethos_u", "plain")  # sets Vela up
    done = edgellm(
        "build",
        str(model("encoder")),
        "--target",
        "ethos-u85-512",
        "--seq-len",
        "16",
        "--quiet",
        "--out",
        str(tmp_path / "b"),
    )
    assert done.returncode == 0, done.stderr
    bundle = Bundle.open(tmp_path / "b")
    (artifact,) = bundle.manifest.artifacts
    assert (artifact.deployed, artifact.reference) == (("model-a16w8_vela.tflite",), "model-a16w8.tflite")
    assert artifact.agreement is not None
    assert artifact.agreement.device.startswith("model-a16w8.tflite, which has the same integers, on host")
    assert artifact.npu is not None
    assert artifact.npu.estimated_ms > 0
    done = edgellm("run", str(bundle.path), "hello")
    assert "not the ethos-u itself, but what stands for it here" in done.stdout
    done = edgellm("bench", str(bundle.path))
    assert (done.returncode, "has no latency here" in done.stderr) == (2, True)
    done = edgellm("inspect", str(bundle.path))
    assert "estimated by Vela" in done.stdout
